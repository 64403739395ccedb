"""What partners and live readers see: a closed list of messages, each `{"type", "timestamp", "data"}`.

What `data` says stands in `public_data.py`; `mapping.py` fills it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainSerializer

from services.webhooks.public_data import (
    DayRecomputedData,
    DayUpdatedData,
    EntryData,
    EntryDeletedData,
    InsightCreatedData,
    LedgerUpdatedData,
    PhotoReadData,
    PhotoRejectedData,
    Public,
    PublicData,
    ReceiptsCompletedData,
)

EventType = Literal[
    "receipts.completed",
    "day.updated",
    "day.recomputed",
    "ledger.updated",
    "entry.created",
    "entry.updated",
    "entry.deleted",
    "photo.read",
    "photo.rejected",
    "insight.created",
]
# What a delivery carries: only what happened where, or all of `data`.
Payload = Literal["thin", "full"]


class ThinData(Public):
    """What a thin message says, whatever its type: read the rest at `link`."""

    id: str = Field(description="The message's id, as in webhook-id")
    user_id: str
    sequence: int = Field(ge=1)
    trace_id: str
    link: str = Field(description="Path of the resource that this is about")


def thin(message_id: str, data: dict[str, Any]) -> dict[str, Any]:
    """The thin form of a numbered `data`: nothing of the user's numbers or texts."""
    return {"id": message_id} | {name: data[name] for name in ThinData.model_fields if name != "id"}


# Not among the types that an endpoint can ask for: whoever holds data of the user must hear it.
USER_ERASED = "user.erased"
# These are about endpoints: of no user, in no sequence, the same thin and full.
ENDPOINT_TEST = "endpoint.test"
ENDPOINT_DISABLED = "endpoint.disabled"
OPERATIONAL = frozenset({USER_ERASED, ENDPOINT_TEST, ENDPOINT_DISABLED})


class UserErasedData(Public):
    """The user was erased for good. Delete what you hold of this opaque id; nothing more will come."""

    user_id: str


class EndpointTestData(Public):
    """You asked for this message; nothing happened."""

    endpoint_id: str


class EndpointDisabledData(Public):
    """Deliveries to another of your endpoints have ended; `reason` says why. PATCH its state to begin again."""

    endpoint_id: str
    reason: str


@dataclass(frozen=True)
class PublicType:
    """One kind of message: the model of its data, and the scope that a grant needs to cover."""

    data: type[PublicData]
    scope: str


TYPES: dict[str, PublicType] = {
    "receipts.completed": PublicType(ReceiptsCompletedData, "samples:read"),
    "day.updated": PublicType(DayUpdatedData, "days:read"),
    "day.recomputed": PublicType(DayRecomputedData, "days:read"),
    "ledger.updated": PublicType(LedgerUpdatedData, "ledger:read"),
    "entry.created": PublicType(EntryData, "diary:read"),
    "entry.updated": PublicType(EntryData, "diary:read"),
    "entry.deleted": PublicType(EntryDeletedData, "diary:read"),
    "photo.read": PublicType(PhotoReadData, "photos:read"),
    "photo.rejected": PublicType(PhotoRejectedData, "photos:read"),
    "insight.created": PublicType(InsightCreatedData, "insights:read"),
}


@dataclass(frozen=True)
class PublicMessage:
    """A message before it has its place in the user's sequence."""

    message_id: str
    type: str
    time: datetime
    user_id: str
    data: PublicData

    def numbered(self, sequence: int, trace_id: str) -> dict[str, Any]:
        """The finished `data` as JSON values."""
        return self.data.model_copy(update={"sequence": sequence, "trace_id": trace_id}).model_dump(mode="json")


def in_milliseconds(moment: datetime) -> str:
    """RFC 3339, UTC, always three decimals: live readers, webhooks and stored events show the same text."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[datetime, PlainSerializer(in_milliseconds, return_type=str, when_used="json")]


class Body(BaseModel):
    """What travels: to webhooks as the body, to live readers as `data:`."""

    type: str
    timestamp: Timestamp
    data: dict[str, Any]
