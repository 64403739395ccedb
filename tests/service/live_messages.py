"""A user's messages as webhooks has them stored, and as the topic brings them."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from services.gateway.proxy import Answer
from shared.events.webhooks import MessagePublished
from tests.service.gateway_edges import USER, Gateway, answer

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)


class Webhooks:
    """What webhooks has stored, served as it serves it."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.asked: list[tuple[int, int]] = []
        # A message's type by its number.
        self.types: tuple[str, ...] = ("day.updated",)
        self.first: int | None = None
        self.padding = ""

    def __call__(self, method: str, target: str, headers: Any, body: bytes) -> Answer:
        query = parse_qs(urlsplit(target).query)
        after, limit = int(query["after"][0]), int(query["limit"][0])
        self.asked.append((after, limit))
        found = [number for number in self.stored if number > after]
        events = [
            {
                "id": f"m{n}",
                "sequence": n,
                "type": self.types[n % len(self.types)],
                "timestamp": "2026-03-01T08:00:00.000Z",
                "data": {"sequence": n} | ({"padding": self.padding} if self.padding else {}),
            }
            for n in found[:limit]
        ]
        last = max(self.stored, default=0)
        kept = {} if self.first is None else {"first_sequence": self.first}
        return answer({"events": events, "has_more": len(found) > limit, "last_sequence": last} | kept)


async def publish(door: Gateway, *numbers: int, user_id: str = USER, type: str = "day.updated") -> None:
    """Messages as they come from the topic."""
    for number in numbers:
        await door.running.app.state.live.take(
            MessagePublished(
                event_id=f"e{number}",
                occurred_at=AT,
                user_id=user_id,
                message_id=f"m{number}",
                sequence=number,
                message_type=type,
                message_time=AT,
                trace_id="t",
                data={"sequence": number},
            )
        )
