"""A WebSocket to an app in this process, as a client sees it."""

import asyncio
import json
from contextlib import suppress
from typing import Any

from fastapi import FastAPI

PATH = "/v1/live/ws"


class Socket:
    """An open WebSocket, or what was answered instead of one."""

    def __init__(self, app: FastAPI, headers: dict[str, str], query: bytes = b"") -> None:
        self._app = app
        self._scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": query,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "root_path": "",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._said.put_nowait({"type": "websocket.connect"})
        self._task: asyncio.Task[None] | None = None
        self.headers: dict[str, str] = {}

    async def open(self) -> int:
        """Connect; 200 for an open WebSocket, else the status of the refusal."""
        self._task = asyncio.create_task(self._app(self._scope, self._said.get, self._sent.put))
        first = await self.next()
        if first["type"] == "websocket.accept":
            return 200
        assert first["type"] == "websocket.http.response.start"
        self.headers = {name.decode(): value.decode() for name, value in first["headers"]}
        return first["status"]

    async def next(self) -> dict[str, Any]:
        """The next message of ASGI."""
        return await asyncio.wait_for(self._sent.get(), 5)

    async def frame(self) -> dict[str, Any]:
        """The next frame's JSON."""
        message = await self.next()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def events(self, count: int) -> list[tuple[int, str, dict[str, Any]]]:
        """The next messages as (id, type, message)."""
        found = [await self.frame() for _ in range(count)]
        return [(one["id"], one["type"], one) for one in found]

    async def body(self) -> str:
        """All that a refusal says."""
        return (await self.next())["body"].decode()

    async def reason(self) -> tuple[str, int]:
        """Why it is closed, which it is now, and by which code."""
        frame = await self.frame()
        assert frame["type"] == "stream.ended", frame
        closed = await self.next()
        assert (closed["type"], closed["reason"]) == ("websocket.close", frame["data"]["reason"])
        return closed["reason"], closed["code"]

    async def say(self, text: str) -> None:
        """Send a frame."""
        await self._said.put({"type": "websocket.receive", "text": text})

    async def close(self) -> None:
        """The client goes away."""
        await self._said.put({"type": "websocket.disconnect", "code": 1000})
        if self._task is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(self._task, 5)
