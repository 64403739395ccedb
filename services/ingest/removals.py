"""What deletions strike: samples by metric and time, sparse samples and sessions by id, and else whatever comes later.

A deletion by id alone of a sample nobody knows is remembered for its device and bars that id from then on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.ingest.buckets import HOUR_US, ROW, Array, joined
from services.ingest.deletions import CheckedDeletion
from services.ingest.metrics import METRICS
from services.ingest.samples import CheckedBatch, CheckedSeries
from services.ingest.sessions import CheckedSession
from services.ingest.turn import NO_RECORD
from shared.events.gateway import UNKNOWN_OFFSET

DENSE = tuple(metric.name for metric in METRICS.values() if metric.dense)
# 24 bytes each: 1.2 MB a device. Older ones are forgotten: a phone that long out of reach sends its samples anew.
MAX_REMEMBERED = 50_000
_MINUTE = 60


def device_key(user_id: str, device_id: str) -> str:
    """The id of a document about one user's device; the device's name, which may hold anything, comes last."""
    return f"{user_id}/{device_id}"


def place_id(user_id: str, device_id: str, identity: bytes) -> str:
    """The id of the place of what a source's device calls by that id."""
    return f"{user_id}/{identity.hex()}/{device_id}"


def session_id(user_id: str, device_id: str, type: str, identity: bytes, named: bool) -> str:
    """The id of a session's document. Without a source's id `identity` is (start, end), and the type counts too."""
    return f"{user_id}/{identity.hex() if named else f'{type}-{identity.hex()}'}/{device_id}"


@dataclass(frozen=True)
class Remembered:
    """Deletions by id alone of one device: int64 versions, and the identities sorted by their first 8 bytes."""

    hi: Array
    lo: Array
    version: Array

    @classmethod
    def of(cls, identity: bytes, version: bytes) -> "Remembered":
        """The deletions in packed columns."""
        pairs = np.frombuffer(identity, "<u8").reshape(-1, 2)
        order = np.argsort(pairs[:, 0], kind="stable")
        return cls(pairs[order, 0], pairs[order, 1], np.frombuffer(version, "<i8")[order])

    def bars(self, id_hi: Array, id_lo: Array, version: Array) -> Array:
        """Per row, whether it is deleted: its version is not later than the deletion's."""
        begin = np.searchsorted(self.hi, id_hi, side="left")
        end = np.searchsorted(self.hi, id_hi, side="right")
        barred = np.zeros(len(id_hi), bool)
        for place in np.flatnonzero(begin < end):
            at = slice(begin[place], end[place])
            barred[place] = bool(((self.lo[at] == id_lo[place]) & (self.version[at] >= version[place])).any())
        return barred


def packed(known: tuple[bytes, bytes], deletions: Sequence[CheckedDeletion]) -> tuple[bytes, bytes]:
    """The packed columns with more deletions, the newest last; of one identity the highest version stays."""
    columns = zip(_sixteens(known[0]), np.frombuffer(known[1], "<i8").tolist(), strict=True)
    versions: dict[bytes, int] = dict(columns)
    for one in deletions:
        highest = max(one.version, versions.pop(one.row_identity, 0))
        versions[one.row_identity] = highest
    kept = list(versions.items())[-MAX_REMEMBERED:]
    return b"".join(identity for identity, _ in kept), np.array([one for _, one in kept], "<i8").tobytes()


def _sixteens(data: bytes) -> Iterator[bytes]:
    return (data[place : place + 16] for place in range(0, len(data), 16))


@dataclass(frozen=True)
class SessionRemoval:
    """A deletion that strikes a session; `index` may be `NO_RECORD`."""

    index: int
    id: str
    type: str
    deletion: CheckedDeletion


@dataclass(frozen=True)
class Judged:
    """A batch with its deletions made tombstones of its series, and what is left of them.

    `remembered`: deletions by id alone that strike nothing known; `searched`: the dense metrics to search for them.
    """

    batch: CheckedBatch
    sessions: tuple[SessionRemoval, ...] = ()
    remembered: tuple[CheckedDeletion, ...] = ()
    searched: frozenset[str] = frozenset()


@dataclass
class Known:
    """What is known of ids, by document id: it grows with the batches of a turn, in order of arrival."""

    places: dict[str, dict[str, int]]
    sessions: dict[str, str]
    remembered: dict[str, list[Remembered]]


def judge(batches: Sequence[CheckedBatch], known: Known) -> list[Judged]:
    """Strike what the batches delete, and refuse what was deleted before it came."""
    by_id = any(one.identity is not None for batch in batches for one in batch.deletions)
    judged: list[Judged] = []
    for batch in batches:
        batch = _barred(batch, known.remembered.get(device_key(batch.user_id, batch.device_id), ()))
        if by_id:
            _learn(batch, known)
        judged.append(_judged(batch, known) if batch.deletions else Judged(batch))
        if remembered := judged[-1].remembered:
            more = Remembered.of(*packed((b"", b""), remembered))
            known.remembered.setdefault(device_key(batch.user_id, batch.device_id), []).append(more)
    return judged


def _barred(batch: CheckedBatch, remembered: Sequence[Remembered]) -> CheckedBatch:
    if not remembered:
        return batch
    refused: list[tuple[int, str]] = []
    series: list[CheckedSeries] = []
    for one in batch.series:
        rows = one.rows
        barred = np.any([each.bars(rows["id_hi"], rows["id_lo"], rows["version"]) for each in remembered], axis=0)
        barred &= rows["deleted"] == 0
        refused.extend((place, "deleted") for place in one.index[barred].tolist())
        series.append(CheckedSeries(one.metric, rows[~barred], one.index[~barred]) if barred.any() else one)
    gone = {one.index for one in batch.sessions if any(_bars_session(each, one) for each in remembered)}
    if not refused and not gone:
        return batch
    refused.extend((index, "deleted") for index in gone)
    return replace(
        batch,
        series=tuple(one for one in series if len(one.rows)),
        sessions=tuple(one for one in batch.sessions if one.index not in gone),
        refused=tuple(sorted((*batch.refused, *refused))),
    )


def _bars_session(remembered: Remembered, one: CheckedSession) -> bool:
    identity = np.frombuffer(one.identity, "<u8")
    return bool(remembered.bars(identity[:1], identity[1:], np.array([one.version])).any())


def _learn(batch: CheckedBatch, known: Known) -> None:
    """Take in where the batch's own sparse samples and sessions lie."""
    for series in batch.series:
        if not METRICS[series.metric].dense:
            for identity, hour in named_rows(series):
                of_id = known.places.setdefault(place_id(batch.user_id, batch.device_id, identity), {})
                of_id.setdefault(series.metric, hour)
    for one in batch.sessions:
        known.sessions[session_id(batch.user_id, batch.device_id, one.type, one.identity, one.named)] = one.type


def named_rows(series: CheckedSeries) -> Iterator[tuple[bytes, int]]:
    """Identity and bucket hour of the rows that the source names."""
    rows = series.rows
    hours = rows["start"] // HOUR_US
    hours -= hours % METRICS[series.metric].bucket_hours
    named = (rows["id_hi"] != rows["start"].view("<u8")) | (rows["id_lo"] != rows["end"].view("<u8"))
    pairs = np.stack((rows["id_hi"], rows["id_lo"]), axis=1)[named].tobytes()
    return zip(_sixteens(pairs), hours[named].tolist(), strict=True)


def _judged(batch: CheckedBatch, known: Known) -> Judged:
    strikes: dict[str, list[tuple[int, int, int, CheckedDeletion]]] = {}
    sessions: list[SessionRemoval] = []
    remembered: list[CheckedDeletion] = []
    searched: set[str] = set()
    for one in batch.deletions:
        struck = _strikes(batch, one, known)
        removed = _sessions(batch, one, known)
        for number, (metric, start, end) in enumerate(struck):
            index = one.index if number == 0 and not removed else NO_RECORD
            strikes.setdefault(metric, []).append((index, start, end, one))
        sessions.extend(SessionRemoval(one.index, id, type, one) for id, type in removed)
        if not struck and not removed:
            remembered.append(one)
            searched.update(DENSE if not one.metric else {one.metric} & set(DENSE))
    series = {one.metric: one for one in batch.series}
    for metric, struck in strikes.items():
        series[metric] = _with_tombstones(series.get(metric), metric, struck, batch)
    return Judged(
        replace(batch, series=tuple(series.values())), tuple(sessions), tuple(remembered), frozenset(searched)
    )


def _strikes(batch: CheckedBatch, one: CheckedDeletion, known: Known) -> list[tuple[str, int, int]]:
    """(metric, start, end) of the tombstones; the start says the bucket."""
    start, end = one.start_us, one.end_us if one.end_us is not None else one.start_us
    if one.identity is not None:
        hours = known.places.get(place_id(batch.user_id, batch.device_id, one.identity), {})
        found = [(name, hour * HOUR_US, hour * HOUR_US) for name, hour in hours.items() if one.metric in ("", name)]
        if found:
            return found
    if start is None or end is None or one.metric in ("", "workout") or (one.identity and one.metric == "sleep"):
        return []
    return [(one.metric, start, end)]


def _sessions(batch: CheckedBatch, one: CheckedDeletion, known: Known) -> list[tuple[str, str]]:
    """(id, type) of the session struck, if any: one that is known, or one named by its times."""
    if one.identity is None:
        if one.metric not in ("sleep", "workout"):
            return []
        return [(session_id(batch.user_id, batch.device_id, one.metric, one.row_identity, named=False), one.metric)]
    id = session_id(batch.user_id, batch.device_id, "", one.identity, named=True)
    type = known.sessions.get(id)
    return [(id, type)] if type is not None and one.metric in ("", type) else []


def _with_tombstones(
    series: CheckedSeries | None,
    metric: str,
    struck: Sequence[tuple[int, int, int, CheckedDeletion]],
    batch: CheckedBatch,
) -> CheckedSeries:
    rows = np.zeros(len(struck), ROW)
    rows["start"] = [start for _, start, _, _ in struck]
    rows["end"] = [end for _, _, end, _ in struck]
    pairs = np.frombuffer(b"".join(one.row_identity for *_, one in struck), "<u8").reshape(-1, 2)
    rows["id_hi"], rows["id_lo"] = pairs[:, 0], pairs[:, 1]
    rows["version"] = [one.version for *_, one in struck]
    rows["offset"], rows["deleted"] = UNKNOWN_OFFSET, 1
    rows["arrived"] = int(batch.occurred_at.timestamp()) // _MINUTE
    index = np.array([index for index, *_ in struck], "<u4")
    if series is None:
        return CheckedSeries(metric, rows, index)
    return CheckedSeries(metric, joined((series.rows, rows)), np.concatenate((series.index, index)))
