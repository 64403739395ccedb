"""Every error is a problem document that says what to do and shows nothing of ours or of what was sent."""

import json
from collections.abc import AsyncGenerator

import httpx2
import pytest
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, field_validator

from shared import problems
from shared.errors import Problem, Unavailable
from shared.telemetry import TraceMiddleware


class Meal(BaseModel):
    grams: int
    name: str = ""

    @field_validator("name")
    @classmethod
    def plain(cls, name: str) -> str:
        if "secret" in name:
            raise ValueError(f"not {name}")
        return name


def made() -> FastAPI:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(TraceMiddleware)

    @app.post("/meals")
    async def post(meal: Meal) -> dict[str, int]:
        return {"grams": meal.grams}

    @app.put("/meals")
    async def put(meal: Meal) -> dict[str, int]:
        return {"grams": meal.grams}

    @app.get("/fail/{how}")
    async def fail(how: str) -> None:
        raise {
            "problem": Problem(409, "already-there", "Use another one.", headers={"X-Hint": "h"}, known="yes"),
            "database": Unavailable("database"),
            "http": HTTPException(402, "pay me@example.com"),
            "defect": ZeroDivisionError("secret value"),
        }[how]

    return app


@pytest.fixture
async def client() -> AsyncGenerator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=made())
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_a_problem_keeps_its_members_and_headers(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/fail/problem")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-hint"] == "h"
    assert answer.json() == {
        "type": "https://mymacrotracker.dev/problems/already-there",
        "title": "Already there",
        "status": 409,
        "detail": "Use another one.",
        "instance": "/fail/problem",
        "known": "yes",
    }


async def test_our_own_system_down_is_503_with_a_time_to_wait(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/fail/database")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["type"].endswith("/database-unavailable")


async def test_a_defect_is_500_without_a_word_of_it_but_with_its_trace(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get("/fail/defect")
    assert answer.status_code == 500
    assert answer.json()["type"].endswith("/internal-error")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert len(answer.headers["trace-id"]) == 32
    (told,) = [record.getMessage() for record in caplog.records if record.name == "shared.problems"]
    assert told.startswith("unexpected error: ZeroDivisionError at tests/unit/test_problems.py:")
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/meals", 405, "method-not-allowed"),
        ("GET", "/fail/http", 402, "payment-required"),
    ],
)
async def test_the_frameworks_errors_are_problems_too(
    client: httpx2.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith(f"/{code}")
    assert "example.com" not in answer.text


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'{"grams": "sensitive"}', "body.grams"),
        (b'{"grams": 1, "name": "secret sauce"}', "body.name"),
    ],
)
async def test_a_bad_body_says_where_and_never_repeats_the_value(
    client: httpx2.AsyncClient, body: bytes, where: str
) -> None:
    answer = await client.post("/meals", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["type"].endswith("/invalid-request")
    assert [error["where"] for error in answer.json()["errors"]] == [where]
    assert "sensitive" not in answer.text
    assert "secret" not in answer.text


@pytest.mark.parametrize("body", [b"{", b"secret", b'{"grams": 1,}'])
async def test_what_is_no_json_is_400(client: httpx2.AsyncClient, body: bytes) -> None:
    answer = await client.post("/meals", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["type"].endswith("/not-json")
    assert "secret" not in answer.text


async def test_a_wrong_method_is_told_all_right_ones(client: httpx2.AsyncClient) -> None:
    answer = await client.delete("/meals")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, PUT")


async def test_many_errors_are_cut(client: httpx2.AsyncClient) -> None:
    errors = [{"loc": ("body", number), "msg": "wrong", "type": "missing"} for number in range(5000)]
    assert len(problems.invalid_fields(errors)) == problems.MAX_ERRORS


async def test_openapi_describes_problems_and_not_the_frameworks_422() -> None:
    text = json.dumps(made().openapi())
    assert "HTTPValidationError" not in text
    assert "ProblemDocument" in text
