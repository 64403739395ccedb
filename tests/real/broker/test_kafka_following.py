"""Readers without a group, and the watchdog, on a real broker."""

import asyncio
import time

from shared.events.auth import UserUpdated
from shared.events.event import Event
from shared.following import follow, read_state
from shared.kafka import make_broker, publish, publish_bytes
from shared.settings import ServiceSettings
from shared.topics import Topic
from shared.watchdog import Watchdog
from tests.polling import eventually
from tests.real_topics import create, fresh_topic, running, subscribed, user


async def test_a_state_topic_is_read_whole_before_the_reader_is_there(settings: ServiceSettings) -> None:
    topic = fresh_topic()
    await create(settings, topic)
    state: dict[str, int] = {}

    async def apply(key: str, event: Event | None) -> None:
        if event is None:
            state.pop(key, None)
        else:
            state[key] = event.revision

    empty = await read_state(settings, topic, apply)
    await empty.stop()
    assert state == {}
    async with running(make_broker(settings, "writer")) as broker:
        await asyncio.gather(*(publish(broker, topic, user(f"u{number}", number)) for number in range(500)))
        await publish_bytes(broker, topic.name, None, "u7")
        reader = await read_state(settings, topic, apply)
        assert state == {f"u{number}": number for number in range(500) if number != 7}
        await publish(broker, topic, user("u7", 8))
        await eventually(lambda: state["u7"] == 8 if "u7" in state else False)
        await reader.stop()


async def test_a_follower_sees_what_comes_after_it_is_there(settings: ServiceSettings, topic: Topic) -> None:
    async with running(make_broker(settings, "writer")) as broker:
        await publish(broker, topic, user("before"))
        for turn in range(5):
            seen: list[str] = []

            async def take(event: Event, seen: list[str] = seen) -> None:
                seen.append(event.user_id)

            follower = await follow(settings, topic, take)
            await publish(broker, topic, user(f"after{turn}"))
            await eventually(lambda seen=seen: seen)
            await follower.stop()
            assert seen == [f"after{turn}"]


async def test_the_watchdog_sees_a_handler_that_never_ends(settings: ServiceSettings, topic: Topic) -> None:
    release = asyncio.Event()
    reasons: list[str] = []

    async def handle(_: UserUpdated) -> None:
        await release.wait()

    async with (
        subscribed(settings, topic, handle) as broker,
        Watchdog(broker, stall_seconds=1, look_every_s=0.2, end=reasons.append) as watchdog,
    ):
        started = time.monotonic()
        await eventually(lambda: time.monotonic() - started > 2, seconds=5)
        assert (reasons, watchdog.live(), await watchdog.ready()) == ([], True, True)
        await publish(broker, topic, user("u"))
        await eventually(lambda: reasons)
        assert not watchdog.live()
        release.set()
        await eventually(watchdog.live)
