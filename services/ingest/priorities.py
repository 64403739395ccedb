"""Whose word counts when several devices report the same time: the user's own order by metric, else by kind."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from services.ingest.metrics import priority

EVERY_METRIC = "*"
DEVICE, KIND = "device:", "kind:"
MAX_ITEMS = 100


class FromDevice(Protocol):
    """Something a device reported."""

    @property
    def device_id(self) -> str:
        """The device's own id."""
        ...

    @property
    def device_kind(self) -> str:
        """What the device is called: watch, phone, …."""
        ...


F = TypeVar("F", bound=FromDevice)


@dataclass(frozen=True)
class Ranking:
    """A user's order of devices by metric, `*` for all metrics without one; items are `device:<id>` or `kind:<kind>`.

    What the order does not name follows in the order of device kinds (`metrics.DEVICE_PRIORITY`).
    """

    order: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def of(self, metric: str) -> tuple[str, ...]:
        """The order in force for that metric; empty is the default."""
        return self.order.get(metric) or self.order.get(EVERY_METRIC, ())

    def ranked(self, metric: str, reports: Iterable[F]) -> list[F]:
        """`reports`, best device first; equals in the order of their device's id."""
        order = {item: place for place, item in enumerate(self.of(metric))}

        def rank(one: F) -> tuple[int, int, str]:
            named = [order.get(DEVICE + one.device_id), order.get(KIND + one.device_kind)]
            places = [place for place in named if place is not None]
            return (min(places, default=len(order)), priority(one.device_kind), one.device_id)

        return sorted(reports, key=rank)


def wrong_item(order: Iterable[str]) -> str | None:
    """The first item that names neither a device nor a kind, or that came before; None when there is none."""
    seen: set[str] = set()
    for item in order:
        named = next((item.removeprefix(what) for what in (DEVICE, KIND) if item.startswith(what)), "")
        if not named or item in seen:
            return item
        seen.add(item)
    return None
