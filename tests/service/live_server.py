"""The gateway at a real port, served as `shared/service.py` serves it."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn

from shared.leaving import State
from shared.service import server_config
from shared.websocket import BoundedWebSocket
from tests.service.gateway_edges import Gateway


@asynccontextmanager
async def served(door: Gateway, *, send_buffer: int = 0, leaving: bool = False) -> AsyncGenerator[int]:
    """The port of the running gateway, which may be about to end. Its lifespan is the test's.

    `send_buffer`: the kernel's, in bytes.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        if send_buffer:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        config = server_config(door.running.app, "127.0.0.1", 0, BoundedWebSocket)
        config.lifespan = "off"
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        state = server.server_state = State()
        state.leaving = leaving
        await server.startup(sockets=[listening])
        try:
            yield listening.getsockname()[1]
        finally:
            door.running.app.state.live.end()
            server.should_exit = True
            await server.shutdown(sockets=[listening])
