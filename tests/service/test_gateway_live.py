"""Live streams: resumed, joined, without gap or repeat, ended in time."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from services.gateway import feeds, reading
from services.gateway.proxy import Answer
from shared.events import MessagePublished
from tests.polling import eventually
from tests.service.gateway_edges import USER, Gateway, Stream, answer, gateway

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)


class Webhooks:
    """What webhooks has stored, served as it serves it."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.asked: list[tuple[int, int]] = []

    def __call__(self, method: str, target: str, headers: Any, body: bytes) -> Answer:
        query = parse_qs(urlsplit(target).query)
        after, limit = int(query["after"][0]), int(query["limit"][0])
        self.asked.append((after, limit))
        found = [number for number in self.stored if number > after]
        events = [
            {
                "id": f"m{n}",
                "sequence": n,
                "type": "day.updated",
                "timestamp": "2026-03-01T08:00:00.000Z",
                "data": {"sequence": n},
            }
            for n in found[:limit]
        ]
        last = max(self.stored, default=0)
        return answer({"events": events, "has_more": len(found) > limit, "last_sequence": last})


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path) as one:
        yield one


@pytest.fixture
def webhooks(door: Gateway) -> Webhooks:
    one = Webhooks()
    door.services.handlers["webhooks"] = one
    return one


async def publish(door: Gateway, *numbers: int, user_id: str = USER) -> None:
    for number in numbers:
        await door.running.app.state.live.take(
            MessagePublished(
                event_id=f"e{number}",
                occurred_at=AT,
                user_id=user_id,
                message_id=f"m{number}",
                sequence=number,
                message_type="day.updated",
                message_time=AT,
                trace_id="t",
                data={"sequence": number},
            )
        )


def stream(door: Gateway, last: str | None = None, token: str | None = None) -> Stream:
    headers = {"Authorization": f"Bearer {token or door.token()}"}
    return Stream(door.running.app, headers | ({"Last-Event-ID": last} if last is not None else {}))


async def opened(door: Gateway, last: str | None = None, token: str | None = None) -> Stream:
    one = stream(door, last, token)
    assert await one.open() == 200
    assert await one.block() == "retry: 1000"
    return one


async def test_a_new_reader_gets_what_comes(door: Gateway, webhooks: Webhooks) -> None:
    webhooks.stored = [1, 2, 3]
    one = await opened(door)
    await eventually(lambda: webhooks.asked)
    await publish(door, 4)
    ((number, kind, message),) = await one.events(1)
    assert (number, kind) == (4, "day.updated")
    assert message == {"type": "day.updated", "timestamp": "2026-03-01T08:00:00.000Z", "data": {"sequence": 4}}
    await one.close()


async def test_resuming_joins_stored_and_coming_without_gap_or_repeat(door: Gateway, webhooks: Webhooks) -> None:
    webhooks.stored = list(range(1, 451))
    one = await opened(door, "2")
    first = await one.events(448)
    assert [number for number, _, _ in first] == list(range(3, 451))
    await publish(door, 449, 450, 451)
    assert [number for number, _, _ in await one.events(1)] == [451]
    await one.close()


async def test_an_id_from_the_future_is_taken_back_to_the_last(door: Gateway, webhooks: Webhooks) -> None:
    webhooks.stored = [1, 2]
    one = await opened(door, "999")
    await eventually(lambda: webhooks.asked)
    await publish(door, 3)
    assert [number for number, _, _ in await one.events(1)] == [3]
    await one.close()


async def test_a_gap_is_filled_and_disorder_put_right(door: Gateway, webhooks: Webhooks) -> None:
    webhooks.stored = [1]
    one = await opened(door, "1")
    await eventually(lambda: webhooks.asked)
    webhooks.stored = [1, 2, 3, 4]
    await publish(door, 4, 2, 3, 3)
    webhooks.stored.append(5)
    await publish(door, 5)
    assert [number for number, _, _ in await one.events(4)] == [2, 3, 4, 5]
    await one.close()


async def test_a_reader_behind_the_window_reads_from_the_store(
    door: Gateway, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "WINDOW", 3)
    one = await opened(door, "0")
    await eventually(lambda: webhooks.asked)
    webhooks.stored = list(range(1, 21))
    await publish(door, *range(1, 21))
    assert [number for number, _, _ in await one.events(20)] == list(range(1, 21))
    await one.close()


async def test_what_came_before_the_topic_was_read_is_looked_up(door: Gateway, webhooks: Webhooks) -> None:
    one = await opened(door, "0")
    await eventually(lambda: webhooks.asked)
    webhooks.stored = [1]
    door.running.app.state.live.fed_from_here()
    assert [number for number, _, _ in await one.events(1)] == [1]
    await one.close()


async def test_others_messages_are_not_seen(door: Gateway, webhooks: Webhooks) -> None:
    one, other = await opened(door, "0"), await opened(door, "0", door.token("usr_2"))
    await publish(door, 1, user_id="usr_2")
    await publish(door, 1)
    assert len(await one.events(1)) == len(await other.events(1)) == 1
    for reader in (one, other):
        await reader.close()


async def test_a_stream_survives_webhooks_being_away(
    door: Gateway, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "AGAIN_S", 0.01)
    door.services.down.add("webhooks")
    webhooks.stored = [1, 2]
    one = await opened(door, "0")
    assert await one.block() == ": waiting"
    door.services.down.clear()
    assert [number for number, _, _ in await one.events(2)] == [1, 2]
    await one.close()


async def test_heartbeats(door: Gateway, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "HEARTBEAT_S", 0.01)
    one = await opened(door, "0")
    assert await one.block() == ": still here"
    await one.close()


async def test_it_ends_with_the_process(door: Gateway, webhooks: Webhooks) -> None:
    one = await opened(door, "0")
    door.running.app.state.stopping.set()
    assert await one.reason() == "server-closing"


async def test_it_ends_with_the_token(door: Gateway, webhooks: Webhooks) -> None:
    one = await opened(door, "0")
    await eventually(lambda: webhooks.asked)
    door.clock.ahead = timedelta(minutes=16)
    await publish(door, 1)
    assert await one.reason() == "token-expired"


async def test_readers_are_bounded_and_leave_nothing(door: Gateway, webhooks: Webhooks) -> None:
    readers = [await opened(door, "0") for _ in range(feeds.MAX_READERS_PER_USER)]
    assert await stream(door).open() == 429
    for reader in readers:
        await reader.close()
    assert door.running.app.state.live._windows == {}
    again = await opened(door, "0")
    await again.close()


@pytest.mark.parametrize("last", ["x", "-1", "9" * 20, "1.5"])
async def test_a_bad_last_event_id_is_422(door: Gateway, last: str) -> None:
    assert await stream(door, last).open() == 422


async def test_no_token_no_stream(door: Gateway) -> None:
    assert await stream(door, token="junk").open() == 401
    assert await stream(door, token=door.token(scopes=("days:read",))).open() == 403
