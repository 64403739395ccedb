"""What webhooks keeps: public messages in each user's order, grants, endpoints, deliveries."""

from datetime import datetime
from typing import Any, Literal

import msgspec

from services.webhooks.keys import EndpointKey, marked_plain, with_keys
from services.webhooks.public import Body, Payload, thin
from shared.documents import Collection, Document, Index
from shared.erased import Declared, Impersonal, Personal
from shared.erasure import TOMBSTONES
from shared.export import PERSONAL_PARTS
from shared.jobs import DUE_INDEX, Job


class Message(Document, frozen=True, kw_only=True):
    """A public message with its place in the user's sequence; `data` as sent. Its id is the `webhook-id`."""

    user_id: str
    sequence: int
    type: str
    time: datetime
    stored_at: datetime
    trace_id: str
    traceparent: str | None
    data: dict[str, Any]

    def body(self, payload: Payload) -> bytes:
        """The bytes that are signed and sent; a thin one says what happened where, and nothing of the user's data."""
        data = self.data if payload == "full" else thin(self.id, self.data)
        return Body(type=self.type, timestamp=self.time, data=data).model_dump_json().encode()


class Grant(Document, frozen=True, kw_only=True):
    """What `auth.grants.v1` last said. `caught_up`: messages that came before this news were fanned out."""

    user_id: str
    partner_id: str
    scopes: tuple[str, ...]
    revision: int
    since: datetime
    live: bool
    caught_up: bool = False


class Partner(Document, frozen=True, kw_only=True):
    """What `auth.partners.v1` last said of a partner (its id)."""

    revision: int
    active: bool


class Endpoint(Document, frozen=True, kw_only=True):
    """A partner's address. No `event_types` means all, no `user_ids` all who grant something.

    `keys`, the newest first: all that have not expired sign. `request_hash` recognises a repeated creation.
    `state`: paused by the partner, whose deliveries then wait, or disabled by us for `state_reason`. `rate_per_s`:
    deliveries started per second at most. `headers` go with each delivery. `failing_since` and `failures`: since when
    and how often in a row no delivery has succeeded.
    """

    partner_id: str
    url: str
    event_types: tuple[str, ...]
    keys: tuple[EndpointKey, ...]
    request_hash: str
    created_at: datetime
    state: Literal["enabled", "paused", "disabled"] = "enabled"
    state_reason: str | None = None
    user_ids: tuple[str, ...] = ()
    payload: Payload = "thin"
    ordered: bool = False
    rate_per_s: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    failing_since: datetime | None = None
    failures: int = 0

    def wants(self, message_type: str, user_id: str) -> bool:
        """Is this type of this user among those asked for? What a paused endpoint wants waits for it."""
        return (
            self.state != "disabled"
            and (not self.event_types or message_type in self.event_types)
            and (not self.user_ids or user_id in self.user_ids)
        )


class Attempt(msgspec.Struct, frozen=True):
    """One try: `ms` until its outcome, `error` in words unless it succeeded, `answer` its first 2 kB."""

    at: datetime
    status: int | None
    ms: int
    error: str | None
    answer: str


class Delivery(Job, frozen=True, kw_only=True):
    """One message to one endpoint. `body` is gone once nothing is left to do.

    `user_id` is "" where the message says that a user was erased: it outlives what is kept of the user.
    """

    endpoint_id: str
    partner_id: str
    user_id: str
    message_id: str
    message_type: str
    created_at: datetime
    body: bytes | None
    state: Literal["pending", "delivered", "failed", "cancelled"] = "pending"
    tries: int = 0
    history: tuple[Attempt, ...] = ()


MESSAGES: Collection[Message] = Collection(
    "messages",
    Message,
    (Index("sequence", ("user_id", "sequence"), unique=True),),
)
GRANTS: Collection[Grant] = Collection("grants", Grant, (Index("pair", ("user_id", "partner_id")),))
PARTNERS: Collection[Partner] = Collection("partners", Partner)
ENDPOINTS: Collection[Endpoint] = Collection(
    "endpoints",
    Endpoint,
    (Index("partner", ("partner_id", "created_at")),),
    v=3,
    upgrades={1: marked_plain, 2: with_keys},
)
DELIVERIES: Collection[Delivery] = Collection(
    "deliveries", Delivery, (DUE_INDEX, Index("endpoint", ("endpoint_id", "created_at")), Index("user", ("user_id",)))
)
PERSONAL: tuple[Declared, ...] = (
    Personal(MESSAGES, ("sequence",)),
    Personal(GRANTS, ("pair",)),
    Personal(DELIVERIES, ("user",)),
    PERSONAL_PARTS,
    Impersonal(PARTNERS, "which partners may work, by their opaque ids"),
    Impersonal(ENDPOINTS, "a partner's own address, with the secret that signs for it"),
)
COLLECTIONS: tuple[Collection[Any], ...] = (*(one.collection for one in PERSONAL), TOMBSTONES)
