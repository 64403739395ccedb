"""uvicorn's WebSockets with what they lack: a bound on what a client may say, and an end at once.

A ping is answered before anybody is asked, and its answer waits in memory for a client that reads nothing.
"""

import logging
import time
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode
from websockets.http11 import Request

from shared.http import ABORT

# One message, and everything that a client may send at once; it gets back so many bytes of that a second.
MAX_MESSAGE_BYTES = 4 * 1024
MAX_BURST_BYTES = 16 * 1024
BYTES_PER_S = 256
PING_EVERY_S = 15.0
PONG_WITHIN_S = 10.0


class WithoutAddresses(logging.Filter):
    """Drops what uvicorn says of each WebSocket: its address may hold a secret, whatever the application does to it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        return '"WebSocket %s"' not in str(record.msg)


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """One connection."""

    _left = float(MAX_BURST_BYTES)
    _left_at = 0.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # It would write every request's headers and every frame into our log.
        self.conn.debug = False

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; the first are its request, which is bounded as any other is."""
        if self.handshake_initiated and not self._affords(len(data)):
            self._refuse()
            return
        super().data_received(data)

    def handle_connect(self, event: Request) -> None:
        """The request is whole."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope.setdefault("extensions", {})[ABORT] = {ABORT: self.transport.abort}

    async def send(self, message: ASGISendEvent) -> None:
        """A message of the application."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            # A refusal is an end too; uvicorn would log it as a fault of the application.
            self.handshake_complete = True

    def _affords(self, size: int) -> bool:
        now = time.monotonic()
        self._left = min(MAX_BURST_BYTES, self._left + (now - self._left_at) * BYTES_PER_S) - size
        self._left_at = now
        return self._left >= 0

    def _refuse(self) -> None:
        if not self.handshake_complete or self.close_sent:
            self.transport.abort()
            return
        self.conn.fail(CloseCode.POLICY_VIOLATION, "too-many-messages")
        self.handle_parser_exception()
