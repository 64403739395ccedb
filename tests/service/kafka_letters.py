"""Events to send, and the dead letters they become, on TestKafkaBroker."""

from typing import Any

from aiokafka import ConsumerRecord

from shared import kafka
from shared.clock import utc_now
from shared.events.auth import Profile, UserUpdated
from shared.kafka import Broker

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def user(user_id: str) -> UserUpdated:
    return UserUpdated(event_id="e1", occurred_at=utc_now(), user_id=user_id, revision=1, profile=Profile())


def collect(broker: Broker, *topics: str) -> list[ConsumerRecord[Any, Any]]:
    found: list[ConsumerRecord[Any, Any]] = []

    async def whole(message: Any) -> Any:
        return message

    async def take(message: Any) -> None:
        found.append(message.raw_message)

    for topic in topics:
        broker.subscriber(topic, decoder=whole, parser=kafka._parse)(take)
    return found


def headers(record: ConsumerRecord[Any, Any]) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}
