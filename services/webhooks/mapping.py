"""From the events inside to the public messages, field by field, so that the inside can change alone."""

from collections.abc import Callable
from typing import Any

from services.webhooks.public import PublicMessage
from services.webhooks.public_data import (
    DayMetric,
    DayRecomputedData,
    DayUpdatedData,
    DiaryEntry,
    EntryData,
    EntryDeletedData,
    Fact,
    InsightCreatedData,
    LabelReading,
    LedgerLine,
    LedgerUpdatedData,
    PhotoReadData,
    PhotoRejectedData,
    PublicData,
    ReadingMode,
    Receipt,
    ReceiptsCompletedData,
    Refused,
)
from shared.events import ingest
from shared.events.event import Event
from shared.events.inference import PhotoRead, PhotoRejected
from shared.events.ingest import DayRecomputed, DayUpdated, ReceiptsCompleted, ReceiptSummary
from shared.events.insights import InsightCreated, LedgerUpdated
from shared.events.nutrition import EntryCreated, EntryDeleted, EntryUpdated
from shared.ids import derived_id

# A batch may have 10,000 refused records; a message stays far below the 20 kB that receivers are told to expect.
REFUSED_SHOWN = 20


def public_message(event: Event) -> PublicMessage:
    """The public side of an event. Raises KeyError for one without a public meaning."""
    data = _MAPPINGS[type(event)](event)
    return PublicMessage(
        message_id=derived_id(event.event_id, "message"),
        type=event.type,
        time=event.occurred_at,
        user_id=data.user_id,
        data=data,
    )


def _receipt(summary: ReceiptSummary) -> Receipt:
    return Receipt(
        receipt_id=summary.receipt_id,
        state=summary.state,
        received=summary.received,
        stored=summary.stored,
        duplicates=summary.duplicates,
        corrections=summary.corrections,
        deleted=summary.deleted,
        refused_count=len(summary.refused),
        refused=tuple(Refused(index=index, code=code) for index, code in summary.refused[:REFUSED_SHOWN]),
        reason=summary.reason,
        link=f"/v1/receipts/{summary.receipt_id}",
    )


def _receipts_completed(event: ReceiptsCompleted) -> PublicData:
    receipts = tuple(_receipt(summary) for summary in event.receipts)
    link = receipts[0].link if receipts else "/v1/receipts"
    return ReceiptsCompletedData(user_id=event.user_id, link=link, receipts=receipts)


def _metrics(metrics: dict[str, ingest.DayMetric]) -> dict[str, DayMetric]:
    return {name: DayMetric.model_validate(metric) for name, metric in metrics.items()}


def _day_updated(event: DayUpdated) -> PublicData:
    return DayUpdatedData(
        user_id=event.user_id,
        link=f"/v1/days/{event.date}",
        date=event.date,
        zone=event.zone,
        revision=event.revision,
        metrics=_metrics(event.metrics),
    )


def _day_recomputed(event: DayRecomputed) -> PublicData:
    return DayRecomputedData(
        user_id=event.user_id,
        link=f"/v1/days/{event.date}",
        date=event.date,
        zone=event.zone,
        revision=event.revision,
        metrics=_metrics(event.metrics),
        previous=_metrics(event.previous),
        reason=event.reason,
    )


def _ledger_updated(event: LedgerUpdated) -> PublicData:
    return LedgerUpdatedData(
        user_id=event.user_id,
        link=f"/v1/ledger/{event.date}",
        date=event.date,
        revision=event.revision,
        lines=tuple(LedgerLine.model_validate(line) for line in event.lines),
        intake_kcal=event.intake_kcal,
        expenditure_kcal=event.expenditure_kcal,
        balance_kcal=event.balance_kcal,
        missing=event.missing,
    )


def _entry(event: EntryCreated | EntryUpdated) -> PublicData:
    entry = DiaryEntry.model_validate(event.entry)
    return EntryData(user_id=event.user_id, link=f"/v1/diary/{entry.date}", entry=entry)


def _entry_deleted(event: EntryDeleted) -> PublicData:
    return EntryDeletedData(
        user_id=event.user_id,
        link=f"/v1/diary/{event.date}",
        entry_id=event.entry_id,
        date=event.date,
        revision=event.revision,
    )


def _photo_read(event: PhotoRead) -> PublicData:
    return PhotoReadData(
        user_id=event.user_id,
        link=f"/v1/photos/{event.photo_id}",
        photo_id=event.photo_id,
        reading=LabelReading.model_validate(event.reading),
        warnings=event.warnings,
        mode=ReadingMode.model_validate(event.mode),
        name=event.name,
        gtin=event.gtin,
    )


def _photo_rejected(event: PhotoRejected) -> PublicData:
    return PhotoRejectedData(
        user_id=event.user_id,
        link=f"/v1/photos/{event.photo_id}",
        photo_id=event.photo_id,
        reason=event.reason,
        detail=event.detail,
    )


def _insight_created(event: InsightCreated) -> PublicData:
    return InsightCreatedData(
        user_id=event.user_id,
        link="/v1/insights",
        insight_id=event.insight_id,
        date=event.date,
        title=event.title,
        text=event.text,
        facts=tuple(Fact.model_validate(fact) for fact in event.facts),
        mode=event.mode,
    )


_MAPPINGS: dict[type[Event], Callable[[Any], PublicData]] = {
    ReceiptsCompleted: _receipts_completed,
    DayUpdated: _day_updated,
    DayRecomputed: _day_recomputed,
    LedgerUpdated: _ledger_updated,
    EntryCreated: _entry,
    EntryUpdated: _entry,
    EntryDeleted: _entry_deleted,
    PhotoRead: _photo_read,
    PhotoRejected: _photo_rejected,
    InsightCreated: _insight_created,
}
