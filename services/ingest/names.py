"""Every name under which records come: our own metrics, HealthKit's types and Health Connect's records."""

from services.ingest import health_connect, healthkit
from services.ingest.metrics import METRICS, SPORTS, STAGES, Source, Stage
from services.ingest.refusals import Code

_OWN: dict[str, Source] = {
    metric.name: Source(
        metric.name,
        metric.name,
        metric.unit,
        stages={stage.value: stage for stage in Stage} if metric.name == "sleep" else {},
        sampled=metric.name != "workout",
    )
    for metric in METRICS.values()
}
SOURCES: dict[str, Source] = {**_OWN, **healthkit.SOURCES, **health_connect.SOURCES}
STAGE_NAMES: dict[str, Stage] = {**STAGES, **healthkit.STAGE_NAMES, **health_connect.STAGE_NAMES}
SPORT_NAMES: dict[str, str] = {
    **{sport: sport for sport in SPORTS},
    **healthkit.SPORT_NAMES,
    **health_connect.SPORT_NAMES,
}


def source_of(name: str) -> Source | Code:
    """What records of that name are; the reason to refuse them where we keep nothing of the kind."""
    source = SOURCES.get(name)
    if source is not None:
        return source if source.metric else "unsupported-type"
    is_platforms = name.startswith((*healthkit.PREFIXES, health_connect.PACKAGE)) or name.endswith(
        health_connect.SUFFIX
    )
    return "unsupported-type" if is_platforms else "unknown-metric"


def stage_of(source: Source, sent: str) -> Stage | None:
    """The stage of that name, or of that number of the platform that speaks; None where there is none."""
    named = STAGE_NAMES.get(sent)
    if named is not None or not sent.isdecimal() or len(sent) > 9:
        return named
    return source.stages.get(int(sent))


def sport_of(source: Source, sent: str) -> str:
    """Our sport of that name, or of that number of the platform that speaks; all others are `other`."""
    named = SPORT_NAMES.get(sent)
    if named is not None or not sent.isdecimal() or len(sent) > 9:
        return named or "other"
    return source.sports.get(int(sent), "other")
