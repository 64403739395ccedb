"""Who waits for a receipt in this process, and the word that it is stored."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

# Each asks the database every tenth of a second (20 µs), so all of them take a tenth of a core.
MAX_WAITING = 500


@dataclass(frozen=True)
class Waiting:
    """The requests that wait, by receipt id."""

    most: int = MAX_WAITING
    _events: dict[str, list[asyncio.Event]] = field(default_factory=dict[str, list[asyncio.Event]])

    def told(self, receipt_ids: Iterable[str]) -> None:
        """Wake all who wait for these receipts, which are stored now."""
        for receipt_id in receipt_ids:
            for event in self._events.get(receipt_id, ()):
                event.set()

    def join(self, receipt_id: str) -> asyncio.Event | None:
        """An event that is set once the receipt is stored by this process; None when too many wait already."""
        if sum(map(len, self._events.values())) >= self.most:
            return None
        event = asyncio.Event()
        self._events.setdefault(receipt_id, []).append(event)
        return event

    def leave(self, receipt_id: str, event: asyncio.Event) -> None:
        """Wait no longer."""
        waiting = self._events[receipt_id]
        waiting.remove(event)
        if not waiting:
            del self._events[receipt_id]
