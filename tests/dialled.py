"""Connections that Python opens, counted where sockets connect, whatever the event loop; see `conftest.py`."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Dialled:
    """The addresses that TCP connections were asked for, in order."""

    addresses: list[str] = field(default_factory=list[str])


_counting: list[Dialled] = []


@contextmanager
def counted() -> Iterator[Dialled]:
    """Counts from here on; a connection to another machine is refused as a network would refuse it."""
    found = Dialled()
    _counting.append(found)
    try:
        yield found
    finally:
        _counting.remove(found)


def is_here(host: str) -> bool:
    """Is `host` this machine by its loopback addresses?"""
    return host in ("::1", "localhost", "0.0.0.0") or host.startswith(("127.", "::ffff:127."))  # noqa: S104 - dialled, not listened on


def note(opened: socket.socket, address: Any) -> None:
    """One `connect`, before the system hears of it. Raises ConnectionRefusedError while counting, off this machine."""
    if not _counting or opened.type != socket.SOCK_STREAM or not isinstance(address, tuple):
        return
    host = str(address[0])
    for one in _counting:
        one.addresses.append(host)
    if not is_here(host):
        raise ConnectionRefusedError("tests call nobody")
