"""What users are given of ingest's documents when they ask for everything."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Any

from services.ingest.devices_api import device_answer
from services.ingest.metrics import METRICS, Metric
from services.ingest.moments import moment
from services.ingest.points import encoded
from services.ingest.receipts_api import shown as receipt_answer
from services.ingest.records import (
    BUCKETS,
    DAYS,
    DELETION_JOBS,
    DELETIONS,
    DEVICES,
    DIRTY_DAYS,
    PLACES,
    PRIORITIES,
    RECEIPTS,
    RECOMPUTATIONS,
    REPLACED,
    REPUBLICATIONS,
    SESSIONS,
    TAILS,
    USERS,
    ZONES,
    Day,
    Receipt,
    Replaced,
    Session,
)
from services.ingest.series_store import RECEIPTS_AT_ONCE, SESSIONS_AT_ONCE, Reads
from services.ingest.sessions_api import SessionDetail, detail
from services.ingest.timeseries import END_OF_TIME_US, Wanted
from shared.documents import Documents
from shared.export import OWN_PARTS
from shared.exported import Contents, File, Lines, NotExported, lines_of, rows

# One with all its metrics takes some 10 kB.
DAYS_AT_ONCE = 50
KINDS = {
    "instant": "readings at a time",
    "interval": "totals over [start, end)",
    "daily": "one value for a local day",
    "session": "stages of sleep that came one by one; those of whole sleeps are in sessions.jsonl",
}


def _samples(metric: Metric) -> File:
    about = f"{metric.about}: {KINDS[metric.kind]}, as sent by each device"
    unit = f"; value in {metric.unit} (UCUM)" if metric.kind != "session" else ""
    return File(f"samples/{metric.name}.jsonl", about + unit, (BUCKETS, TAILS), partial(_rows_of, metric))


async def _rows_of(metric: Metric, documents: Documents, user_id: str) -> AsyncGenerator[Lines]:
    wanted = Wanted(
        metric=metric.name,
        interval=metric.kind in ("interval", "session"),
        from_us=0,
        to_us=END_OF_TIME_US,
        step_us=None,
        merged=False,
    )
    async for table in Reads(documents).points(user_id, wanted, None):
        yield Lines(len(table.rows), encoded(table, wanted, b"\n"))


def _session(session: Session) -> SessionDetail | None:
    return None if session.deleted else detail(session)


def _replaced(one: Replaced) -> dict[str, Any]:
    return {
        "metric": one.metric,
        "device": one.device_id,
        "start": moment(one.start_us),
        "end": moment(one.end_us),
        "value": one.value,
        "source_version": one.source_version,
        "replaced_at": one.replaced_at,
        "reason": one.reason,
        "receipt_id": one.receipt_id,
    }


def _day(day: Day) -> dict[str, Any]:
    return {
        "date": day.day,
        "zone": day.zone,
        "revision": day.revision,
        "updated_at": day.updated_at,
        "metrics": day.metrics,
    }


def _receipt(receipt: Receipt) -> Any:
    return receipt_answer(receipt, len(receipt.refused))


async def _zones(documents: Documents, user_id: str) -> AsyncGenerator[Lines]:
    history = await Reads(documents).zones(user_id)
    changes = [{"from": moment(one.from_us), "zone": one.zone} for one in history.changes]
    yield lines_of([{"from": None, "zone": history.home}, *changes])


async def _priorities(documents: Documents, user_id: str) -> AsyncGenerator[Lines]:
    found = await documents.get(PRIORITIES, user_id)
    order = found.order if found is not None else {}
    yield lines_of({"metric": metric, "order": items} for metric, items in sorted(order.items()))


_sessions: Callable[[Documents, str], AsyncIterator[Lines]] = rows(
    SESSIONS, _session, "user_hour", page=SESSIONS_AT_ONCE
)
CONTENTS: Contents = (
    *(_samples(metric) for metric in METRICS.values() if metric.name != "workout"),
    File("sessions.jsonl", "Sleeps with their stages, workouts with their streams", (SESSIONS,), _sessions),
    File(
        "history.jsonl",
        "What samples and sessions were before they were corrected, moved or deleted, and when and why",
        (REPLACED,),
        rows(REPLACED, _replaced, "user_metric_start"),
    ),
    File(
        "days.jsonl",
        "Your local days: the numbers of each metric, of all devices together",
        (DAYS,),
        rows(DAYS, _day, "user_day", page=DAYS_AT_ONCE),
    ),
    File(
        "receipts.jsonl",
        "What became of each batch that was sent",
        (RECEIPTS,),
        rows(RECEIPTS, _receipt, "user_completed", page=RECEIPTS_AT_ONCE),
    ),
    File("devices.jsonl", "Devices that sent something", (DEVICES,), rows(DEVICES, device_answer, "user")),
    File("device_priorities.jsonl", "Your order of devices by metric; * is every other", (PRIORITIES,), _priorities),
    File(
        "zones.jsonl",
        "Where your clock stood (IANA zones), from when on; the first line is the home zone before all changes",
        (ZONES, USERS),
        _zones,
    ),
    NotExported(PLACES, "where samples lie in our database, by a hash of their source's id"),
    NotExported(DELETIONS, "hashes of the ids of samples that you deleted, so that they stay away"),
    NotExported(DELETION_JOBS, "deletions under way, which say nothing more"),
    NotExported(DIRTY_DAYS, "which days are to be computed again"),
    NotExported(RECOMPUTATIONS, "which days are to be computed again"),
    NotExported(REPUBLICATIONS, "operators' orders to tell days again"),
    OWN_PARTS,
)
