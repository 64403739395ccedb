"""What a turn must know beside its buckets before it can be decided: all that its records refer to."""

import asyncio
from collections.abc import Collection as Several
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from services.ingest.metrics import METRICS
from services.ingest.records import (
    DELETION_JOBS,
    DELETIONS,
    DEVICES,
    PLACES,
    RECEIPTS,
    SESSIONS,
    USERS,
    ZONES,
    DeletionJob,
    Deletions,
    Device,
    Place,
    Receipt,
    Session,
    User,
    Zones,
)
from services.ingest.removals import Known, Remembered, device_key, named_rows, place_id, session_id
from services.ingest.samples import CheckedBatch
from services.ingest.zones import ZoneHistory
from shared.documents import Collection, Document, Documents
from shared.events.gateway import UNKNOWN_OFFSET

D = TypeVar("D", bound=Document)


@dataclass(frozen=True)
class Facts:
    """Documents by id, those there are; `searches` are by receipt. `floating`: the users whose zones were read."""

    receipts: dict[str, Receipt]
    searches: dict[str, DeletionJob]
    deletions: dict[str, Deletions]
    places: dict[str, Place]
    sessions: dict[str, Session]
    devices: dict[str, Device]
    zones: dict[str, Zones]
    users: dict[str, User]
    floating: frozenset[str]

    def is_settled(self, receipt_id: str) -> bool:
        """Whether the batch is stored already. A failed one that comes again may yet be."""
        receipt = self.receipts.get(receipt_id)
        return receipt_id in self.searches or (receipt is not None and receipt.state != "failed")

    def known_ids(self) -> Known:
        """What is known of ids, for deletions to strike."""
        return Known(
            {id: dict(place.hours) for id, place in self.places.items()},
            {id: session.type for id, session in self.sessions.items()},
            {id: [Remembered.of(one.identity, one.source_version)] for id, one in self.deletions.items()},
        )

    def history(self, user_id: str) -> ZoneHistory:
        """Where the user's clock stood."""
        user, zones = self.users.get(user_id), self.zones.get(user_id)
        home = user.home_zone if user is not None else "UTC"
        return ZoneHistory(home, zones.history.changes if zones is not None else ())


async def read_facts(documents: Documents, batches: Sequence[CheckedBatch], devices: Several[str]) -> Facts:
    """What the batches refer to. `devices`: the ids of those to look up."""
    floating = frozenset(one.user_id for one in batches if one.zone or _has_unknown_offsets(one))
    of_records = asyncio.gather(
        by_id(documents, DELETIONS, (device_key(one.user_id, one.device_id) for one in batches)),
        by_id(documents, PLACES, (id for one in batches for id in _places(one))),
        by_id(documents, SESSIONS, (id for one in batches for id in _sessions(one))),
    )
    of_senders = asyncio.gather(
        by_id(documents, DEVICES, devices),
        by_id(documents, ZONES, floating),
        by_id(documents, USERS, floating),
    )
    of_batches = asyncio.gather(
        by_id(documents, RECEIPTS, (one.receipt_id for one in batches)),
        by_id(documents, DELETION_JOBS, (one.receipt_id for one in batches if one.deletions)),
    )
    found = await asyncio.gather(of_batches, of_records, of_senders)
    (receipts, searches), (deletions, places, sessions), (known_devices, zones, users) = found
    return Facts(receipts, searches, deletions, places, sessions, known_devices, zones, users, floating)


async def with_zones_of(documents: Documents, facts: Facts, users: Several[str]) -> Facts:
    """The facts with the zones of more users."""
    missing = set(users) - facts.floating
    if not missing:
        return facts
    zones, found = await asyncio.gather(by_id(documents, ZONES, missing), by_id(documents, USERS, missing))
    return replace(facts, zones=facts.zones | zones, users=facts.users | found, floating=facts.floating | missing)


async def by_id(documents: Documents, collection: Collection[D], ids: Iterable[str]) -> dict[str, D]:
    """The documents there are of these ids, by id."""
    unique = list(dict.fromkeys(ids))
    found = await documents.get_many(collection, unique) if unique else []
    return {one.id: one for one in found if one is not None}


def _places(batch: CheckedBatch) -> Iterable[str]:
    for series in batch.series:
        if not METRICS[series.metric].dense:
            for identity, _ in named_rows(series):
                yield place_id(batch.user_id, batch.device_id, identity)
    for one in batch.deletions:
        if one.identity is not None:
            yield place_id(batch.user_id, batch.device_id, one.identity)


def _sessions(batch: CheckedBatch) -> Iterable[str]:
    user, device = batch.user_id, batch.device_id
    for session in batch.sessions:
        yield session_id(user, device, session.type, session.identity, session.named)
    for one in batch.deletions:
        if one.identity is not None:
            yield session_id(user, device, "", one.identity, named=True)
        elif METRICS[one.metric].kind == "session":
            yield session_id(user, device, one.metric, one.row_identity, named=False)


def _has_unknown_offsets(batch: CheckedBatch) -> bool:
    return (
        bool(batch.deletions)
        or any((one.rows["offset"] == UNKNOWN_OFFSET).any() for one in batch.series)
        or any(one.offset_minutes == UNKNOWN_OFFSET for one in batch.sessions)
    )
