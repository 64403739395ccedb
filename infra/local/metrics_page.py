"""`docs/metrics.md`: what samples, sessions and deletions may hold, out of ingest's own tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from services.ingest import health_connect, healthkit
from services.ingest.metrics import METRICS, SPORTS, STAGES, STREAMS, TOTALS, Bounded, Source
from services.ingest.refusals import CODES
from services.ingest.units import UNITS, Unit

HEAD = """\
# Metrics

Made by `./mymacro docs` from the tables in `services/ingest`; how to send a batch is in [apps.md](apps.md).

A sample is named by our metric, or by HealthKit's or Health Connect's name for it; `unit` is optional. Values are
kept in the metric's unit as they were sent, converted but not rounded; sums and means of a day are rounded to the
decimals given.
"""
KINDS = """\
* **instant**: a reading at a time. **interval**: a total over the time from `start` to `end`; without `end` a minute
  is assumed.
* **daily**: one value for a local day, best with that day's midnight as `start`. **session**: see below.
* The range is what one sample may hold, both ends included.
* Blood pressure is two samples with the same `start`. All distances count as `distance`, whatever the sport.
* LOINC: the code seen in use for such observations; none where none fits.
"""
UNIT_NOTE = """\
Capitals count (`Cal` is a thousand `cal`). A value is multiplied by the factor, then shifted; factors are exact. A
unit of another dimension is refused. Under HealthKit's own names `%` is a fraction from 0 to 1, as it is in
HealthKit; under all other names it is percent.
"""
HEALTHKIT_NOTE = """\
A sleep comes as samples of `HKCategoryTypeIdentifierSleepAnalysis`, `value` being HealthKit's number, or as one
session with stages. A workout is a session. Every other identifier of HealthKit is refused as `unsupported-type`.
"""
HEALTH_CONNECT_NOTE = """\
Names with the package in front (`androidx.health.connect.client.records.StepsRecord`) are taken too. Every other
record is refused as `unsupported-type`.
"""
SESSION_NOTE = """\
`type` is `sleep` or `workout`, or a platform's name from above. A platform's number for a stage or a sport counts
only under that platform's name; names count under every one. A sport we do not know is kept as `other`, with the word
you sent beside it. Stages lie inside the sleep and follow one another (an overlap of a second is cut off); only
`in_bed` may lie over others. Stream points may come in any order, and up to a minute before the start and after the
end. A session is stored whole or refused whole.
"""


def metrics_page() -> str:
    """The page."""
    parts = [
        HEAD,
        "\n".join(_table(("metric", "kind", "unit", "range", "decimals", "LOINC", "what"), _metrics())) + "\n",
        KINDS,
        f"## Units\n\n{UNIT_NOTE}",
        "\n".join(_table(("of", "unit", "also spelled", "factor", "shift", "why"), _units())) + "\n",
        f"## HealthKit\n\n{HEALTHKIT_NOTE}",
        "\n".join(_table(("type", "metric", "unit if none is sent", "note"), _sources(healthkit.SOURCES))) + "\n",
        f"## Health Connect\n\n{HEALTH_CONNECT_NOTE}",
        "\n".join(_table(("record", "metric", "unit if none is sent", "note"), _sources(_short()))) + "\n",
        f"## Sessions\n\n{SESSION_NOTE}",
        "\n".join(_table(("stage", "HealthKit", "Health Connect"), _stages())) + "\n",
        "\n".join(_table(("sport", "HealthKit", "Health Connect"), _sports())) + "\n",
        "\n".join(_table(("stream of a workout", "unit", "range", "what"), _bounded(STREAMS))) + "\n",
        "\n".join(_table(("total of a session", "unit", "range", "what"), _bounded(TOTALS))) + "\n",
        "## Why a record was refused\n",
        "\n".join(_table(("code", "what to do"), ((f"`{code}`", told) for code, told in CODES.items()))) + "\n",
    ]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _metrics() -> Iterator[Sequence[str]]:
    for one in METRICS.values():
        value_range = "a stage" if one.name == "sleep" else "" if one.name == "workout" else _range(one)
        yield f"`{one.name}`", one.kind, f"`{one.unit}`", value_range, str(one.decimals), one.loinc, one.about


def _range(one: Any) -> str:
    return f"{one.lowest:,} to {one.highest:,}"


def _units() -> Iterator[Sequence[str]]:
    for one in UNITS:
        spelled = [f"`{spelling}`" for spelling in one.spellings]
        yield one.dimension, spelled[0], ", ".join(spelled[1:]), *_arithmetic(one), one.source


def _arithmetic(one: Unit) -> tuple[str, str]:
    return _number(one.factor), _number(one.offset) if one.offset else ""


def _number(exact: Fraction) -> str:
    """As a decimal number where that is exact and short, else as a fraction."""
    with localcontext() as context:
        context.prec = 20
        decimal = Decimal(exact.numerator) / Decimal(exact.denominator)
        return f"{decimal.normalize():f}" if Fraction(decimal) == exact else f"{exact.numerator}/{exact.denominator}"


def _short() -> dict[str, Source]:
    return {name: one for name, one in health_connect.SOURCES.items() if name == one.name}


def _sources(sources: Mapping[str, Source]) -> Iterator[Sequence[str]]:
    for one in sources.values():
        metric = f"`{one.metric}`" if one.metric else "refused as `unsupported-type`"
        yield f"`{one.name}`", metric, f"`{one.unit}`" if one.unit else "", one.note


def _stages() -> Iterator[Sequence[str]]:
    tables = (healthkit, health_connect)
    for label, stage in STAGES.items():
        yield (
            f"`{label}`",
            *(
                ", ".join(
                    (
                        *(str(number) for number, one in table.STAGES.items() if one is stage),
                        *(f"`{name}`" for name, one in table.STAGE_NAMES.items() if one is stage),
                    )
                )
                for table in tables
            ),
        )


def _sports() -> Iterator[Sequence[str]]:
    for sport in SPORTS:
        if sport == "other":
            yield "`other`", "all others", "all others"
            continue
        yield (
            f"`{sport}`",
            *(
                ", ".join(
                    (
                        *(str(number) for number, one in table.SPORTS.items() if one == sport),
                        *(f"`{name}`" for name, one in table.SPORT_NAMES.items() if one == sport),
                    )
                )
                for table in (healthkit, health_connect)
            ),
        )


def _bounded(table: Mapping[str, Bounded]) -> Iterator[Sequence[str]]:
    for one in table.values():
        yield f"`{one.name}`", f"`{one.unit}`", _range(one), one.about
