"""Sessions as documents, and how what comes merges into what is there: by identity and version, as samples do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from services.ingest.buckets import HOUR_US, Outcome
from services.ingest.metrics import Stage
from services.ingest.records import Session
from services.ingest.removals import Judged, SessionRemoval, session_id
from services.ingest.samples import CheckedBatch
from services.ingest.sessions import CheckedSession, Stages, Stream
from shared.events.gateway import UNKNOWN_OFFSET, StageColumns, StreamColumns

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SessionChange:
    """One record of a turn about a session: `batch` is the place of its batch, `index` its own in that batch."""

    batch: int
    index: int
    wanted: Session


@dataclass(frozen=True)
class MergedSessions:
    """What a turn's sessions came to: those to write, an `Outcome` per change, and (change, state it replaced)."""

    written: dict[str, Session]
    outcomes: tuple[Outcome, ...]
    replaced: tuple[tuple[int, Session], ...]


def session_changes(judged: Sequence[Judged]) -> list[SessionChange]:
    """The sessions and removals of all batches, in order of arrival."""
    changes: list[SessionChange] = []
    for number, one in enumerate(judged):
        batch = one.batch
        changes.extend(SessionChange(number, each.index, _session(batch, each)) for each in batch.sessions)
        changes.extend(SessionChange(number, each.index, _tombstone(batch, each)) for each in one.sessions)
    return changes


def merge_sessions(changes: Sequence[SessionChange], stored: Mapping[str, Session]) -> MergedSessions:
    """Merge the changes into the sessions stored, by id."""
    states: dict[str, Session] = dict(stored)
    written: dict[str, Session] = {}
    outcomes: list[Outcome] = []
    replaced: list[tuple[int, Session]] = []
    for number, change in enumerate(changes):
        wanted = change.wanted
        held = states.get(wanted.id)
        outcome = _outcome(held, wanted)
        outcomes.append(outcome)
        if outcome in (Outcome.SUPERSEDED, Outcome.REFUSED_DELETED):
            continue
        if held is not None:
            if outcome == Outcome.DUPLICATE:
                if wanted.source_version <= held.source_version:
                    continue
                wanted = replace(held, source_version=wanted.source_version)
            elif not held.deleted:
                replaced.append((number, held))
                if wanted.deleted:
                    wanted = _emptied(held, wanted.source_version)
            wanted = replace(wanted, version=held.version)
        states[wanted.id] = written[wanted.id] = wanted
    return MergedSessions(written, tuple(outcomes), tuple(replaced))


def _emptied(held: Session, source_version: int) -> Session:
    """A tombstone in its place; it keeps the times, so that its days are known."""
    return replace(held, deleted=True, source_version=source_version, totals={}, stages=None, streams=())


def _outcome(held: Session | None, wanted: Session) -> Outcome:
    if held is None or (held.deleted and not wanted.deleted):
        if held is not None and wanted.source_version <= held.source_version:
            return Outcome.REFUSED_DELETED
        return Outcome.DELETED if wanted.deleted else Outcome.STORED
    if (held.deleted and wanted.deleted) or (not wanted.deleted and _says(held) == _says(wanted)):
        return Outcome.DUPLICATE
    if (wanted.source_version, wanted.deleted) < (held.source_version, held.deleted):
        return Outcome.SUPERSEDED
    return Outcome.DELETED if wanted.deleted else Outcome.CORRECTION


def _says(one: Session) -> Session:
    """What the source says; when and in which words it said so does not make it another session."""
    return replace(one, version=0, source_version=0, offset_minutes=0, arrived_at=_EPOCH, device_kind="")


def _session(batch: CheckedBatch, one: CheckedSession) -> Session:
    return Session(
        id=session_id(batch.user_id, batch.device_id, one.type, one.identity, one.named),
        user_id=batch.user_id,
        type=one.type,
        device_id=batch.device_id,
        device_kind=batch.device_kind,
        identity=one.identity.hex(),
        hour=one.end_us // HOUR_US,
        start_us=one.start_us,
        end_us=one.end_us,
        offset_minutes=one.offset_minutes,
        source_version=one.version,
        arrived_at=_EPOCH + timedelta(minutes=one.arrived),
        sport=one.sport,
        sport_sent=one.sport_sent,
        totals=one.totals,
        stages=None if one.stages is None else _stages(one.stages),
        streams=tuple(_stream(each) for each in one.streams),
    )


def _stages(stages: Stages) -> StageColumns:
    return StageColumns(
        start_us=stages.start.astype("<i8").tobytes(),
        end_us=stages.end.astype("<i8").tobytes(),
        stage=tuple(Stage(number).label for number in stages.stage.tolist()),
    )


def _stream(stream: Stream) -> StreamColumns:
    return StreamColumns(
        name=stream.name, at_us=stream.at.astype("<i8").tobytes(), value=stream.value.astype("<f8").tobytes()
    )


def _tombstone(batch: CheckedBatch, removal: SessionRemoval) -> Session:
    deletion = removal.deletion
    start = deletion.start_us or 0
    end = deletion.end_us if deletion.end_us is not None else start
    return Session(
        id=removal.id,
        user_id=batch.user_id,
        type=removal.type,
        device_id=batch.device_id,
        device_kind=batch.device_kind,
        identity=deletion.row_identity.hex(),
        hour=end // HOUR_US,
        start_us=start,
        end_us=end,
        offset_minutes=UNKNOWN_OFFSET,
        source_version=deletion.version,
        arrived_at=_EPOCH + timedelta(minutes=int(batch.occurred_at.timestamp()) // 60),
        deleted=True,
    )
