"""A worked example of every message: one user's first of March, as it is sent in full."""

from datetime import UTC, date, datetime
from decimal import Decimal

from services.webhooks.public import Body, EndpointDisabledData, EndpointTestData, UserErasedData
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
    NutrientReading,
    Nutrients,
    PhotoReadData,
    PhotoRejectedData,
    Public,
    ReadingMode,
    Receipt,
    ReceiptsCompletedData,
    Refused,
)

MESSAGE_ID = "b8a1c9e2f05d4c7fa3d6e1f2a4b5c6d7"
USER, TRACE = "usr_5e2c9a41b7d84f60", "4bf92f3577b34da6a3ce929d0e0e4736"
DAY, AT = date(2026, 3, 1), datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
OATS = DiaryEntry(
    entry_id="ent_71c2", revision=1, date=DAY, eaten_at=AT, food_id="food_9d04", food_name="Rolled oats",
    grams=Decimal("40"),
    nutrients=Nutrients(
        energy_kcal=Decimal("148.8"), protein_g=Decimal("5.4"), carbohydrate_g=Decimal("23.5"),
        sugar_g=Decimal("0.4"), fat_g=Decimal("2.8"), salt_g=None,
    ),
)  # fmt: skip
EATEN = OATS.model_copy(update={"revision": 2, "grams": Decimal("60")})


def _steps(count: int, steps: float) -> DayMetric:
    return DayMetric(
        unit="{steps}", count=count, sum=steps, min=None, max=None, mean=None, parts={}, derived=False
    )  # fmt: skip


PULSE = DayMetric(unit="1/min", count=480, sum=None, min=52.0, max=148.0, mean=71.4, parts={}, derived=False)
RECEIPT = Receipt(
    receipt_id="rcp_2f81", state="stored", received=100, stored=97, duplicates=2, corrections=0, deleted=0,
    refused_count=1, refused=(Refused(index=17, code="unknown-unit"),), reason=None, link="/v1/receipts/rcp_2f81",
)  # fmt: skip
READING = LabelReading(
    energy_kcal=NutrientReading(amount=Decimal("372"), confidence=0.97),
    protein_g=NutrientReading(amount=Decimal("13.5"), confidence=0.95),
    carbohydrate_g=NutrientReading(amount=Decimal("58.7"), confidence=0.96),
    sugar_g=NutrientReading(amount=Decimal("0.9"), confidence=0.91), fat_g=NutrientReading(
        amount=Decimal("7.0"), confidence=0.96
    ), salt_g=None,
)  # fmt: skip
LINES = (
    LedgerLine(source="food", direction="in", energy_kcal=Decimal("1850.0"), note=""),
    LedgerLine(source="basal", direction="out", energy_kcal=Decimal("1412.5"), note="Mifflin-St Jeor"),
    LedgerLine(source="active", direction="out", energy_kcal=Decimal("431.0"), note="measured"),
)
SAYS = {"user_id": USER, "trace_id": TRACE}
ON_DAY = SAYS | {"link": "/v1/days/2026-03-01", "date": DAY, "zone": "Europe/Berlin"}
DATA: dict[str, Public] = {
    "receipts.completed": ReceiptsCompletedData.model_validate(
        SAYS | {"sequence": 41, "link": RECEIPT.link, "receipts": (RECEIPT,)}
    ),
    "day.updated": DayUpdatedData.model_validate(
        ON_DAY | {"sequence": 42, "revision": 3, "metrics": {"steps": _steps(96, 8124.0), "heart_rate": PULSE}}
    ),
    "day.recomputed": DayRecomputedData.model_validate(
        ON_DAY
        | {"sequence": 58, "revision": 4, "reason": "late-data"}
        | {"metrics": {"steps": _steps(101, 8391.0)}, "previous": {"steps": _steps(96, 8124.0)}}
    ),
    "ledger.updated": LedgerUpdatedData.model_validate(
        SAYS
        | {"sequence": 43, "link": "/v1/ledger/2026-03-01", "date": DAY, "revision": 2, "lines": LINES, "missing": ()}
        | {"intake_kcal": "1850.0", "expenditure_kcal": "1843.5", "balance_kcal": "6.5"}
    ),
    "entry.created": EntryData.model_validate(SAYS | {"sequence": 44, "link": "/v1/diary/2026-03-01", "entry": OATS}),
    "entry.updated": EntryData.model_validate(SAYS | {"sequence": 45, "link": "/v1/diary/2026-03-01", "entry": EATEN}),
    "entry.deleted": EntryDeletedData.model_validate(
        SAYS | {"sequence": 46, "link": "/v1/diary/2026-03-01", "entry_id": OATS.entry_id, "date": DAY, "revision": 3}
    ),
    "photo.read": PhotoReadData.model_validate(
        SAYS
        | {"sequence": 47, "link": "/v1/photos/pho_c40b", "photo_id": "pho_c40b", "reading": READING, "warnings": ()}
        | {"mode": ReadingMode(model="label_ocr", weights_sha256="9f2c" * 16, fallback=False)}
        | {"name": "Rolled oats", "gtin": "4006381333931"}
    ),
    "photo.rejected": PhotoRejectedData.model_validate(
        SAYS
        | {"sequence": 48, "link": "/v1/photos/pho_c40c", "photo_id": "pho_c40c", "reason": "no-label"}
        | {"detail": "No table of nutrients was found. Take the picture closer to the label."}
    ),
    "insight.created": InsightCreatedData.model_validate(
        SAYS
        | {"sequence": 49, "link": "/v1/insights", "insight_id": "ins_08fe", "date": DAY, "title": "Steps"}
        | {"text": "You walked 8,124 steps, 12 % more than in the week before.", "mode": "deterministic"}
        | {"facts": (Fact(id="steps", value=Decimal("8124"), unit="{steps}", window="1 d", n=96),)}
    ),
    "user.erased": UserErasedData(user_id=USER),
    "endpoint.test": EndpointTestData(endpoint_id="3d0f6c58a9b24e17"),
    "endpoint.disabled": EndpointDisabledData(
        endpoint_id="3d0f6c58a9b24e17", reason="every delivery failed for 5 days"
    ),
}
EXAMPLES: dict[str, Body] = {
    name: Body(type=name, timestamp=AT, data=data.model_dump(mode="json")) for name, data in DATA.items()
}
