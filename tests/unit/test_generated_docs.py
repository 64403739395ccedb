"""The files made from the code: complete, the same each time, and noticed when they are old."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from infra.local import docs
from services.ingest.health_connect import PACKAGE
from services.ingest.metrics import SPORTS, STREAMS, TOTALS
from services.ingest.names import SOURCES, SPORT_NAMES, STAGE_NAMES
from services.ingest.refusals import CODES, Code
from services.ingest.units import UNITS
from shared import topics
from shared.settings import ServiceSettings


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def resolved(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


@pytest.mark.parametrize("made", docs.FILES.values(), ids=docs.FILES.keys())
def test_the_same_code_gives_the_same_bytes(made: Any) -> None:
    assert made() == made()


def test_what_is_committed_matches_the_code() -> None:
    assert docs.drift() == []


def test_drift_names_what_is_missing_or_old(tmp_path: Path) -> None:
    assert docs.drift(tmp_path) == list(docs.FILES)
    assert docs.write(tmp_path) == list(docs.FILES)
    assert docs.drift(tmp_path) == []
    (tmp_path / ".env.example").write_text("OLD=1\n")
    assert docs.drift(tmp_path) == [".env.example"]


def test_every_topic_and_dead_letter_is_in_the_event_document() -> None:
    document = json.loads(docs.asyncapi())
    assert set(document["channels"]) == {topic.name for topic in topics.TOPICS}
    assert document["channels"]["ingest.days.v1"]["x-dead-letters"]["insights"] == "ingest.days.v1.insights.dlq"
    for reference in references(document):
        assert resolved(document, reference)


def test_the_packed_batch_is_described_by_its_struct() -> None:
    document = json.loads(docs.asyncapi())
    message = document["components"]["messages"]["batch.submitted"]
    assert message["contentType"] == "application/vnd.msgpack"
    assert resolved(document, message["payload"]["$ref"])["properties"]["type"] == {"enum": ["batch.submitted"]}
    column = document["components"]["schemas"]["SeriesColumns"]["properties"]["start_us"]
    assert column == {"type": "string", "format": "binary"}


def test_the_public_document_has_every_public_route_and_resolves() -> None:
    document = json.loads(docs.openapi())
    assert {"/v1/users", "/v1/batches", "/v1/days/{date}", "/v1/insights", "/v1/webhook-endpoints", "/v1/live"} <= set(
        document["paths"]
    )
    assert not any(path.startswith("/internal") for path in document["paths"])
    for reference in references(document):
        assert resolved(document, reference)


def test_every_setting_is_in_the_example_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "1")
    lines = [line for line in docs.env_example().splitlines() if line.startswith("#") and line[1:2].isupper()]
    names = [line[1:].split("=")[0] for line in lines]
    assert len(names) == len(set(names))
    assert {name.upper() for name in ServiceSettings.model_fields} <= set(names)
    assert "#GATEWAY_PORT=8080" in lines


def test_the_example_shows_no_setting_without_a_meaning() -> None:
    assert "# None" not in docs.env_example()


def test_the_page_of_metrics_tells_of_every_name_and_every_refusal() -> None:
    page = docs.FILES["docs/metrics.md"]()
    names = [name for name in SOURCES if not name.startswith(PACKAGE)]
    for told in (*names, *SPORTS, *STAGE_NAMES, *SPORT_NAMES, *STREAMS, *TOTALS, *CODES):
        assert f"`{told}`" in page
    for unit in UNITS:
        assert all(f"`{spelling}`" in page for spelling in unit.spellings)
    assert "| mass | `lb` | `[lb_av]`, `lbs`, `pound`, `pounds` | 0.45359237 |  |" in page
    assert set(get_args(Code)) == set(CODES)
