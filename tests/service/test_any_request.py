"""Whatever is sent to any public route: no server error, and no answer but those that the OpenAPI document tells of.

Requests come out of the document itself, as the gateway serves it: right ones and wrong ones, from callers of every
kind, against all services in one process. The seed is fixed, so a run in CI is the run on your machine;
`MYMACRO_TEST_EXAMPLES=500` looks longer.
"""

import asyncio
import base64
import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.auth.partners import POSSIBLE_SCOPES
from tests.flows.people import DATE, register_endpoint, signed_in, walk
from tests.flows.whole import Whole, whole

SEED = 1815
EXAMPLES = int(os.environ.get("MYMACRO_TEST_EXAMPLES", "10"))
ANSWER_S = 30.0
SLOW_OR_LARGE = (
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
)
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CHECKS: list[Any] = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# With right credentials it answers with a stream that has no end; tests/service/test_gateway_live.py reads it.
ENDLESS = {("GET", "/v1/live")}
CALLERS = ["user", "user", "user", "partner", "partner", "client", "key", "anyone", "stranger"]
REGISTRATION = {"name": "Any", "contact": "any@partner.example", "scopes": list(POSSIBLE_SCOPES)}
RATES = [f"GATEWAY_RATE_{rate}" for rate in ("READ", "WRITE", "SIGN_IN", "STREAM", "FAILED", "KEY")]
UNLIMITED = "999999/1"
# Unavailable is an answer, but here everything is there.
AWAY = (502, 503, 504)


@dataclass
class Target:
    """The system, who calls it, and what came of it."""

    system: Whole
    runner: asyncio.Runner
    callers: dict[str, str]  # what their Authorization header says
    there: dict[str, dict[str, str]]
    answers: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])

    def answer(self, case: Case, caller: str) -> httpx2.Response:
        """What the gateway says to this request of that caller."""
        sent = {key: value for key, value in case.as_transport_kwargs("http://gateway").items() if key != "auth"}
        request = requests.Request(**sent).prepare()
        given_headers = ((name, _text(value)) for name, value in request.headers.items())
        headers = {name: value for name, value in given_headers if name.lower() != "authorization"}
        if self.callers[caller]:
            headers["Authorization"] = self.callers[caller]
        body: Any = request.body or b""
        asked = self.system.http.request(str(request.method), str(request.url), headers=headers, content=body)
        answer = self.runner.run(asyncio.wait_for(asked, ANSWER_S))
        self.answers[caller, answer.status_code] += 1
        return answer


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


@contextmanager
def running(folder: Path) -> Iterator[Target]:
    """All services, with a user who has data and a partner who has a grant."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            system = runner.run(stack.enter_async_context(whole(folder)))
            runner.run(register_endpoint(system))
            target = Target(system, runner, {}, {})
            runner.run(sign_in(target))
            yield target
        finally:
            runner.run(stack.aclose())


async def sign_in(target: Target) -> None:
    """A user for the target, with a batch: a new one where the last one's token is not good any more."""
    http, user = target.system.http, target.callers.get("user")
    if user is not None and (await http.get("/v1/whoami", headers={"Authorization": user})).status_code == 200:
        return
    person = await signed_in(target.system, f"ada{len(target.system.records)}")
    await person.grant()
    batch = await person.send_batch(walk(5))
    await person.ended(batch)
    made = await person.ask("POST", "/v1/partners", key=person.email, json=REGISTRATION)
    client = (made.json()["partner_id"], made.json()["client_secret"])
    form = {"grant_type": "client_credentials"}
    tokens = await http.post("/oauth/token", data=form, auth=client)
    target.callers |= {
        "user": f"Bearer {person.token}",
        "key": f"Bearer {target.system.partner_key}",
        "partner": f"Bearer {tokens.json()['access_token']}",
        "client": "Basic " + base64.b64encode(":".join(client).encode()).decode(),
        "stranger": f"Bearer {person.token[:-6]}AAAAAA",
        "anyone": "",
    }
    target.there |= {"/v1/receipts/{id}": {"id": batch.json()["receipt_id"]}, "/v1/days/{date}": {"date": DATE}}
    target.there |= {path: {"date": DATE} for path in ("/v1/days/{date}/explain", "/v1/ledger/{date}")}


def document_of(target: Target) -> dict[str, Any]:
    """The OpenAPI document as the gateway serves it."""
    answer = target.runner.run(target.system.http.get("/openapi.json"))
    assert answer.status_code == 200
    return answer.json()


def tried(target: Target, operation: Any) -> list[str]:
    """What is wrong with one operation's answers: the first finding of each kind of request."""
    target.runner.run(sign_in(target))
    there = target.there.get(operation.path)
    requests_of = {mode.value: operation.as_strategy(generation_mode=mode) for mode in MODES}
    if there is not None:
        requests_of["there"] = operation.as_strategy(path_parameters=there)
    found: list[str] = []
    for kind, cases in requests_of.items():
        try:
            try_some(target, cases, (operation.method.upper(), operation.path) in ENDLESS)
        except Unsatisfiable:
            continue  # nothing about it can be wrong
        except BaseExceptionGroup as group:
            found.append(f"{operation.label} ({kind}): " + "; ".join(map(str, group.exceptions)))
        except Exception as error:
            found.append(f"{operation.label} ({kind}): {error!r}")
    return found


def try_some(target: Target, cases: st.SearchStrategy[Case], endless: bool) -> None:
    """Send some of these requests and hold the answers to the document. Raises what Schemathesis finds."""
    callers = ["anyone", "stranger"] if endless else CALLERS

    @seed(SEED)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=SLOW_OR_LARGE)
    @given(case=cases, caller=st.sampled_from(callers))
    def every(case: Case, caller: str) -> None:
        answer = target.answer(case, caller)
        assert answer.status_code not in AWAY, f"{answer.status_code} {answer.text}"
        case.validate_response(answer, checks=CHECKS)

    every()


@pytest.fixture(autouse=True)
def open_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partners work at once, and nobody has to wait."""
    monkeypatch.setenv("AUTH_PARTNER_APPROVAL", "auto")
    for rate in RATES:
        monkeypatch.setenv(rate, UNLIMITED)


@pytest.mark.timeout(300)
def test_any_request_is_answered_as_the_document_says(tmp_path: Path) -> None:
    began = time.process_time()
    with running(tmp_path) as target:
        schema = schemathesis.openapi.from_dict(document_of(target))
        operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
        assert len(operations) == sum(map(len, schema.raw_schema["paths"].values()))
        found = [wrong for operation in operations for wrong in tried(target, operation)]
    total, spent_s = sum(target.answers.values()), time.process_time() - began
    sys.stdout.write(f"{len(operations)} operations, {total} requests, {spent_s:.0f} s of CPU: {target.answers}\n")
    assert total > EXAMPLES * len(operations)
    assert not found, "\n\n".join(found)


@pytest.mark.parametrize(
    ("path", "renamed", "said"),
    [
        (("responses", "200"), "299", "Undocumented status code"),
        (("responses", "200", "content", "application/json"), "text/plain", "Undocumented Content-Type"),
        (("components", "schemas", "WhoAmI", "properties", "user_id", "anyOf"), "allOf", "violates"),
    ],
)
def test_what_the_document_does_not_tell_is_found(
    tmp_path: Path, path: tuple[str, ...], renamed: str, said: str
) -> None:
    with running(tmp_path) as target:
        document = document_of(target)
        whoami = document["paths"]["/v1/whoami"]["get"]
        del whoami["responses"]["default"]
        *outer, last = path
        inner: dict[str, Any] = functools.reduce(
            dict.__getitem__, outer, whoami if path[0] == "responses" else document
        )
        inner[renamed] = inner.pop(last)
        (finding, *_) = tried(target, schemathesis.openapi.from_dict(document)["/v1/whoami"]["GET"])
    assert said in finding
