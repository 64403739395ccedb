"""Grafana's dashboard, out of `shared/metrics.py`: a panel for each instrument, and one for who answers at all."""

import json
from collections.abc import Iterator
from typing import Any

from prometheus_client import Metric

from shared.metrics import Metrics

SOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT, COLUMNS = 12, 8, 2
CHOSEN = 'job=~"$job"'
PERIOD = "$__rate_interval"
# What several processes of a service say of the same thing is not added up; a gauge that is not here is no panel yet.
GAUGES = {
    "consumer_lag": "sum",
    "backlog_records": "max",
    "disk_free_bytes": "min",
    "dead_letters_unresolved": "max",
    "outbox_pending": "max",
    "live_streams": "sum",
}


def dashboard() -> str:
    """The file that Grafana loads.

    Raises:
        KeyError: a gauge of which GAUGES does not say how its processes' values come together.
    """
    panels = [_panel("Processes that answer", f"sum by (job) (up{{{CHOSEN}}})", "short")]
    for family in sorted(Metrics().registry.collect(), key=lambda family: family.name):
        panels += _panels(family)
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        panel |= {
            "id": number + 1,
            "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        }
    return json.dumps(_page(panels), indent=2) + "\n"


def _panels(family: Metric) -> Iterator[dict[str, Any]]:
    name, says = family.name, family.documentation
    if family.type == "histogram":
        buckets = f"sum without (instance, status) (rate({name}_bucket{{{CHOSEN}}}[{PERIOD}]))"
        yield _panel(f"{says}, 99th percentile ({name})", f"histogram_quantile(0.99, {buckets})", "s")
        yield _panel(f"{says}, how often ({name})", _rate(f"{name}_count"), "ops")
    elif family.type == "counter":
        yield _panel(f"{says} a second ({name}_total)", _rate(f"{name}_total"), "ops")
    elif family.type == "gauge":
        unit = "bytes" if name.endswith("_bytes") else "short"
        # A process that watches no disk says 0, which would be the least.
        watching = " > 0" if GAUGES[name] == "min" else ""
        yield _panel(f"{says} ({name})", f"{GAUGES[name]} without (instance) ({name}{{{CHOSEN}}}{watching})", unit)


def _rate(name: str) -> str:
    return f"sum without (instance) (rate({name}{{{CHOSEN}}}[{PERIOD}]))"


def _panel(title: str, expression: str, unit: str) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": expression, "legendFormat": "__auto"}],
    }


def _page(panels: list[dict[str, Any]]) -> dict[str, Any]:
    job = {
        "name": "job",
        "label": "Service",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(up, job)", "refId": "job"},
        "includeAll": True,
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
    }
    return {
        "uid": "mymacrotracker",
        "title": "MyMacroTracker",
        "schemaVersion": 39,
        "editable": False,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [job]},
        "panels": panels,
    }
