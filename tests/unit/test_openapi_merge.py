"""One OpenAPI document out of many: the routing table decides, names do not clash, references hold."""

from typing import Any

from services.gateway.described import PhotoBody, ReceiptBody
from services.gateway.openapi import merge
from services.inference.api import Photo
from services.ingest.receipts_api import ReceiptAnswer


def document(path: str, method: str, schema: str, fields: dict[str, Any]) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    operation = {"responses": {"200": {"content": {"application/json": {"schema": reference}}}}}
    return {
        "paths": {path: {method: operation}, "/internal/secret": {"get": operation}},
        "components": {"schemas": {schema: fields, "Unused": {"type": "null"}}},
    }


def test_only_routes_of_the_table_and_what_they_refer_to() -> None:
    merged = merge({"ingest": document("/v1/days/{date}", "get", "Day", {"type": "object"})})
    assert list(merged["paths"]) == ["/v1/days/{date}"]
    assert list(merged["components"]["schemas"]) == ["Day"]
    operation = merged["paths"]["/v1/days/{date}"]["get"]
    assert operation["security"] == [{"user": []}, {"partner": []}]
    assert operation["x-required-scope"] == "days:read"
    assert [(one["name"], one["required"]) for one in operation["parameters"]] == [("user", False)]


def test_what_users_cannot_grant_takes_no_user() -> None:
    merged = merge({"auth": document("/v1/me", "get", "Me", {"type": "object"})})
    operation = merged["paths"]["/v1/me"]["get"]
    assert operation["security"] == [{"user": []}]
    assert "parameters" not in operation


def test_receipts_are_described_as_their_services_answer_them() -> None:
    assert set(ReceiptBody.model_fields) == set(ReceiptAnswer.model_fields)
    assert set(PhotoBody.model_fields) == set(Photo.model_fields)


def test_a_service_describes_its_own_routes_alone() -> None:
    assert merge({"auth": document("/v1/days/{date}", "get", "Day", {})})["paths"] == {}


def test_equal_schemas_are_one_and_different_ones_two() -> None:
    merged = merge(
        {
            "ingest": document("/v1/days/{date}", "get", "Answer", {"title": "a"}),
            "insights": document("/v1/ledger/{date}", "get", "Answer", {"title": "b"}),
            "nutrition": document("/v1/diary/{date}", "get", "Answer", {"title": "a"}),
        }
    )
    schemas = merged["components"]["schemas"]
    assert schemas == {"Answer": {"title": "a"}, "InsightsAnswer": {"title": "b"}}
    ledger = merged["paths"]["/v1/ledger/{date}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert schemas[ledger["$ref"].rsplit("/", 1)[1]] == {"title": "b"}
    diary = merged["paths"]["/v1/diary/{date}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert schemas[diary["$ref"].rsplit("/", 1)[1]] == {"title": "a"}


def test_what_creates_asks_for_a_key_once() -> None:
    own = document("/v1/users", "post", "Account", {})
    own["paths"]["/v1/users"]["post"]["parameters"] = [{"name": "idempotency-key", "in": "header"}]
    parameters = merge({"auth": own})["paths"]["/v1/users"]["post"]["parameters"]
    assert [(one["name"], one["required"]) for one in parameters] == [("Idempotency-Key", True)]
