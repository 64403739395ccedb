"""Ids of events and documents."""

import secrets
import time
from uuid import NAMESPACE_URL, UUID, uuid5

EVENT_NAMESPACE = uuid5(NAMESPACE_URL, "https://mymacrotracker.dev/events")


def new_event_id() -> str:
    """A fresh UUIDv7 (RFC 9562 §5.7): 48 bits of milliseconds, then random bits; used at the gateway alone."""
    value = int(time.time() * 1000) << 80 | secrets.randbits(76)
    value = value & ~(0xF000 << 64) | 0x7000 << 64
    value = value & ~(0xC000 << 48) | 0x8000 << 48
    return str(UUID(int=value))


def derived_id(*parts: object) -> str:
    """The id of something made from `parts`: equal parts give equal ids, so a repeat makes nothing new."""
    return str(uuid5(EVENT_NAMESPACE, "\x1f".join(str(part) for part in parts)))
