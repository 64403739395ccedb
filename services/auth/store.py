"""Auth's collections and the questions asked of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar, cast

from services.auth.accounts import User
from services.auth.audit import BY_USER, LINES
from services.auth.codes import CODES
from services.auth.codes import USER_INDEX as CODES_OF_USER
from services.auth.erasure_documents import ERASURE_JOBS
from services.auth.export_documents import EXPORTS
from services.auth.export_documents import USER_INDEX as EXPORTS_OF_USER
from services.auth.grants import GRANTS, Grant
from services.auth.grants import USER_INDEX as GRANTS_OF_USER
from services.auth.keys import PARTNER_KEYS, PartnerKey, key_id
from services.auth.partners import PARTNERS, Partner
from services.auth.recovery import Reset, reset_id
from services.auth.sessions import CUTOFFS, ENDED_INDEX, LIVE_INDEX, SESSIONS
from shared.documents.port import Collection, Conflict, Document, Documents, Duplicate, Index, Put
from shared.erased import Declared, Impersonal, Personal
from shared.outbox import OUTBOX_INDEX

D = TypeVar("D", bound=Document)


class GuessSlot(Document, frozen=True, kw_only=True):
    """Guesses at the addresses of one slot: when its bucket is full again, and failures since the last success."""

    full_at: datetime
    failures: int = 0


EMAIL_INDEX = "email"
MANAGED_INDEX = "managed"
CREATED_INDEX = "created"
USERS = Collection(
    "users",
    User,
    (
        Index(EMAIL_INDEX, ("email_hash",), unique=True),
        Index(MANAGED_INDEX, ("managed_by", "created_at")),
        Index(CREATED_INDEX, ("created_at",)),
        OUTBOX_INDEX,
    ),
)

RESETS = Collection("resets", Reset, (Index("user", ("user_id",)), Index("expiry", ("expires_at",))))
GUESSES = Collection("guesses", GuessSlot)

# Erased by `erasure.py` in an order of its own: what carries news goes once the news is out.
PERSONAL: tuple[Declared, ...] = (
    Personal(USERS),
    Personal(GRANTS, (GRANTS_OF_USER,)),
    Personal(SESSIONS, (LIVE_INDEX, ENDED_INDEX)),
    Personal(CUTOFFS),
    Personal(RESETS, ("user",)),
    Personal(CODES, (CODES_OF_USER,)),
    Personal(LINES, (BY_USER,)),
    Personal(EXPORTS, (EXPORTS_OF_USER,)),
    Impersonal(PARTNERS, "clients of users, with the address of whoever answers for them"),
    Impersonal(PARTNER_KEYS, "partners' keys, by their hashes"),
    Impersonal(GUESSES, "counters of attempts; an account's own goes when its tombstone is written"),
    Impersonal(ERASURE_JOBS, "the proof of erasures: opaque ids, times and numbers"),
)
COLLECTIONS = tuple(one.collection for one in PERSONAL)
OUTBOXED = (USERS, PARTNERS, GRANTS, SESSIONS, EXPORTS)


@dataclass(frozen=True)
class Store:
    """The database as auth sees it. Every call raises `Unavailable("database")` when it does not answer.

    `beside` is written in the same go, behind the document: lines of the audit log.
    """

    documents: Documents

    async def user(self, user_id: str) -> User | None:
        """The user of that id, unless erased."""
        user = await self.documents.get(USERS, user_id)
        return user if user is not None and user.erased_at is None else None

    async def user_by_email(self, email_hash: str) -> User | None:
        """The user of that address."""
        page = await self.documents.find(USERS, EMAIL_INDEX, (email_hash,), limit=1)
        return page.documents[0] if page.documents else None

    async def add_user(self, user: User, *beside: Put) -> User:
        """Store a new user. Raises `Duplicate` with index "id" or "email"."""
        try:
            return await self._put(USERS, user, beside)
        except Conflict as error:
            raise Duplicate(USERS.name, "id") from error

    async def put_user(self, user: User, *beside: Put) -> User:
        """Store a user over the version read. Raises `Conflict`."""
        return await self._put(USERS, user, beside)

    async def partner(self, partner_id: str) -> Partner | None:
        """The partner of that id."""
        return await self.documents.get(PARTNERS, partner_id)

    async def put_partner(self, partner: Partner, *beside: Put) -> Partner:
        """Store a partner over the version read. Raises `Conflict`."""
        return await self._put(PARTNERS, partner, beside)

    async def partner_key(self, key: str) -> PartnerKey | None:
        """What is known of an API key."""
        return await self.documents.get(PARTNER_KEYS, key_id(key))

    async def put_partner_key(self, key: PartnerKey, *beside: Put) -> PartnerKey:
        """Store a key over the version read. Raises `Conflict`."""
        return await self._put(PARTNER_KEYS, key, beside)

    async def grant(self, id: str) -> Grant | None:
        """The grant of that id."""
        return await self.documents.get(GRANTS, id)

    async def put_grant(self, grant: Grant, *beside: Put) -> Grant:
        """Store a grant over the version read. Raises `Conflict`."""
        return await self._put(GRANTS, grant, beside)

    async def guesses(self, slot: str) -> GuessSlot | None:
        """What is counted in a slot."""
        return await self.documents.get(GUESSES, slot)

    async def put_guesses(self, slot: GuessSlot) -> GuessSlot:
        """Store a slot over the version read. Raises `Conflict`."""
        return await self.documents.put(GUESSES, slot)

    async def delete_guesses(self, slot: str) -> None:
        """Forget what is counted in a slot."""
        await self.documents.delete(GUESSES, slot)

    async def add_reset(self, reset: Reset, now: datetime, *beside: Put) -> None:
        """Store a reset, and forget those that have run out."""
        await self.forget_resets_over(now)
        await self._put(RESETS, reset, beside)

    async def forget_resets_over(self, now: datetime) -> None:
        """Delete the letters' codes that have run out."""
        await self.documents.delete_where(RESETS, "expiry", (), below=now)

    async def reset(self, token: str) -> Reset | None:
        """The reset of this token, run out or not."""
        return await self.documents.get(RESETS, reset_id(token))

    async def take_reset(self, reset: Reset) -> bool:
        """Use it up; False when somebody else did."""
        return await self.documents.delete(RESETS, reset.id)

    async def forget_resets(self, user_id: str) -> None:
        """Let none of the user's letters work any more."""
        await self.documents.delete_where(RESETS, "user", (user_id,))

    async def _put(self, collection: Collection[D], document: D, beside: Sequence[Put]) -> D:
        stored = await self.documents.put_many([Put(collection, document), *beside])
        return cast(D, stored[0])
