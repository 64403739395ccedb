"""What becomes of an accepted batch: large ones by reference, waited-for ones answered, and none while overloaded."""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from services.gateway.api import MAX_MESSAGE_BYTES
from services.gateway.app import create_app
from services.gateway.pressure import Backlog
from services.gateway.settings import Settings
from shared import topics
from shared.events.gateway import BatchSubmitted
from shared.topics import Topic
from tests.polling import eventually
from tests.service.gateway_edges import USER, Gateway, answer, gateway
from tests.service.running import common_settings
from tests.service.test_gateway import BATCH, PLAIN, SAMPLE, picture, problem, put_photo
from tests.service.test_without_kafka import closed_port

BATCHES = topics.BATCHES.name
LARGE = BATCH | {
    "samples": [SAMPLE | {"id": str(number)} for number in range(9_998)],
    "sessions": [
        {"type": "sleep", "start": "2026-03-01T23:00:00Z", "end": "2026-03-02T07:00:00Z"},
        {"type": "sleep"},
    ],
}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path) as one:
        yield one


def batches(door: Gateway) -> list[BatchSubmitted]:
    return [msgspec.msgpack.decode(value, type=BatchSubmitted) for value in door.running.published[BATCHES]]


async def test_a_large_batch_travels_by_reference(door: Gateway) -> None:
    got = await door.ask("POST", "/v1/batches", json=LARGE, key="b1")
    assert (got.status_code, got.json()["received"], got.json()["invalid_records"]) == (202, 10_000, 1)
    (sent,) = batches(door)
    assert len(door.running.published[BATCHES][0]) < 1000
    assert sent.object is not None
    assert (sent.series, sent.sessions, sent.deletions, sent.received) == ((), (), (), 10_000)
    assert sent.object.key == f"ingest/{USER}/{sent.object.sha256}"
    stored = (door.folder / "objects" / sent.object.key).read_bytes()
    assert len(stored) > MAX_MESSAGE_BYTES
    assert hashlib.sha256(stored).hexdigest() == sent.object.sha256
    whole = msgspec.msgpack.decode(stored, type=BatchSubmitted)
    assert (whole.receipt_id, whole.refused) == (sent.receipt_id, sent.refused)
    assert (len(whole.series[0].index) // 4, len(whole.sessions), whole.object) == (9_998, 1, None)


async def test_attempts_at_a_large_batch_leave_one_object(door: Gateway) -> None:
    door.broker.away = True
    for _ in range(3):
        assert problem(await door.ask("POST", "/v1/batches", json=LARGE, key="b1")) == (503, "broker-unavailable")
    door.broker.away = False
    assert (await door.ask("POST", "/v1/batches", json=LARGE, key="b1")).status_code == 202
    assert (await door.ask("POST", "/v1/batches", json=LARGE, key="b2")).status_code == 202
    first, second = (batch.object for batch in batches(door))
    stored = {path.name for path in (door.folder / "objects" / "ingest" / USER).iterdir()}
    assert first is not None
    assert second is not None
    # Ingest deletes a receipt's object once it is stored, so another receipt must not share it.
    assert stored == {first.sha256, second.sha256}
    assert len(stored) == 2


async def test_a_large_batch_is_not_announced_before_it_is_stored(door: Gateway) -> None:
    (door.folder / "objects").write_text("no folder")
    got = await door.ask("POST", "/v1/batches", json=LARGE, key="b1")
    assert problem(got) == (503, "objects-unavailable")
    assert batches(door) == []


async def test_the_kinds_of_records_count_through(door: Gateway) -> None:
    body = BATCH | {"sessions": [{"type": "sleep"}], "deletions": [{"id": "a"}, {"id": 1}]}
    got = await door.ask("POST", "/v1/batches", json=body, key="b1")
    assert (got.json()["received"], got.json()["invalid_records"]) == (4, 2)
    (sent,) = batches(door)
    assert ([one.index for one in sent.refused], sent.deletions[0].index) == ([1, 3], 2)


# wait


@pytest.mark.parametrize("wait", ["2", "2s", "500ms", "0.5s", "10"])
@pytest.mark.parametrize("state", ["stored", "failed"])
async def test_who_waits_gets_the_receipt(door: Gateway, wait: str, state: str) -> None:
    door.services.handlers["ingest"] = lambda *_: answer({"state": state, "stored": 1})
    got = await door.ask("POST", f"/v1/batches?wait={wait}", json=BATCH, key="b1")
    assert (got.status_code, got.json()) == (200, {"state": state, "stored": 1})
    (sent,) = batches(door)
    assert got.headers["location"] == f"/v1/receipts/{sent.receipt_id}"
    _, method, target, _, _ = door.services.seen[-1]
    milliseconds = {"2": 2000, "2s": 2000, "10": 10_000}.get(wait, 500)
    assert (method, target) == ("GET", f"/v1/receipts/{sent.receipt_id}?wait={milliseconds}ms")


@pytest.mark.parametrize("status", [404, 500, 403, None])
async def test_who_waited_in_vain_is_told_as_usual(door: Gateway, status: int | None) -> None:
    if status is None:
        door.services.down.add("ingest")
    else:
        door.services.handlers["ingest"] = lambda *_: answer({}, status)
    got = await door.ask("POST", "/v1/batches?wait=1s", json=BATCH, key="b1")
    assert (got.status_code, got.json()["state"]) == (202, "queued")
    assert len(batches(door)) == 1


@pytest.mark.parametrize("wait", ["", "x", "-1", "11", "10001ms", "1e1", "1m", "1&wait=1", "%D9%A1"])
async def test_a_bad_wait_is_told_before_anything_is_taken(door: Gateway, wait: str) -> None:
    assert problem(await door.ask("POST", f"/v1/batches?wait={wait}", json=BATCH, key="b1")) == (422, "invalid-wait")
    assert batches(door) == []


async def test_a_receipt_can_be_waited_for_later(door: Gateway) -> None:
    receipt_id = (await door.ask("POST", "/v1/batches", json=BATCH, key="b1")).json()["receipt_id"]
    assert door.services.count("ingest", f"/v1/receipts/{receipt_id}") == 0
    got = await door.ask("GET", f"/v1/receipts/{receipt_id}?wait=500ms")
    assert got.json() == {"receipt_id": receipt_id, "state": "queued"}
    assert door.services.seen[-1][2] == f"/v1/receipts/{receipt_id}?wait=500ms"
    assert problem(await door.ask("GET", f"/v1/receipts/{receipt_id}?wait=1h")) == (422, "invalid-wait")
    foreign = await door.ask("GET", f"/v1/receipts/{receipt_id}?wait=1s", token=door.token("usr_2"))
    assert problem(foreign) == (404, "not-found")


@pytest.mark.parametrize("of", ["all", "this user"])
async def test_only_so_many_wait_at_a_time(door: Gateway, of: str) -> None:
    others, most = ("usr_others", door.waiting.most) if of == "all" else (USER, door.waiting.of_a_user)
    door.waiting.now[others] = most
    door.services.handlers["ingest"] = lambda *_: answer({"state": "stored"})
    got = await door.ask("POST", "/v1/batches?wait=1s", json=BATCH, key="b1")
    assert got.status_code == 202
    link = got.json()["link"]
    assert (await door.ask("GET", f"{link}?wait=1s")).json() == {"state": "stored"}
    assert door.services.seen[-1][2] == link
    door.waiting.now[others] -= 1
    assert (await door.ask("POST", "/v1/batches?wait=1s", json=BATCH, key="b1")).status_code == 200
    assert door.waiting.now == {others: most - 1}


# overload


class Behind:
    """Kafka, which says how far every reader is behind."""

    def __init__(self) -> None:
        self.records = 0

    async def backlog(self, topic: Topic, group: str, older_than_ms: int) -> Backlog:
        return Backlog(self.records, False)

    async def close(self) -> None:
        return None


async def test_nothing_is_taken_while_the_readers_are_behind(tmp_path: Path) -> None:
    behind = Behind()
    async with gateway(tmp_path, behind, gateway_max_lag_batches=5, gateway_max_lag_photos=5) as door:
        behind.records = 6
        read = 0

        async def body() -> AsyncGenerator[bytes]:
            nonlocal read
            for part in (PLAIN[:10], PLAIN[10:]):
                read += 1
                yield part

        async def turned_away() -> Any:
            headers = {"Content-Type": "application/json"}
            got = await door.ask("POST", "/v1/batches", content=body(), headers=headers, key="b1")
            return got if got.status_code == 503 else None

        got = await eventually(turned_away)
        assert problem(got) == (503, "overloaded")
        assert int(got.headers["retry-after"]) > 0
        published, read = len(batches(door)), 0
        await turned_away()
        assert (len(batches(door)), read) == (published, 0)
        assert problem(await put_photo(door, picture())) == (503, "overloaded")
        assert not (tmp_path / "objects" / "inference").exists()
        assert (await door.ask("GET", "/v1/whoami")).status_code == 200
        assert problem(await door.ask("POST", "/v1/batches", token=None, key="b1")) == (401, "token-required")
        behind.records = 0

        async def taken() -> bool:
            return (await door.ask("POST", "/v1/batches", json=BATCH, key="b1")).status_code == 202

        assert await eventually(taken)


async def test_nothing_is_taken_from_the_start_while_the_disk_is_full(tmp_path: Path) -> None:
    async with gateway(tmp_path, gateway_disk_path=str(tmp_path), gateway_min_free_bytes=2**60) as door:
        got = await door.ask("POST", "/v1/batches", json=BATCH, key="b1")
        assert problem(got) == (503, "overloaded")
        assert json.loads(got.text)["reason"] == "disk"
        assert batches(door) == []


async def test_it_starts_and_looks_while_kafka_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = Settings(
        **common_settings(tmp_path),
        kafka_bootstrap_servers=f"127.0.0.1:{closed_port()}",
        gateway_internal_key_path=tmp_path / "internal.jwk",
        gateway_receipt_key_path=tmp_path / "receipts.key",
    )
    app = create_app(settings)
    async with (
        asyncio.timeout(20),
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as http,
    ):
        await eventually(lambda: "ingest.gateway.batches.v1 is not known" in caplog.text)
        assert (await http.get("/livez")).status_code == 200
        app.state.pressure.admit(topics.BATCHES)
