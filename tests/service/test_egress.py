"""Nothing leaves to an address outside the allowed networks, counted by a listener on the loopback address."""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from services.webhooks.destinations import AddressRefused, Rules, rules
from services.webhooks.egress import NOT_HTTP, Bounds, Egress
from services.webhooks.lookups import THREADS, Lookups, Resolve, system_addresses

SPELLINGS = ("127.0.0.1", "localhost", "LOCALHOST")
MAPPED = "[::ffff:127.0.0.1]"
# These reach 127.0.0.1 through the resolver on Linux; they are refused wherever deliveries may go.
ODD_SPELLINGS = ("127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "①②⑦.0.0.1")


class Listener:
    """Counts connections; answers each with an empty 204."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def listener() -> AsyncGenerator[Listener]:
    one = Listener()
    async with await asyncio.start_server(one.serve, "127.0.0.1", 0) as server:
        one.port = server.sockets[0].getsockname()[1]
        yield one


def local(cidrs: str) -> Rules:
    """What a local stack lets out: http and every port, to these networks."""
    return rules(cidrs, http=True, ports="*")


async def post(cidrs: str, url: str, resolve: Resolve = system_addresses):
    egress = Egress(local(cidrs), resolve=resolve)
    await egress.open()
    try:
        return await egress.post(url, {}, b"")
    finally:
        await egress.close()


@pytest.mark.parametrize("host", [*SPELLINGS, MAPPED])
async def test_no_spelling_of_a_refused_address_gets_a_connection(listener: Listener, host: str):
    url = f"http://{host}:{listener.port}/"
    for cidrs in ("", "10.0.0.0/8,::/96"):
        answer = await post(cidrs, url)
        assert answer.status is None
        assert "networks" in (answer.error or "")
        with pytest.raises(AddressRefused, match="networks"):
            await Egress(local(cidrs)).check_url(url)
    assert listener.connections == 0
    await Egress(local("127.0.0.0/8,::1/128")).check_url(url)


@pytest.mark.parametrize("host", SPELLINGS)
async def test_an_allowed_address_is_reached(listener: Listener, host: str):
    answer = await post("127.0.0.0/8,::1/128", f"http://{host}:{listener.port}/")
    assert (answer.status, answer.error, listener.connections) == (204, None, 1)


@pytest.mark.parametrize("host", ODD_SPELLINGS)
async def test_odd_spellings_are_refused_everywhere(listener: Listener, host: str):
    url = f"http://{host}:{listener.port}/"
    answer = await post("0.0.0.0/0", url)
    assert (answer.status, listener.connections) == (None, 0)
    with pytest.raises(AddressRefused):
        await Egress(local("0.0.0.0/0")).check_url(url)


async def test_one_refused_address_refuses_the_name(listener: Listener):
    answer = await post("127.0.0.0/8", f"http://two.example:{listener.port}/", lambda _: ["127.0.0.1", "10.0.0.1"])
    assert (answer.status, listener.connections) == (None, 0)
    assert "no address in the networks" in (answer.error or "")


async def test_a_rebinding_name_server_gains_nothing(listener: Listener):
    answers = iter(["10.0.0.1", "127.0.0.1"])
    egress = Egress(local("10.0.0.0/8"), resolve=lambda _: [next(answers)])
    await egress.open()
    try:
        await egress.check_url("http://rebinds.example/")
        answer = await egress.post(f"http://rebinds.example:{listener.port}/", {}, b"")
    finally:
        await egress.close()
    assert (answer.status, listener.connections) == (None, 0)


async def test_a_name_without_address_is_refused():
    def unknown(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert "no address" in ((await post("127.0.0.0/8", "http://nobody.example/", unknown)).error or "")


async def test_a_look_up_without_an_answer_ends():
    answering = threading.Event()

    def silent(host: str) -> list[str]:
        answering.wait()
        return []

    egress = Egress(local("127.0.0.0/8"), bounds=Bounds(lookup_s=0.01), resolve=silent)
    await egress.open()
    try:
        answer = await egress.post("http://silent.example/", {}, b"")
        with pytest.raises(AddressRefused, match="no name server answered"):
            await egress.check_url("http://silent.example/")
    finally:
        answering.set()
        await egress.close()
    assert (answer.status, answer.error) == (None, "no name server answered for the host within 0.01 s")


async def test_a_name_is_looked_up_once_however_many_ask():
    asked: list[str] = []
    answering = threading.Event()

    def resolve(host: str) -> list[str]:
        asked.append(host)
        if host == "slow.example":
            answering.wait()
        return ["192.0.2.1"]

    lookups = Lookups(resolve)
    try:
        # More than there are threads: those who gave up leave none behind.
        for _ in range(2 * THREADS):
            with pytest.raises(TimeoutError):
                await lookups.addresses("slow.example", 0.001)
        assert await lookups.addresses("quick.example", 10) == ["192.0.2.1"]
        assert asked == ["slow.example", "quick.example"]
        answering.set()
        assert await lookups.addresses("slow.example", 10) == ["192.0.2.1"]
    finally:
        answering.set()
        lookups.close()


async def test_a_look_up_that_fails_late_is_heard_by_nobody_and_forgotten():
    answering = threading.Event()
    answers = iter([OSError("late"), ["192.0.2.1"]])

    def resolve(host: str) -> list[str]:
        answering.wait()
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    lookups = Lookups(resolve)
    try:
        with pytest.raises(TimeoutError):
            await lookups.addresses("late.example", 0.001)
        answering.set()
        with suppress(OSError):
            await lookups.addresses("late.example", 10)
        assert await lookups.addresses("late.example", 10) == ["192.0.2.1"]
    finally:
        lookups.close()


async def test_port_0_is_refused():
    with pytest.raises(AddressRefused, match="port"):
        await Egress(local("127.0.0.0/8")).check_url("http://127.0.0.1:0/")


async def test_failures_are_told_in_words(unused_port: int):
    answer = await post("127.0.0.0/8", f"http://127.0.0.1:{unused_port}/")
    assert answer.error == "the connection was refused or could not be opened"
    tls = await post("127.0.0.0/8", f"https://127.0.0.1:{unused_port}/")
    assert tls.error == answer.error


async def test_a_reset_and_junk_are_told_in_words():
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async def junk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"what?\r\n\r\n")
        writer.close()

    words: list[str | None] = []
    for behaviour in (reset, junk):
        async with await asyncio.start_server(behaviour, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            words.append((await post("127.0.0.0/8", f"http://127.0.0.1:{port}/")).error)
    assert words == ["the connection broke before an answer came", NOT_HTTP]


@pytest.fixture
async def unused_port() -> int:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        return server.sockets[0].getsockname()[1]
