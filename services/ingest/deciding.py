"""A turn decided, from its batches and what is known: rows merged, sessions merged, and the documents to write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.ingest.bucket_cache import BucketCache
from services.ingest.buckets import NO_ROWS, Array, Outcome, pack
from services.ingest.consequences import (
    Cause,
    places_of,
    replaced_samples,
    replaced_sessions,
    session_touches,
    touches_of,
    zones_of,
)
from services.ingest.joint_write import JointWrite
from services.ingest.known import Facts
from services.ingest.named import Homes, find_moves, hours_of
from services.ingest.records import (
    BUCKETS,
    DELETION_JOBS,
    DELETIONS,
    DEVICES,
    PLACES,
    RECEIPTS,
    SESSIONS,
    TAILS,
    ZONES,
    Bucket,
    DeletionJob,
    Deletions,
    Device,
    Receipt,
    Tail,
)
from services.ingest.removals import Judged, device_key, judge, packed
from services.ingest.samples import CheckedBatch
from services.ingest.session_merge import MergedSessions, SessionChange, merge_sessions, session_changes
from services.ingest.tails import HeldBucket, stored_rows
from services.ingest.touched import touched_days
from services.ingest.turn import REFUSALS, BucketKey, Tally, Turn, TurnResult, gather, merge_turn, too_dense, without
from shared.clock import Clock
from shared.documents import Put
from shared.events.gateway import UNKNOWN_OFFSET


@dataclass(frozen=True)
class Decided:
    """All that a turn comes to. `tailed`: places of the buckets whose rows are those of the tail alone."""

    judged: Sequence[Judged]
    turn: Turn
    held: Mapping[str, HeldBucket]
    tailed: frozenset[int]
    result: TurnResult
    homes: Homes
    changes: Sequence[SessionChange]
    sessions: MergedSessions

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """What became of each batch's records; a deletion to be searched for counts as deleted."""
        if not self.changes and not any(one.remembered for one in self.judged):
            return self.result.tallies
        outcomes: list[list[tuple[int, Outcome]]] = [[] for _ in self.judged]
        for change, outcome in zip(self.changes, self.sessions.outcomes, strict=True):
            outcomes[change.batch].append((change.index, outcome))
        return tuple(
            tally.plus(_session_tally(of_batch)).plus(Tally(deleted=len(one.remembered)))
            for tally, of_batch, one in zip(self.result.tallies, outcomes, self.judged, strict=True)
        )

    @property
    def floating(self) -> set[str]:
        """The users of what was put out of force and had no offset: its day rests on their zones."""
        unknown = self.result.replaced_by[self.result.replaced["offset"] == UNKNOWN_OFFSET]
        places: list[int] = self.turn.group[unknown].tolist()
        users = {self.turn.keys[place].user_id for place in places}
        return users | {was.user_id for _, was in self.sessions.replaced if was.offset_minutes == UNKNOWN_OFFSET}


async def decide_turn(
    buckets: BucketCache, batches: Sequence[CheckedBatch], turn: Turn, facts: Facts, held: dict[str, HeldBucket]
) -> Decided:
    """Decide about the batches. `turn` is they gathered; buckets that it turns out to need are read too."""
    judged: Sequence[Judged] = [Judged(batch) for batch in batches]
    if facts.deletions or any(batch.deletions for batch in batches):
        judged = judge(batches, facts.known_ids())
        turn = gather([one.batch for one in judged])
    places = {id: place.hours for id, place in facts.places.items()}
    while True:
        turn, moves, homes = find_moves(turn, places)
        if missing := [key for key in turn.keys if key.id not in held]:
            held = held | await buckets.held(missing)
        rows, tailed = stored_rows(turn, held)
        result = merge_turn(turn, rows, moves)
        crowded = too_dense(turn, result, {place: len(one) for place, one in result.buckets}, moves)
        if not crowded.any():
            break
        left = without(turn, crowded, "too-dense")
        judged = [replace(one, batch=batch) for one, batch in zip(judged, left, strict=True)]
        turn = gather(left)
    changes = session_changes(judged)
    return Decided(judged, turn, held, tailed, result, homes, changes, merge_sessions(changes, facts.sessions))


@dataclass(frozen=True)
class Extras:
    """What is written beside the samples. `settling`: each batch's receipt, or the search that it waits for."""

    settling: Sequence[Receipt | DeletionJob] = ()
    devices: Sequence[Device] = ()


def write_of(decided: Decided, causes: Sequence[Cause], facts: Facts, extras: Extras, clock: Clock) -> JointWrite:
    """The joint write of a decided turn."""
    turn, result, now = decided.turn, decided.result, clock()
    batches = [one.batch for one in decided.judged]
    histories = {batch.user_id: facts.history(batch.user_id) for batch in batches if batch.user_id in facts.floating}
    marks = touched_days(turn, result, histories)
    touches, lost = session_touches(decided.changes, decided.sessions, causes, histories)
    buckets, tails = _buckets(decided)
    places = places_of(hours_of(decided.homes, turn, result), facts.places)
    return JointWrite(
        history=[
            *replaced_samples(turn, result, now),
            *replaced_sessions(decided.changes, decided.sessions, causes, now),
        ],
        puts=[
            *(Put(BUCKETS, one) for one in buckets),
            *(Put(TAILS, one) for one in tails),
            *(Put(PLACES, one) for one in places),
            *(Put(SESSIONS, one) for one in decided.sessions.written.values()),
            *(Put(DELETIONS, one) for one in _deletions(decided.judged, facts)),
            *(Put(DEVICES, one) for one in extras.devices),
            *(Put(ZONES, one) for one in zones_of(batches, facts)),
        ],
        touches=[*touches_of(marks, causes), *lost, *touches],
        early=[*touches_of((mark for mark in marks if mark.early), causes), *lost],
        # In order of arrival: a batch that a crash leaves unsettled comes again, and must not come after a later one.
        receipts=[Put(DELETION_JOBS if isinstance(one, DeletionJob) else RECEIPTS, one) for one in extras.settling],
    )


def _buckets(decided: Decided) -> tuple[list[Bucket], list[Tail]]:
    """The buckets to write, and the tails: those that grew, and empty those whose rows went into a bucket."""
    buckets: list[Bucket] = []
    tails: list[Tail] = []
    # Where samples move to comes before where they were: a crash between leaves them in both, never in none.
    homes = frozenset(decided.result.homes)
    for place, rows in sorted(decided.result.buckets, key=lambda one: one[0] not in homes):
        key = decided.turn.keys[place]
        held = decided.held[key.id]
        if place in decided.tailed:
            tails.append(_tail(key, rows, held))
            continue
        version = held.bucket.version if held.bucket is not None else 0
        buckets.append(
            Bucket(
                id=key.id,
                version=version,
                user_id=key.user_id,
                metric=key.metric,
                device_id=key.device_id,
                device_kind=key.device_kind,
                hour=key.hour,
                columns=pack(rows),
            )
        )
        if held.tail is not None and held.tail.columns.count:
            tails.append(_tail(key, NO_ROWS, held))
    return buckets, tails


def _tail(key: BucketKey, rows: Array, held: HeldBucket) -> Tail:
    return Tail(
        id=key.id,
        version=held.tail.version if held.tail is not None else 0,
        user_id=key.user_id,
        metric=key.metric,
        device_id=key.device_id,
        device_kind=key.device_kind,
        hour=key.hour,
        columns=pack(rows),
        bucket_version=held.bucket.version if held.bucket is not None else 0,
    )


def _deletions(judged: Sequence[Judged], facts: Facts) -> list[Deletions]:
    found: dict[str, Deletions] = {}
    for one in judged:
        if not one.remembered:
            continue
        batch = one.batch
        id = device_key(batch.user_id, batch.device_id)
        held = found.get(id) or facts.deletions.get(id)
        identity, version = packed(
            (held.identity, held.source_version) if held is not None else (b"", b""), one.remembered
        )
        found[id] = Deletions(
            id=id,
            version=held.version if held is not None else 0,
            user_id=batch.user_id,
            device_id=batch.device_id,
            identity=identity,
            source_version=version,
        )
    return list(found.values())


def _session_tally(outcomes: Sequence[tuple[int, Outcome]]) -> Tally:
    count = [outcome for _, outcome in outcomes].count
    return Tally(
        count(Outcome.STORED),
        count(Outcome.DUPLICATE),
        count(Outcome.CORRECTION),
        count(Outcome.DELETED),
        tuple((index, REFUSALS[outcome]) for index, outcome in outcomes if outcome in REFUSALS),
    )
