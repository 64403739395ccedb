"""States are published by one process at a time, so that the newest is the last of its key in the topic."""

import asyncio
from datetime import timedelta

from shared.clock import utc_now
from shared.documents import Documents
from shared.outbox import Relay, with_events
from tests.polling import eventually
from tests.service.outbox.scene import DAYS, Broker, Day, cleared, running, state


async def test_a_state_is_sent_by_one_process_at_a_time_and_the_newest_last(
    documents: Documents, broker: Broker
) -> None:
    standing, go_on = asyncio.Event(), asyncio.Event()

    async def stand_still(value: str) -> None:
        if value == "old":
            standing.set()
            await go_on.wait()

    broker.before_ack = stand_still
    await documents.put(DAYS, with_events(Day(id="d"), state("old")))
    relays = [Relay(documents, [DAYS], broker.publish, scan_seconds=0.02) for _ in range(2)]
    async with running(relays[0]):
        await asyncio.wait_for(standing.wait(), 5)
        async with running(relays[1]):
            # The other process writes the newer state, and is nudged for it.
            held = await documents.get(DAYS, "d")
            assert held is not None
            await documents.put(DAYS, with_events(held, state("new")))
            relays[1].nudge(DAYS, "d")
            beside = with_events(Day(id="other"), state("other"))
            await documents.put(DAYS, beside)
            await eventually(lambda: "other" in broker.sent)
            assert "new" not in broker.sent
            go_on.set()
            await eventually(lambda: cleared(documents, "d"))
    assert [sent for sent in broker.sent if sent != "other"] == ["old", "new"]


async def test_a_state_whose_process_died_is_sent_by_another_once_its_lease_is_over(
    documents: Documents, broker: Broker
) -> None:
    standing = asyncio.Event()

    async def stand_still(_: str) -> None:
        if not standing.is_set():
            standing.set()
            await asyncio.Event().wait()

    broker.before_ack = stand_still
    await documents.put(DAYS, with_events(Day(id="d"), state("a"), state("b")))
    lease = timedelta(seconds=1)
    async with running(Relay(documents, [DAYS], broker.publish, lease=lease)):
        await asyncio.wait_for(standing.wait(), 5)
    left = await documents.get(DAYS, "d")
    assert left is not None
    assert left.outbox_at is not None
    async with running(Relay(documents, [DAYS], broker.publish, scan_seconds=0.02, lease=lease)):
        await eventually(lambda: cleared(documents, "d"))
    assert utc_now() >= left.outbox_at
    assert broker.sent == ["a", "b"]


async def test_a_failed_state_is_tried_again_by_its_process_at_the_next_scan(
    documents: Documents, broker: Broker
) -> None:
    broker.refuse = lambda _: True
    await documents.put(DAYS, with_events(Day(id="d"), state("a")))
    async with running(Relay(documents, [DAYS], broker.publish, scan_seconds=0.02, lease=timedelta(minutes=10))):

        async def leased() -> bool:
            day = await documents.get(DAYS, "d")
            return day is not None and day.version > 3

        await eventually(leased)
        broker.refuse = lambda _: False
        await eventually(lambda: cleared(documents, "d"))
    assert broker.sent == ["a"]


async def test_a_state_that_one_process_cannot_send_is_sent_by_another(documents: Documents, broker: Broker) -> None:
    cut_off = Broker()
    cut_off.refuse = lambda value: value == "b"
    await documents.put(DAYS, with_events(Day(id="d"), state("a"), state("b")))
    lease = timedelta(minutes=10)
    async with running(Relay(documents, [DAYS], cut_off.publish, scan_seconds=0.02, lease=lease)):
        await eventually(lambda: cut_off.sent == ["a"])
        async with running(Relay(documents, [DAYS], broker.publish, scan_seconds=0.02, lease=lease)):
            await eventually(lambda: cleared(documents, "d"))
    assert (cut_off.sent, broker.sent) == (["a"], ["b"])
