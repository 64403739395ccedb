"""Auth's background work: the relay that publishes what documents carry in their outboxes, and forgetting."""

import asyncio
import logging

from services.auth import codes, exports, partners, sessions
from services.auth.store import OUTBOXED, Store
from shared.clock import Clock
from shared.documents.port import Documents
from shared.errors import Unavailable
from shared.kafka import Broker, publish_bytes
from shared.outbox import Relay

FORGET_EVERY_S = 3600.0
log = logging.getLogger(__name__)


async def forget_what_is_over(documents: Documents, clock: Clock) -> None:
    """Delete each hour, until cancelled, what is kept for a time: sessions that ended, codes, letters, exports, and
    partners that nobody approved.
    """
    while True:
        try:
            await sessions.forget(documents, clock())
            await codes.forget(documents, clock())
            await partners.forget(documents, clock())
            await Store(documents).forget_resets_over(clock())
            await exports.forget(documents, clock())
        except Unavailable:
            log.warning("what is over is kept for another hour: the database does not answer")
        await asyncio.sleep(FORGET_EVERY_S)


def make_relay(documents: Documents, broker: Broker) -> Relay:
    """The relay, not yet running."""

    async def publish(topic_name: str, value: bytes | None, key: str, *, traceparent: str | None = None) -> None:
        await publish_bytes(broker, topic_name, value, key, traceparent=traceparent)

    return Relay(documents, OUTBOXED, publish)
