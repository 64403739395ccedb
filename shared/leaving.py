"""How a server stops listening without losing whom it has not looked at yet, and whether it is about to.

HTTP/1.1 has no way to say "not on this connection any more" but an answer. So whoever is told to end answers on for a
while, each answer closing its connection, and callers open their next one elsewhere.
"""

import asyncio
import socket
from collections.abc import Sequence

from uvicorn.server import ServerState


class State(ServerState):
    """What uvicorn's connections share, and whether each is to end with its next answer."""

    leaving = False


def stop_listening(servers: Sequence[asyncio.base_events.Server]) -> list[socket.socket]:
    """Close `servers`; the connections that the kernel had made for them, and would now reset.

    A client that connected in time may have sent its request already, and could not know whether it was taken.
    """
    kept = [socket.socket(fileno=socket.dup(one.fileno())) for server in servers for one in server.sockets]
    for server in servers:
        server.close()
    found: list[socket.socket] = []
    for listening in kept:
        with listening:
            listening.setblocking(False)
            while (connection := _accepted(listening)) is not None:
                found.append(connection)
    return found


def _accepted(listening: socket.socket) -> socket.socket | None:
    try:
        return listening.accept()[0]
    except OSError:
        return None
