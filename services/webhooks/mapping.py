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
from shared import events
from shared.events import Event

# A batch may have 10,000 refused records; a message stays far below the 20 kB that receivers are told to expect.
REFUSED_SHOWN = 20


def public_message(event: Event) -> PublicMessage:
    """The public side of an event. Raises KeyError for one without a public meaning."""
    data = _MAPPINGS[type(event)](event)
    return PublicMessage(
        message_id=events.derived_id(event.event_id, "message"),
        type=event.type,
        time=event.occurred_at,
        user_id=data.user_id,
        data=data,
    )


def _receipt(summary: events.ReceiptSummary) -> Receipt:
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


def _receipts_completed(event: events.ReceiptsCompleted) -> PublicData:
    receipts = tuple(_receipt(summary) for summary in event.receipts)
    link = receipts[0].link if receipts else "/v1/receipts"
    return ReceiptsCompletedData(user_id=event.user_id, link=link, receipts=receipts)


def _metrics(metrics: dict[str, events.DayMetric]) -> dict[str, DayMetric]:
    return {name: DayMetric.model_validate(metric) for name, metric in metrics.items()}


def _day_updated(event: events.DayUpdated) -> PublicData:
    return DayUpdatedData(
        user_id=event.user_id,
        link=f"/v1/days/{event.date}",
        date=event.date,
        zone=event.zone,
        revision=event.revision,
        metrics=_metrics(event.metrics),
    )


def _day_recomputed(event: events.DayRecomputed) -> PublicData:
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


def _ledger_updated(event: events.LedgerUpdated) -> PublicData:
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


def _entry(event: events.EntryCreated | events.EntryUpdated) -> PublicData:
    entry = DiaryEntry.model_validate(event.entry)
    return EntryData(user_id=event.user_id, link=f"/v1/diary/{entry.date}", entry=entry)


def _entry_deleted(event: events.EntryDeleted) -> PublicData:
    return EntryDeletedData(
        user_id=event.user_id,
        link=f"/v1/diary/{event.date}",
        entry_id=event.entry_id,
        date=event.date,
        revision=event.revision,
    )


def _photo_read(event: events.PhotoRead) -> PublicData:
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


def _photo_rejected(event: events.PhotoRejected) -> PublicData:
    return PhotoRejectedData(
        user_id=event.user_id,
        link=f"/v1/photos/{event.photo_id}",
        photo_id=event.photo_id,
        reason=event.reason,
        detail=event.detail,
    )


def _insight_created(event: events.InsightCreated) -> PublicData:
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
    events.ReceiptsCompleted: _receipts_completed,
    events.DayUpdated: _day_updated,
    events.DayRecomputed: _day_recomputed,
    events.LedgerUpdated: _ledger_updated,
    events.EntryCreated: _entry,
    events.EntryUpdated: _entry,
    events.EntryDeleted: _entry_deleted,
    events.PhotoRead: _photo_read,
    events.PhotoRejected: _photo_rejected,
    events.InsightCreated: _insight_created,
}
