"""A partner's server that speaks bytes: it may do what no HTTP server would."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GB = 1_000_000_000
CLOSING = b"HTTP/1.1 %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@dataclass
class Sent:
    """How much a receiver got rid of before we hung up."""

    bytes: int = 0


@asynccontextmanager
async def receiving(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """The port of a receiver that behaves so, however often it is called."""

    serving: dict[asyncio.StreamWriter, asyncio.Future[None]] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving[writer] = asyncio.get_running_loop().create_future()
        # The tests' receivers are cut off: that is the point. Writing then raises RuntimeError on uvloop.
        try:
            with suppress(ConnectionError, RuntimeError, asyncio.IncompleteReadError):
                await behaviour(reader, writer)
        finally:
            writer.close()
            serving[writer].set_result(None)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            for writer in serving:
                writer.transport.abort()
            await asyncio.gather(*serving.values())


def flood(head: bytes, piece: bytes, sent: Sent, most: int = GB) -> Behaviour:
    """`head`, then `piece` again and again, a GB in all."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        while sent.bytes < most:
            writer.write(piece)
            await writer.drain()
            sent.bytes += len(piece)

    return behave


def trickle(head: bytes) -> Behaviour:
    """`head`, then a byte now and then, without end."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        while True:
            writer.write(b"x")
            await writer.drain()
            # The receiver's pace: slow, and never so slow that nothing came within a bound.
            await asyncio.sleep(0.05)

    return behave


def once(answer: bytes, *, reset: bool = False) -> Behaviour:
    """One answer; then the connection is closed, or reset."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if reset:
            writer.transport.abort()

    return behave


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)
