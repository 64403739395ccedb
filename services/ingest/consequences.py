"""What follows from a decided turn beside its buckets: history, touched days, places, devices and zones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from services.ingest.buckets import HOUR_US, MINUTE_US, Outcome
from services.ingest.days import DAY_US, date_of
from services.ingest.known import Facts
from services.ingest.marks import Touch
from services.ingest.records import Device, Place, Replaced, Session, Zones
from services.ingest.removals import device_key
from services.ingest.samples import CheckedBatch
from services.ingest.session_merge import MergedSessions, SessionChange
from services.ingest.touched import DirtyMark
from services.ingest.turn import Turn, TurnResult
from services.ingest.zones import ZoneChange, ZoneHistory, changed, zone_of
from shared.events.gateway import UNKNOWN_OFFSET
from shared.ids import derived_id

# A device is seen anew when it was not for so long.
SEEN_EVERY = timedelta(minutes=10)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Cause:
    """What a batch hands on: its receipt, its trace and the zone it named."""

    receipt_id: str
    traceparent: str | None
    zone: str


def replaced_samples(turn: Turn, result: TurnResult, now: datetime) -> list[Replaced]:
    """The history of a turn's samples; repeated, it has the same ids."""
    history: list[Replaced] = []
    for row, by in zip(result.replaced, result.replaced_by.tolist(), strict=True):
        newer = turn.rows[by]
        key = turn.keys[int(turn.group[by])]
        bucket = key.of(int(row["start"]))
        moved = not newer["deleted"] and key.of(int(newer["start"])).id != bucket.id
        identity = (int(row["id_hi"]).to_bytes(8, "little") + int(row["id_lo"]).to_bytes(8, "little")).hex()
        receipt_id = turn.batches[int(turn.batch_of(by))].receipt_id
        was = (int(row["start"]), int(row["end"]), float(row["value"]), int(row["version"]))
        history.append(
            Replaced(
                id=derived_id("replaced", bucket.id, identity, receipt_id, *was),
                user_id=key.user_id,
                metric=key.metric,
                device_id=key.device_id,
                identity=identity,
                start_us=was[0],
                end_us=was[1],
                value=was[2],
                source_version=was[3],
                replaced_at=now,
                receipt_id=receipt_id,
                reason="deleted" if newer["deleted"] else "moved" if moved else "correction",
                bucket=bucket.id,
            )
        )
    return history


def replaced_sessions(
    changes: Sequence[SessionChange], merged: MergedSessions, causes: Sequence[Cause], now: datetime
) -> list[Replaced]:
    """The history of a turn's sessions; `value` is how long one was, in seconds."""
    return [
        Replaced(
            id=derived_id("replaced", causes[changes[number].batch].receipt_id, msgspec.msgpack.encode(was).hex()),
            user_id=was.user_id,
            metric=was.type,
            device_id=was.device_id,
            identity=was.identity,
            start_us=was.start_us,
            end_us=was.end_us,
            value=(was.end_us - was.start_us) / 1_000_000,
            source_version=was.source_version,
            replaced_at=now,
            receipt_id=causes[changes[number].batch].receipt_id,
            reason="deleted" if changes[number].wanted.deleted else "correction",
            bucket=was.id,
        )
        for number, was in merged.replaced
    ]


def touches_of(marks: Iterable[DirtyMark], causes: Sequence[Cause]) -> list[Touch]:
    """Touches of the days that samples mark."""
    return [
        Touch(
            user_id=mark.user_id,
            day=mark.day,
            from_hour=mark.from_hour,
            to_hour=mark.to_hour,
            metrics=mark.metrics,
            reason=mark.reason,
            zone=causes[mark.batch].zone,
            traceparent=causes[mark.batch].traceparent,
        )
        for mark in marks
    ]


_REASONS = {Outcome.STORED: "late-data", Outcome.DELETED: "deletion"}


def session_touches(
    changes: Sequence[SessionChange],
    merged: MergedSessions,
    causes: Sequence[Cause],
    histories: Mapping[str, ZoneHistory],
) -> tuple[list[Touch], list[Touch]]:
    """Touches of the days of a turn's sessions as sent, and of those that they put out of force."""
    now: list[Touch] = []
    before: list[Touch] = []
    for change, outcome in zip(changes, merged.outcomes, strict=True):
        # A deletion by id alone tells no times; what it struck does.
        if change.wanted.start_us:
            reason = _REASONS.get(outcome, "correction")
            now.extend(_days(change.wanted, reason, causes[change.batch], histories))
    for number, was in merged.replaced:
        change = changes[number]
        reason = _REASONS.get(merged.outcomes[number], "correction")
        before.extend(_days(was, reason, causes[change.batch], histories))
    return now, before


def _days(one: Session, reason: str, cause: Cause, histories: Mapping[str, ZoneHistory]) -> Iterable[Touch]:
    offset = one.offset_minutes
    if offset == UNKNOWN_OFFSET:
        zone = zone_of(histories.get(one.user_id, ZoneHistory()).at(one.end_us)) or UTC
        there = (_EPOCH + timedelta(microseconds=one.end_us)).astimezone(zone).utcoffset() or timedelta()
        offset = round(there.total_seconds() / 60)
    shift = offset * MINUTE_US
    # A sleep may tie those of the days beside it into one.
    beside = 1 if one.type == "sleep" else 0
    for day in range((one.start_us + shift) // DAY_US - beside, (one.end_us + shift) // DAY_US + 1 + beside):
        yield Touch(
            user_id=one.user_id,
            day=date_of(day),
            from_hour=one.start_us // HOUR_US,
            to_hour=one.end_us // HOUR_US + 1,
            metrics=(one.type,),
            reason=reason,
            zone=cause.zone,
            traceparent=cause.traceparent,
        )


def places_of(hours: Mapping[str, tuple[str, dict[str, int]]], held: Mapping[str, Place]) -> list[Place]:
    """The places that changed."""
    places: list[Place] = []
    for id, (user_id, mine) in hours.items():
        known = held.get(id)
        before = known.hours if known is not None else {}
        if (after := before | mine) != before:
            version = known.version if known is not None else 0
            places.append(Place(id=id, version=version, user_id=user_id, hours=after))
    return places


def devices_of(batches: Iterable[CheckedBatch], held: Mapping[str, Device]) -> list[Device]:
    """The devices that are new, changed kind or app, or were not seen for some time."""
    devices: dict[str, Device] = {}
    for batch in batches:
        id = device_key(batch.user_id, batch.device_id)
        known = devices.get(id) or held.get(id)
        seen_at = batch.occurred_at
        if known is None:
            known = Device(
                id=id,
                user_id=batch.user_id,
                device_id=batch.device_id,
                kind=batch.device_kind,
                app=batch.app,
                first_seen_at=seen_at,
                seen_at=seen_at,
            )
            devices[id] = known
        elif is_news(known, batch):
            devices[id] = msgspec.structs.replace(
                known, kind=batch.device_kind, app=batch.app, seen_at=max(seen_at, known.seen_at)
            )
    return list(devices.values())


def is_news(known: Device, batch: CheckedBatch) -> bool:
    """Whether the batch says something new of its device."""
    return (known.kind, known.app) != (batch.device_kind, batch.app) or batch.occurred_at - known.seen_at >= SEEN_EVERY


def zones_of(batches: Sequence[CheckedBatch], facts: Facts) -> list[Zones]:
    """The zone histories that the batches' zones change."""
    found: dict[str, ZoneHistory] = {}
    for batch in batches:
        if not batch.zone:
            continue
        history = found.get(batch.user_id) or facts.history(batch.user_id)
        at_us = round(batch.occurred_at.timestamp() * 1_000_000)
        if history.at(at_us) != batch.zone:
            found[batch.user_id] = changed(history, [ZoneChange(at_us, batch.zone)])
    return [
        Zones(
            id=user_id,
            version=facts.zones[user_id].version if user_id in facts.zones else 0,
            history=history,
        )
        for user_id, history in found.items()
    ]
