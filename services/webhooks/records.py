"""What webhooks keeps: public messages in each user's order, grants, endpoints, deliveries."""

from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from services.webhooks.keys import EndpointKey, marked_plain, with_keys
from services.webhooks.public import Body, Payload, thin
from shared.documents import Collection, Document, Index
from shared.erased import Declared, Impersonal, Personal
from shared.erasure import TOMBSTONES
from shared.events.auth import GrantUpdated
from shared.export import PERSONAL_PARTS
from shared.ids import derived_id
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
    """What `auth.grants.v1` last said, since `since`. `caught_up`: messages that came before this news were fanned out.

    `scopes_since`: from when on each scope holds without a break; one that is missing there, since `since`.
    """

    user_id: str
    partner_id: str
    scopes: tuple[str, ...]
    revision: int
    since: datetime
    live: bool
    caught_up: bool = False
    scopes_since: dict[str, datetime] = msgspec.field(default_factory=dict[str, datetime])

    def covers(self, scope: str, at: datetime) -> bool:
        """Has the partner been let see the scope from `at` until now?"""
        return self.live and scope in self.scopes and at >= self.scopes_since.get(scope, self.since)


def granted_by(event: GrantUpdated, known: Grant | None) -> Grant:
    """The grant as the event says it, to be stored over the one that is known."""
    since: dict[str, datetime] = {}
    # A scope that went on counts as before; all begin anew with a grant that was taken back in between.
    if known is not None and known.live and known.revision >= event.since_revision:
        since = {scope: known.scopes_since.get(scope, known.since) for scope in known.scopes}
    return Grant(
        id=event.grant_id,
        version=known.version if known else 0,
        user_id=event.user_id,
        partner_id=event.partner_id,
        scopes=event.scopes,
        revision=event.revision,
        since=event.occurred_at,
        live=event.revoked_at is None,
        scopes_since={scope: since.get(scope, event.occurred_at) for scope in event.scopes},
    )


class Partner(Document, frozen=True, kw_only=True):
    """What `auth.partners.v1` last said of a partner (its id)."""

    revision: int
    active: bool


class Endpoint(Document, frozen=True, kw_only=True):
    """A partner's address. No `event_types` means all, no `user_ids` all who grant something.

    `keys`, the newest first: all that have not expired sign. `ended`: rotations' keys that sign no more, without what
    they signed with; they recognise a repeat. `request_hash` recognises a repeated creation.
    `state`: paused by the partner, whose deliveries then wait, or disabled by us for `state_reason`. `rate_per_s`:
    deliveries started per second at most. `headers` go with each delivery. `failing_since` and `failures`: since when
    and how often in a row no delivery has succeeded. `untold_since`: when we disabled it, until its partner was told.
    `wants_since`: when it began to want what it wants, where that was after its creation; nothing is sought before.
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
    untold_since: datetime | None = None
    ended: tuple[EndpointKey, ...] = ()
    wants_since: datetime | None = None

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


State = Literal["pending", "delivered", "failed", "cancelled"]


class Delivery(Job, frozen=True, kw_only=True):
    """One message to one endpoint. `body` is gone once nothing is left to do.

    `user_id` is "" where the message says that a user was erased: it outlives what is kept of the user, and where that
    failed its body is kept with it, so that it can be tried again.
    `attempts` counts claims since the last outcome: above 0, somebody tries it now, or died of that.
    `tries` counts outcomes along the schedule, `history` keeps the last of all.
    `sequence` is 0 for what is no user's. `line`: the place among what waits for this user at an ordered endpoint. It
    is `sequence` until nothing is left to do; only the lowest of a line is ever due. `replay_id`: the replay that sent
    it once more. `copy_of`: where a replay made it, the id of the message's own delivery to the endpoint. `stored_at`:
    when the message was stored; None where it is no user's, or an earlier version made the delivery.
    """

    endpoint_id: str
    partner_id: str
    user_id: str
    message_id: str
    message_type: str
    created_at: datetime
    body: bytes | None
    state: State = "pending"
    tries: int = 0
    history: tuple[Attempt, ...] = ()
    sequence: int = 0
    line: int | None = None
    replay_id: str | None = None
    copy_of: str | None = None
    stored_at: datetime | None = None


def first_id(endpoint_id: str, message_id: str) -> str:
    """The id of the delivery that a message has of its own accord; replays may make copies."""
    return derived_id(endpoint_id, message_id)


def delivery_of(message: Message, endpoint: Endpoint, now: datetime, replay_id: str | None = None) -> Delivery:
    """The message on its way to the endpoint: due now, or in its user's line where the endpoint is an ordered one."""
    first = first_id(endpoint.id, message.id)
    return Delivery(
        id=derived_id(endpoint.id, message.id, replay_id) if replay_id else first,
        endpoint_id=endpoint.id,
        partner_id=endpoint.partner_id,
        user_id=message.user_id,
        message_id=message.id,
        message_type=message.type,
        created_at=now,
        body=message.body(endpoint.payload),
        due_at=None if endpoint.ordered else now,
        traceparent=message.traceparent,
        sequence=message.sequence,
        line=message.sequence if endpoint.ordered else None,
        replay_id=replay_id,
        copy_of=first if replay_id else None,
        stored_at=message.stored_at,
    )


def _with_copies(raw: dict[str, Any]) -> dict[str, Any]:
    """Upgrades a delivery of model version 1. One that a replay tried once more counts as a copy of itself."""
    copy_of = first_id(raw["endpoint_id"], raw["message_id"]) if raw.get("replay_id") else None
    return raw | {"sequence": raw.get("sequence") or 0, "copy_of": copy_of}


# A replay takes no longer; messages are kept for it until then.
LONGEST = timedelta(days=3)


class Replay(Job, frozen=True, kw_only=True):
    """Messages to send once more to one endpoint: one of that id, those stored from `since` until before `until`, or
    those whose deliveries were made in that time and failed.

    No `types` means all, "" as `user_id` all users. `made`: how many were sent again, `reached`: as far as when. It
    gives up at `ends_at`, since messages that it may still need are kept for it.
    """

    endpoint_id: str
    partner_id: str
    user_id: str
    kind: Literal["message", "range", "failed"]
    message_id: str
    since: datetime
    until: datetime
    types: tuple[str, ...]
    rate_per_s: int
    request_hash: str
    created_at: datetime
    ends_at: datetime
    state: Literal["running", "paused", "cancelled", "done", "failed"] = "running"
    made: int = 0
    reached: datetime | None = None
    cursor: str | None = None

    @property
    def open(self) -> bool:
        """Whether it may still send something."""
        return self.state in ("running", "paused")


def _from_the_start(raw: dict[str, Any]) -> dict[str, Any]:
    """Upgrades a replay of model version 1: its place is one in another index. What it made is not made twice."""
    return raw | {"cursor": None, "made": raw["made"] if raw["kind"] == "failed" else 0}


MESSAGES: Collection[Message] = Collection(
    "messages",
    Message,
    # A turn is stored at one time, so what was stored together is in the order of each user's numbers.
    (Index("sequence", ("user_id", "sequence"), unique=True), Index("stored", ("stored_at", "sequence"))),
)
GRANTS: Collection[Grant] = Collection("grants", Grant, (Index("pair", ("user_id", "partner_id")),))
PARTNERS: Collection[Partner] = Collection("partners", Partner)
ENDPOINTS: Collection[Endpoint] = Collection(
    "endpoints",
    Endpoint,
    (Index("partner", ("partner_id", "created_at")), Index("untold", ("untold_since",))),
    v=3,
    upgrades={1: marked_plain, 2: with_keys},
)
# What waits is in "lane" and "line" only, so looking for it passes over nothing else.
DELIVERIES: Collection[Delivery] = Collection(
    "deliveries",
    Delivery,
    (
        Index("lane", ("endpoint_id", "due_at")),
        Index("line", ("endpoint_id", "user_id", "line")),
        Index("endpoint", ("endpoint_id", "created_at")),
        Index("state", ("endpoint_id", "state", "created_at", "sequence")),
        Index("user", ("user_id", "endpoint_id", "created_at")),
        Index("copies", ("copy_of", "state", "created_at")),
    ),
    v=2,
    upgrades={1: _with_copies},
)
REPLAYS: Collection[Replay] = Collection(
    "replays",
    Replay,
    (
        DUE_INDEX,
        Index("endpoint", ("endpoint_id", "created_at")),
        Index("user", ("user_id",)),
        Index("open", ("state", "since")),
        Index("standing", ("endpoint_id", "state")),
    ),
    v=2,
    upgrades={1: _from_the_start},
)
PERSONAL: tuple[Declared, ...] = (
    Personal(MESSAGES, ("sequence",)),
    Personal(GRANTS, ("pair",)),
    Personal(DELIVERIES, ("user",)),
    Personal(REPLAYS, ("user",)),
    PERSONAL_PARTS,
    Impersonal(PARTNERS, "which partners may work, by their opaque ids"),
    Impersonal(
        ENDPOINTS, "a partner's own address and what it asked for; an erased user's id is taken out (Endpoints.forget)"
    ),
)
COLLECTIONS: tuple[Collection[Any], ...] = (*(one.collection for one in PERSONAL), TOMBSTONES)
