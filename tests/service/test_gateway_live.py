"""Live streams: resumed, joined, without gap or repeat, ended in time."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway import feeds, reading
from services.gateway.proxy import Answer
from services.gateway.settings import Settings
from tests.polling import eventually
from tests.service.gateway_edges import Gateway, Stream, answer, gateway
from tests.service.live_messages import Webhooks, publish


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path) as one:
        yield one


@pytest.fixture
def webhooks(door: Gateway) -> Webhooks:
    one = Webhooks()
    door.services.handlers["webhooks"] = one
    return one


def stream(door: Gateway, last: str | None = None, token: str | None = None, query: str = "", **headers: str) -> Stream:
    headers |= {"Authorization": f"Bearer {token or door.token()}"} | ({"Last-Event-ID": last} if last else {})
    return Stream(door.running.app, headers, query.encode())


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


async def test_a_stream_ends_in_time_also_while_webhooks_hangs(
    door: Gateway, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "FETCH_S", 0.05)
    monkeypatch.setattr(reading, "AGAIN_S", 0.01)
    hung = asyncio.Event()
    monkeypatch.setattr(door.running.app.state.live, "_fetch_after", lambda *_: hung.wait())
    one = await opened(door, "0")
    assert await one.block() == ": waiting"
    door.clock.ahead = timedelta(minutes=16)
    last = ""
    while not last.startswith("event: "):
        last = await one.block() or "event: none"
    assert '"reason":"token-expired"' in last
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


async def test_readers_that_come_at_once_are_bounded_too(door: Gateway, webhooks: Webhooks) -> None:
    readers = [stream(door, "0") for _ in range(4 * feeds.MAX_READERS_PER_USER)]
    statuses = await asyncio.gather(*(reader.open() for reader in readers))
    assert sorted(statuses) == [200] * feeds.MAX_READERS_PER_USER + [429] * 3 * feeds.MAX_READERS_PER_USER
    for reader in readers:
        await reader.close()
    assert door.running.app.state.live._windows == {}


@pytest.mark.parametrize("last", ["x", "-1", "9" * 20, "1.5"])
async def test_a_bad_last_event_id_is_422(door: Gateway, last: str) -> None:
    assert await stream(door, last).open() == 422


async def test_no_token_no_stream(door: Gateway) -> None:
    assert await stream(door, token="junk").open() == 401
    assert await stream(door, token=door.token(scopes=("days:read",))).open() == 403


async def test_a_reader_gets_only_the_types_it_asks_for_and_can_go_on_after_the_others(
    door: Gateway, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks.types = ("day.updated", "entry.created", "insight.created")
    webhooks.stored = list(range(1, 10))
    one = stream(door, query="types=entry.created,insight.created&after=3")
    assert await one.open() == 200
    assert [number for number, _, _ in await one.events(4)] == [4, 5, 7, 8]
    await publish(door, 10, type="day.updated")
    await publish(door, 11, type="insight.created")
    assert [(number, kind) for number, kind, _ in await one.events(1)] == [(11, "insight.created")]
    monkeypatch.setattr(reading, "HEARTBEAT_S", 0.01)
    await publish(door, 12, type="day.updated")
    # Of what it does not want it learns the number, so that it need not pass it again.
    block = ""
    while "id: " not in block:
        block = await one.block() or ""
    assert block == ": still here\nid: 12"
    await one.close()


@pytest.mark.parametrize(
    "query", ["types=", "types=day.updated,", "types=none", "types=day.updated&types=photo.read", "after=x", "x=1"]
)
async def test_a_bad_query_is_422(door: Gateway, query: str) -> None:
    bad = stream(door, query=query)
    assert await bad.open() == 422
    assert "invalid-request" in await bad.body()


async def test_the_header_counts_before_the_address(door: Gateway, webhooks: Webhooks) -> None:
    webhooks.stored = [1, 2, 3, 4]
    one = stream(door, "3", query="after=1")
    assert await one.open() == 200
    assert [number for number, _, _ in await one.events(1)] == [4]
    await one.close()


async def test_what_is_not_kept_any_more_is_told_and_passed_over(door: Gateway, webhooks: Webhooks) -> None:
    webhooks.stored, webhooks.first = [6, 7], 6
    one = await opened(door, "2")
    gap = (await one.block() or "").splitlines()
    assert gap[:2] == ["id: 5", "event: stream.gap"]
    assert '"first":3,"last":5' in gap[2]
    assert [number for number, _, _ in await one.events(2)] == [6, 7]
    await one.close()


async def test_all_that_was_stored_is_gone_and_the_stream_goes_on(door: Gateway, webhooks: Webhooks) -> None:
    def pruned(method: str, target: str, headers: object, body: bytes) -> Answer:
        return answer({"events": [], "has_more": False, "last_sequence": 9, "first_sequence": 10})

    door.services.handlers["webhooks"] = pruned
    one = await opened(door, "2")
    assert '"first":3,"last":9' in (await one.block() or "")
    await publish(door, 10)
    assert [number for number, _, _ in await one.events(1)] == [10]
    await one.close()


async def test_pages_of_other_origins_may_not_read(tmp_path: Path) -> None:
    async with gateway(tmp_path, gateway_live_origins="https://app.example.org, http://localhost:5173") as door:
        door.services.handlers["webhooks"] = Webhooks()
        for origin in (
            "https://evil.example",
            "null",
            "https://app.example.org.evil.example",
            "HTTPS://APP.EXAMPLE.ORG",
        ):
            bad = stream(door, Origin=origin)
            assert await bad.open() == 403
            assert "origin-not-allowed" in await bad.body()
        one = stream(door, "0", Origin="https://app.example.org")
        assert await one.open() == 200
        assert one.headers["access-control-allow-origin"] == "https://app.example.org"
        assert one.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in one.headers
        await one.close()
        none = stream(door, "0")
        assert await none.open() == 200
        assert "access-control-allow-origin" not in none.headers
        await none.close()


@pytest.mark.parametrize("text", ["*", "null", "app.example.org", "https://app.example.org/", "https://a b", "ftp://a"])
def test_what_is_no_origin_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="gateway_live_origins"):
        Settings(gateway_live_origins=text)


async def test_a_reader_resumes_at_another_gateway_while_messages_flow(tmp_path: Path) -> None:
    stored = Webhooks()
    async with gateway(tmp_path) as left, gateway(tmp_path) as right:
        doors = (left, right)
        for door in doors:
            door.services.handlers["webhooks"] = stored
        end, seen = 600, [0]

        async def flow() -> None:
            for number in range(1, end + 1):
                stored.stored.append(number)
                # Each gateway reads the topic at its own pace; every 7th record one of them never hears of.
                for place, door in enumerate(doors):
                    if number % 7 != place:
                        await publish(door, number)
                await asyncio.sleep(0)  # readers come and go in between

        flowing, hop = asyncio.create_task(flow()), 0
        while seen[-1] < end:
            hop += 1
            one = await opened(doors[hop % 2], str(seen[-1]))
            seen += [number for number, _, _ in await one.events(min(17, end - seen[-1]))]
            await one.close()
        await flowing
        assert seen == list(range(end + 1))
        assert hop > 30
