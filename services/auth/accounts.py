"""Users: how an address is read, what ids derive from, and what others are told of a user."""

import hashlib
import hmac
import unicodedata
from base64 import b32encode
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec
from pydantic_core import PydanticCustomError

from shared.clock import utc_now
from shared.events.auth import Profile, UserUpdated
from shared.ids import derived_id
from shared.outbox import Outboxed

MAX_ADDRESS_CHARACTERS = 254
FIRST_BIRTH_DATE = date(1900, 1, 1)
# What a letter's `To` would read as several addresses, another one, or an encoded word (RFC 5322 §3.2.3, RFC 2047).
SPECIALS = frozenset('()<>[]:;,\\"')
ENCODED_WORD = "=?"


class StoredProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The profile as it lies in the database."""

    sex: Literal["female", "male"] | None = None
    birth_date: date | None = None
    height_cm: Decimal | None = None
    locale: str = "en"
    home_zone: str = "UTC"


class SecondFactor(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticator app. `sealed` is its secret; codes up to `last_step` are used; `recovery` are codes' hashes."""

    sealed: bytes
    last_step: int = -1
    recovery: tuple[str, ...] = ()


class Familiar(msgspec.Struct, frozen=True, kw_only=True):
    """Where the user signed in from: the network under the pepper, and when last (to a day)."""

    hash: str
    seen_at: datetime


class User(Outboxed, frozen=True, kw_only=True):
    """A user. `email_hash` is the normalised address under the pepper; `request_hash` leaves the password out.

    `revision` counts what others are told of. `pending_factor` is an authenticator that no code has confirmed yet.
    A partner made a user who is `managed_by` it: such a one has no address and no password and never signs in.
    What stands in the place of a user who was `erased_at` some time says nothing else of them.
    """

    email: str
    email_hash: str | None
    password_hash: str
    profile: StoredProfile
    revision: int
    created_at: datetime
    request_hash: str
    second_factor: SecondFactor | None = None
    pending_factor: SecondFactor | None = None
    familiar: tuple[Familiar, ...] = ()
    managed_by: str | None = None
    erased_at: datetime | None = None


class Pepper:
    """Keyed hashes, so that neither ids nor indexes tell an address to somebody who guesses it."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("the pepper needs 32 bytes")
        self._secret = secret

    def user_id(self, idempotency_key: str, email: str) -> str:
        """The id of the user that this request makes: a repeat makes the same one."""
        digest = self._digest("user", idempotency_key, email)
        return "usr_" + b32encode(digest[:15]).decode().lower()

    def managed_user_id(self, idempotency_key: str, partner_id: str) -> str:
        """The id of the managed user that this request of a partner makes."""
        digest = self._digest("managed user", idempotency_key, partner_id)
        return "usr_" + b32encode(digest[:15]).decode().lower()

    def partner_id(self, idempotency_key: str, contact: str) -> str:
        """The id of the partner that this registration makes."""
        digest = self._digest("partner", idempotency_key, contact)
        return "par_" + b32encode(digest[:15]).decode().lower()

    def erasure_id(self, user_id: str) -> str:
        """Where the erasure of this user can be looked at, by whoever was told so."""
        return "ers_" + b32encode(self._digest("erasure", user_id)[:20]).decode().lower()

    def email_hash(self, email: str) -> str:
        """The unique index on addresses."""
        return self._digest("email", email).hex()

    def familiar_hash(self, user_id: str, network: str) -> str:
        """A network that this user signed in from; the same one reads differently for every user."""
        return self._digest("familiar", user_id, network).hex()

    def guess_slot(self, email: str, slots: int) -> int:
        """Which of `slots` counters guesses at this address count in."""
        return int.from_bytes(self._digest("guesses", email)[:8], "big") % slots

    def recovery_hash(self, user_id: str, code: str) -> str:
        """A recovery code of this user."""
        return self._digest("recovery", user_id, code).hex()

    def _digest(self, *parts: str) -> bytes:
        message = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
        return hmac.digest(self._secret, message, "sha256")


def normalised_address(text: str) -> str:
    """The address in lower case and Unicode form NFKC.

    Raises:
        PydanticCustomError: it cannot be an address, or only one in quotes, which nobody has and letters read
            otherwise. It is a ValueError. The real check is a mail that arrives.
    """
    address = unicodedata.normalize("NFKC", text).strip().lower()
    local, _, domain = address.partition("@")
    if not (local and "." in domain.strip(".")) or "@" in domain or len(address) > MAX_ADDRESS_CHARACTERS:
        raise _no_address()
    if not address.isprintable() or " " in address or ENCODED_WORD in address or not SPECIALS.isdisjoint(address):
        raise _no_address()
    return address


def _no_address() -> PydanticCustomError:
    return PydanticCustomError("address", "Send an e-mail address such as ada@example.org")


def possible_birth_date(birth_date: date | None) -> date | None:
    """`birth_date` unless it is before 1900 or in the future. Raises PydanticCustomError."""
    # Somewhere it is tomorrow already.
    if birth_date is not None and not FIRST_BIRTH_DATE <= birth_date <= utc_now().date() + timedelta(days=1):
        raise PydanticCustomError("birth_date", "Send a date between 1900-01-01 and today, or leave it out")
    return birth_date


def known_zone(name: str) -> str:
    """`name` again when it is an IANA time zone. Raises PydanticCustomError."""
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise PydanticCustomError("time_zone", "Send an IANA time zone such as Europe/Berlin") from error
    return name


def profile_hash(profile: Profile) -> str:
    """What a repeated sign-up must have in common with the first, beside address and password."""
    return hashlib.sha256(profile.model_dump_json().encode()).hexdigest()


def stored_profile(profile: Profile) -> StoredProfile:
    """The profile for the database."""
    return StoredProfile(**profile.model_dump())


def public_profile(profile: StoredProfile) -> Profile:
    """The profile as events and answers carry it."""
    return Profile.model_validate(msgspec.structs.asdict(profile))


def user_updated(user: User, at: datetime) -> UserUpdated:
    """The event that tells the others of this revision."""
    return UserUpdated(
        event_id=derived_id(user.id, user.revision, "user.updated"),
        occurred_at=at,
        user_id=user.id,
        revision=user.revision,
        profile=public_profile(user.profile),
    )
