"""A server of MongoDB's wire that fails at chosen commands: connections break, or the primary has stepped down."""

import asyncio
import random
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal

import bson

from tests.polling import eventually

HEADER = struct.Struct("<iiii")
OP_MSG = 2013
# What a server says once another one is the primary.
STEPPED_DOWN = {"ok": 0.0, "errmsg": "not primary", "code": 10107, "codeName": "NotWritablePrimary"}

Fault = Literal["unsent", "unanswered", "stepped down"]
Choose = Callable[[str], Fault | None]


class Failing:
    """Stands before the server at `host:port`. `choose` says of each command, by its name, what becomes of it."""

    def __init__(self, host: str, port: int, choose: Choose) -> None:
        self._host, self._port = host, port
        self._choose = choose
        self.made: Counter[str] = Counter()
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator["Failing"]:
        """Listen on a port of its own."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            # Cancelled together with the loop, they would be logged as failures: until Python 3.12 a stream's server
            # asks a cancelled task for its exception.
            for end in self._open:
                end.close()
            await eventually(lambda: not self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(self._host, self._port)
        ends = {writer, to_there}
        self._open |= ends
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._turn(reader, writer, there, to_there):
                    pass
        finally:
            for end in ends:
                end.close()
            self._open -= ends

    async def _turn(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        to_there: asyncio.StreamWriter,
    ) -> bool:
        """One command and its answer; False when the connection breaks."""
        head, body = await _message(reader)
        fault = self._choose(_command(head, body))
        if fault is not None:
            self.made[fault] += 1
        if fault == "unsent":
            return False
        if fault == "stepped down":
            writer.write(_answer(HEADER.unpack(head)[1]))
            await writer.drain()
            return True
        to_there.write(head + body)
        answer = b"".join(await _message(there))
        if fault == "unanswered":
            return False
        writer.write(answer)
        await writer.drain()
        return True


def at_random(seed: int, share: float, commands: frozenset[str]) -> Choose:
    """Each of these commands fails with probability `share`, in one of the three ways."""
    dice = random.Random(seed)

    def choose(command: str) -> Fault | None:
        if command not in commands or dice.random() >= share:
            return None
        ways: tuple[Fault, ...] = ("unsent", "unanswered", "stepped down")
        return dice.choice(ways)

    return choose


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(HEADER.size)
    return head, await reader.readexactly(HEADER.unpack(head)[0] - HEADER.size)


def _command(head: bytes, body: bytes) -> str:
    """The name of the command: the first of the first section's document."""
    if HEADER.unpack(head)[3] != OP_MSG or body[4] != 0:
        return ""
    length = int.from_bytes(body[5:9], "little")
    return next(iter(bson.decode(body[5 : 5 + length])))


def _answer(asked: int) -> bytes:
    body = bytes(4) + b"\0" + bson.encode(STEPPED_DOWN)
    return HEADER.pack(HEADER.size + len(body), 1, asked, OP_MSG) + body
