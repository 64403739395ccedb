"""What insights keeps: ledgers with their inputs, where each diary entry is, what is known of bodies, insights."""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal

import msgspec

from services.insights.energy import Body
from services.insights.facts import FactValue
from services.insights.ledger import Balance, DayInput, EntryInput
from shared.documents import Collection, Conflict, Document, Documents, Index, Page, Put
from shared.erased import Declared, Personal
from shared.erasure import TOMBSTONES
from shared.errors import Unavailable
from shared.export import PARTS, PERSONAL_PARTS
from shared.outbox import OUTBOX_INDEX, Outboxed

TRIES = 10
PAGE = 100


class Ledger(Outboxed, frozen=True, kw_only=True):
    """A day's energy ledger as last told, one revision of each input, and the facts last spoken of.

    Revision 0: nothing to tell yet.
    """

    user_id: str
    day: date
    updated_at: datetime
    revision: int = 0
    measured: DayInput | None = None
    entries: dict[str, EntryInput] = msgspec.field(default_factory=dict[str, EntryInput])
    balance: Balance = Balance()
    spoken: dict[str, Decimal] = msgspec.field(default_factory=dict[str, Decimal])


class Insight(Outboxed, frozen=True, kw_only=True):
    """A text about one day and the facts behind it; never changed."""

    user_id: str
    day: date
    created_at: datetime
    title: str
    text: str
    facts: tuple[FactValue, ...]
    mode: str


class EntryPlace(Document, frozen=True, kw_only=True):
    """In which day's ledger a diary entry is, as of its newest revision."""

    user_id: str
    day: date
    revision: int


class User(Document, frozen=True, kw_only=True):
    """What is known of a user's body."""

    revision: int
    body: Body


LEDGERS = Collection("ledgers", Ledger, (OUTBOX_INDEX, Index("user_day", ("user_id", "day"))))
INSIGHTS = Collection("insights", Insight, (OUTBOX_INDEX, Index("user_created", ("user_id", "created_at"))))
ENTRY_PLACES = Collection("entry_places", EntryPlace, (Index("user", ("user_id",)),))
USERS = Collection("users", User)
PERSONAL: tuple[Declared, ...] = (
    Personal(LEDGERS, ("user_day",)),
    Personal(INSIGHTS, ("user_created",)),
    Personal(ENTRY_PLACES, ("user",)),
    Personal(USERS),
    PERSONAL_PARTS,
)
COLLECTIONS = (LEDGERS, INSIGHTS, ENTRY_PLACES, USERS, PARTS, TOMBSTONES)


def ledger_id(user_id: str, day: date) -> str:
    """The id of a day's ledger."""
    return f"{user_id}/{day.isoformat()}"


class Store:
    """Insights' documents by what they are for. Raises `Unavailable("database")` from everything."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def ping(self) -> None:
        """Return when the database answers."""
        await self._documents.get(USERS, "-")

    async def ledger(self, user_id: str, day: date) -> Ledger | None:
        """A day's ledger."""
        return await self._documents.get(LEDGERS, ledger_id(user_id, day))

    async def ledgers(self, user_id: str, cursor: str | None) -> Page[Ledger]:
        """A user's ledgers, newest day first, page by page."""
        return await self._documents.find(LEDGERS, "user_day", (user_id,), descending=True, limit=PAGE, cursor=cursor)

    async def put_ledger(self, ledger: Ledger, insight: Insight | None) -> None:
        """Store the insight, if there is a new one, and then the ledger that remembers it. Raises `Conflict`."""
        puts = [Put(LEDGERS, ledger)]
        if insight is not None and await self._documents.get(INSIGHTS, insight.id) is None:
            puts.insert(0, Put(INSIGHTS, insight))
        await self._documents.put_many(puts)

    async def insights(self, user_id: str, limit: int, cursor: str | None) -> Page[Insight]:
        """A user's insights, newest first. Raises ValueError for a cursor that is not ours."""
        return await self._documents.find(
            INSIGHTS, "user_created", (user_id,), descending=True, limit=limit, cursor=cursor
        )

    async def entry_place(self, entry_id: str) -> EntryPlace | None:
        """Where that entry is."""
        return await self._documents.get(ENTRY_PLACES, entry_id)

    async def put_entry_place(self, place: EntryPlace) -> None:
        """Remember where an entry is. Raises `Conflict`."""
        await self._documents.put(ENTRY_PLACES, place)

    async def body(self, user_id: str) -> Body:
        """What is known of the user's body."""
        user = await self._documents.get(USERS, user_id)
        return user.body if user is not None else Body()

    async def put_user(self, user_id: str, revision: int, body: Body) -> None:
        """Keep a user's newest revision; an older one changes nothing."""
        for _ in range(TRIES):
            known = await self._documents.get(USERS, user_id)
            if known is not None and known.revision >= revision:
                return
            version = known.version if known is not None else 0
            try:
                await self._documents.put(USERS, User(id=user_id, version=version, revision=revision, body=body))
            except Conflict:
                continue
            return
        raise Unavailable("database")

    async def days_of(self, user_id: str) -> Sequence[date]:
        """All days of which the user has a ledger."""
        days: list[date] = []
        cursor: str | None = None
        while True:
            page = await self.ledgers(user_id, cursor)
            days.extend(one.day for one in page.documents)
            if (cursor := page.cursor) is None:
                return days
