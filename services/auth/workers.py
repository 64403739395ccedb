"""Auth's background work: the relay that publishes what accounts, partners and grants carry in their outboxes."""

from services.auth.store import OUTBOXED
from shared.documents.port import Documents
from shared.kafka import Broker, publish_bytes
from shared.outbox import Relay


def make_relay(documents: Documents, broker: Broker) -> Relay:
    """The relay, not yet running."""

    async def publish(topic_name: str, value: bytes, key: str, *, traceparent: str | None = None) -> None:
        await publish_bytes(broker, topic_name, value, key, traceparent=traceparent)

    return Relay(documents, OUTBOXED, publish)
