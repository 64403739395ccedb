"""Public messages."""

from typing import Any, Literal

from shared.events.event import Event, UtcTime


class MessagePublished(Event, frozen=True):
    """A public message, as partners and live readers get it; `sequence` counts per user from 1 without gaps."""

    type: Literal["message.published"] = "message.published"
    user_id: str
    message_id: str
    sequence: int
    message_type: str
    message_time: UtcTime
    trace_id: str
    data: dict[str, Any]
