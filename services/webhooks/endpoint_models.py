"""What partners send about endpoints, and what they see of them."""

import hashlib
from datetime import datetime
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.webhooks import custom_headers
from services.webhooks.keys import KeyKind
from services.webhooks.public import TYPES, EventType, Payload

LONGEST_OVERLAP_S = 24 * 3600
MAX_USERS = 1000
# Requests of before these could be said: a repeat of one must be recognised.
FIRST_FIELDS = frozenset({"url", "event_types"})
T = TypeVar("T", bound=str)


def _each_once(values: list[T]) -> list[T]:
    return sorted(set(values))


def _headers(headers: dict[str, str]) -> dict[str, str]:
    return dict(custom_headers.checked(headers))


Url = Annotated[str, Field(min_length=1, max_length=2048, examples=["https://partner.example/hooks"])]
Types = Annotated[
    list[EventType], AfterValidator(_each_once), Field(max_length=len(TYPES), description="Which types; none means all")
]
UserId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Users = Annotated[
    list[UserId],
    AfterValidator(_each_once),
    Field(max_length=MAX_USERS, description="Which users; none means all who grant something"),
]
PayloadChoice = Annotated[
    Payload, Field(description="thin: what happened where, and nothing of the user's data; full: all of it")
]
Ordered = Annotated[bool, Field(description="Each user's messages one after the other, in their order")]
Rate = Annotated[
    int | None, Field(ge=1, le=10_000, description="Deliveries that are started per second at most; null: no cap")
]
Headers = Annotated[
    dict[str, str],
    AfterValidator(_headers),
    Field(
        description="Sent with each delivery and shown to whoever reads the endpoint: no place for secrets",
        examples=[{"x-environment": "staging"}],
    ),
]


class NewEndpoint(BaseModel):
    """Where a partner wants its messages, and which, and how."""

    model_config = ConfigDict(extra="forbid")

    url: Url
    event_types: Types = []
    user_ids: Users = []
    payload: PayloadChoice = "thin"
    ordered: Ordered = False
    rate_per_s: Rate = None
    headers: Headers = {}
    signature: Annotated[KeyKind, Field(description="ed25519 gives you a public key, hmac a secret")] = "hmac"

    def fingerprint(self) -> str:
        """Equal for equal requests."""
        unsaid = {
            name
            for name, field in NewEndpoint.model_fields.items()
            if name not in FIRST_FIELDS and getattr(self, name) == field.default
        }
        return hashlib.sha256(self.model_dump_json(exclude=unsaid).encode()).hexdigest()


class ChangedEndpoint(BaseModel):
    """What shall be otherwise; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    url: Url = ""
    event_types: Types = []
    user_ids: Users = []
    payload: PayloadChoice = "thin"
    ordered: Ordered = False
    rate_per_s: Rate = None
    headers: Headers = {}
    state: Annotated[
        Literal["enabled", "paused"],
        Field(description="paused: deliveries wait; enabled: they go on, also where we disabled the endpoint"),
    ] = "enabled"


class NewSecret(BaseModel):
    """How the next key signs, and how long the ones before it go on signing beside it."""

    model_config = ConfigDict(extra="forbid")

    signature: Annotated[KeyKind | None, Field(description="hmac or ed25519; null: as the newest one")] = None
    overlap_s: Annotated[int, Field(ge=0, le=LONGEST_OVERLAP_S)] = LONGEST_OVERLAP_S


class KeyView(BaseModel):
    """A key that signs until `expires_at`; null is for ever. `public_key` of ed25519 alone."""

    signature: KeyKind
    created_at: datetime
    expires_at: datetime | None
    public_key: str | None = Field(examples=["whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="])


class EndpointView(BaseModel):
    """An endpoint as its partner sees it. `state_reason` says why we disabled it."""

    endpoint_id: str
    url: str
    event_types: tuple[str, ...]
    user_ids: tuple[str, ...]
    payload: Payload
    ordered: bool
    rate_per_s: int | None
    headers: dict[str, str]
    state: Literal["enabled", "paused", "disabled"]
    state_reason: str | None
    failing_since: datetime | None = Field(description="Since when no delivery has succeeded; null: the last one did")
    keys: list[KeyView] = Field(description="Those that sign now, the newest first")
    created_at: datetime


class CreatedEndpoint(EndpointView):
    """A new endpoint, with what verifies its messages."""

    secret: str | None = Field(
        description="Of an HMAC key: nothing else shows it", examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    )


class EndpointList(BaseModel):
    """All endpoints of the partner, oldest first."""

    endpoints: list[EndpointView]


class Rotated(BaseModel):
    """The key that signs from now on, and what verifies it: `secret` of an HMAC key, `public_key` of ed25519."""

    endpoint_id: str
    signature: KeyKind
    created_at: datetime
    secret: str | None = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    public_key: str | None
    earlier_until: datetime | None = Field(description="Until when earlier keys sign beside it; null: there are none")


class TestSent(BaseModel):
    """A test message on its way: its `webhook-id`, and its delivery."""

    message_id: str
    delivery_id: str
