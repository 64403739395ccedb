"""The documents of one joint write, in the order in which a crash between any two does no harm.

history → early marks → buckets → tails → places → sessions → deletions → devices, zones → marks → searches, receipts;
Kafka's offsets follow. A batch that comes again after a crash finds its samples as duplicates, marks its days again and
still has no receipt. What a correction put out of force is gone by then, so the days it lay in are marked before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.ingest.marks import DAY_PAUSE, Touch, day_id, marked
from services.ingest.records import DIRTY_DAYS, REPLACED, DirtyDay, Replaced
from shared.clock import Clock
from shared.documents import Conflict, Documents, Put
from shared.errors import Unavailable

TRIES = 10
# An early mark comes due when the write is long done; the mark behind the buckets then says when it really is.
EARLY = timedelta(seconds=10) + DAY_PAUSE


@dataclass(frozen=True)
class JointWrite:
    """What to write. `puts`: buckets to zones in order; `early`: those of `touches` whose days lose something."""

    history: Sequence[Replaced] = ()
    puts: Sequence[Put] = ()
    touches: Sequence[Touch] = ()
    early: Sequence[Touch] = ()
    receipts: Sequence[Put] = field(default=())

    async def run(self, documents: Documents, clock: Clock) -> datetime | None:
        """Write it; returns when the first of the days is due.

        Days are marked by their workers too, so what collided there alone is read again here.

        Raises:
            Conflict: something else was changed meanwhile: read again and merge.
        """
        puts, history = list(self.puts), await _new(documents, self.history)
        for _ in range(TRIES):
            early, marks = await self._marks(documents, clock())
            try:
                await documents.put_many(
                    [*_puts(REPLACED, history), *early, *puts, *_puts(DIRTY_DAYS, marks), *self.receipts]
                )
            except Conflict as conflict:
                if conflict.collection != DIRTY_DAYS.name:
                    raise
                # MongoDB has written what stands before.
                history, puts = await _new(documents, history), await _unwritten(documents, puts)
            else:
                return min((one.due_at for one in marks if one.due_at is not None), default=None)
        raise Unavailable("database")

    async def _marks(self, documents: Documents, now: datetime) -> tuple[list[Put], list[DirtyDay]]:
        ids = list(dict.fromkeys(day_id(one.user_id, one.day) for one in self.touches))
        held = dict(zip(ids, await documents.get_many(DIRTY_DAYS, ids), strict=True))
        early = _folded(held, self.early, now)
        marks = _folded(held, self.touches, now)
        for id in early:
            marks[id] = replace(marks[id], version=marks[id].version + 1)
        return (
            [Put(DIRTY_DAYS, replace(one, due_at=now + EARLY)) for one in early.values()],
            list(marks.values()),
        )


def _folded(held: Mapping[str, DirtyDay | None], touches: Iterable[Touch], now: datetime) -> dict[str, DirtyDay]:
    marks: dict[str, DirtyDay] = {}
    for touch in touches:
        id = day_id(touch.user_id, touch.day)
        marks[id] = marked(marks.get(id, held[id]), touch, now)
    return marks


def _puts(collection: object, documents: Iterable[object]) -> list[Put]:
    return [Put(collection, one) for one in documents]  # pyright: ignore[reportArgumentType]


async def _new(documents: Documents, history: Sequence[Replaced]) -> list[Replaced]:
    """Those not written by an attempt before: their ids follow from what they say."""
    unique = {one.id: one for one in history}
    found = await documents.get_many(REPLACED, list(unique))
    return [one for one, known in zip(unique.values(), found, strict=True) if known is None]


async def _unwritten(documents: Documents, puts: Sequence[Put]) -> list[Put]:
    """What of `puts` is not stored yet. The order is kept, so behind the first that is not there is none.

    Raises:
        Conflict: one is stored otherwise.
    """
    for place, put in enumerate(puts):
        stored = await documents.get(put.collection, put.document.id)
        wanted = put.document.version
        if (stored.version if stored is not None else 0) == wanted:
            return list(puts[place:])
        if stored is None or stored != replace(put.document, version=wanted + 1):
            raise Conflict(put.collection.name, [put.document.id])
    return []
