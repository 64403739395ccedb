"""Receivers that misbehave: each ends in clear words within its bounds, and nobody's memory grows."""

import asyncio
import time
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from services.webhooks.connections import ANSWER_CAP_BYTES, TOO_LONG
from services.webhooks.destinations import rules
from services.webhooks.egress import BODY_CAP_BYTES, NOT_HTTP, Answer, Bounds, Egress
from tests.dialled import counted
from tests.service.event_loops import LOOPS, run
from tests.service.raw_receiver import CLOSING, Behaviour, Sent, flood, hang, once, receiving, trickle

LOCAL = rules("127.0.0.0/8", http=True, ports="*")
SHORT = Bounds(total_s=0.6, connect_s=0.3, lookup_s=0.3)
MB = 1_000_000
# What the test itself needs: the receiver's own buffers, aiohttp's parsers and a page of Python.
MEMORY_BYTES = 8 * MB


@asynccontextmanager
async def sending(bounds: Bounds = SHORT) -> AsyncGenerator[Egress]:
    egress = Egress(LOCAL, bounds=bounds)
    await egress.open()
    try:
        yield egress
    finally:
        await egress.close()


async def post(behaviour: Behaviour, scheme: str = "http") -> Answer:
    async with sending() as egress, receiving(behaviour) as port:
        return await egress.post(f"{scheme}://127.0.0.1:{port}/hook", {}, b"{}")


def test_the_bounds_are_those_of_the_contract():
    assert Bounds() == Bounds(total_s=15, connect_s=5, lookup_s=5)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("behaviour", "scheme", "words"),
    [
        (hang, "http", "no complete answer within 0.6 s"),
        (hang, "https", "no connection within 0.3 s"),
        (trickle(b"HTTP/1.1 200 OK\r\nx: "), "http", "no complete answer within 0.6 s"),
        (trickle(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"), "http", "no complete answer within 0.6 s"),
    ],
    ids=["hangs", "never shakes hands", "trickles headers", "trickles a body"],
)
def test_the_slow_are_given_up(loop: str, behaviour: Behaviour, scheme: str, words: str):
    began = time.monotonic()
    answer = run(loop, lambda: post(behaviour, scheme))
    assert (answer.status, answer.error, answer.slow) == (None, words, True)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (once(b"", reset=True), "the connection broke before an answer came"),
        (once(b""), "the connection broke before an answer came"),
        (
            once(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"),
            "the connection broke before the answer was complete",
        ),
        (once(b"what?\r\n\r\n"), NOT_HTTP),
        (once(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"), NOT_HTTP),
        (once(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n"), NOT_HTTP),
    ],
    ids=["resets", "closes", "stops half-way", "is no HTTP", "has an impossible length", "has too many headers"],
)
def test_the_broken_are_told_in_words(loop: str, behaviour: Behaviour, words: str):
    answer = run(loop, lambda: post(behaviour))
    assert (answer.status, answer.error) == (None, words)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("head", "piece", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 100, NOT_HTTP),
        (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 10_000, NOT_HTTP),
        (b"HTTP/1.1 200 ", b"y" * 10_000, NOT_HTTP),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, TOO_LONG),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"y" * 10_000, TOO_LONG),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"x: y\r\n" * 1000, NOT_HTTP),
    ],
    ids=["headers", "one header", "the status line", "interim answers", "a chunk's extension", "trailers"],
)
def test_what_has_no_end_is_cut_off(loop: str, head: bytes, piece: bytes, words: str):
    sent = Sent()
    tracemalloc.start()
    answer = run(loop, lambda: post(flood(head, piece, sent)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (answer.status, answer.error) == (None, words)
    assert peak < MEMORY_BYTES
    assert sent.bytes < 500 * MB


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1000000000\r\n\r\n",
    ],
    ids=["as it said", "without a length", "said to be zipped"],
)
def test_of_a_gigabyte_two_kilobytes_are_kept(loop: str, head: bytes):
    sent = Sent()
    tracemalloc.start()
    answer = run(loop, lambda: post(flood(head, b"y" * 65_536, sent)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (answer.status, answer.error, answer.text) == (200, None, "y" * BODY_CAP_BYTES)
    assert peak < MEMORY_BYTES
    # What the kernel's buffers hold, which nobody read.
    assert sent.bytes < 20 * MB


@pytest.mark.parametrize("loop", LOOPS)
def test_the_bound_counts_for_each_request_of_a_connection(loop: str):
    """Many answers on one connection are together more than the bound on one."""
    connections: list[object] = []
    answers = 40
    text = b"y" * BODY_CAP_BYTES

    async def keep_alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while True:
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
            await writer.drain()

    async def posts() -> list[Answer]:
        async with sending() as egress, receiving(keep_alive) as port:
            return [await egress.post(f"http://127.0.0.1:{port}/", {}, b"{}") for _ in range(answers)]

    assert answers * BODY_CAP_BYTES > ANSWER_CAP_BYTES
    assert [answer.error for answer in run(loop, posts)] == [None] * answers
    assert len(connections) < answers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int):
    answer_bytes = b"HTTP/1.1 %d Go\r\nlocation: http://169.254.169.254/latest\r\ncontent-length: 0\r\n\r\n" % status
    with counted() as dialled:
        answer = await post(once(answer_bytes))
    assert answer.status == status
    assert answer.error == f"answered {status}: redirects are not followed, register the final URL"
    assert dialled.addresses == ["127.0.0.1"]


async def test_a_receiver_that_flaps_is_judged_by_each_answer():
    ok, away = CLOSING % b"204 No Content", CLOSING % b"503 Away"
    turns = [once(ok), once(b"", reset=True), once(away), once(ok), hang, once(ok)]
    left = iter(turns)

    async def flap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next(left)(reader, writer)

    async with sending() as egress, receiving(flap) as port:
        answers = [await egress.post(f"http://127.0.0.1:{port}/", {}, b"{}") for _ in turns]
    assert [answer.status for answer in answers] == [204, None, 503, 204, None, 204]
    assert answers[2].error == "answered 503: only 2xx counts as received"


async def test_one_that_hangs_holds_up_nobody_else():
    async with (
        sending(Bounds(total_s=5)) as egress,
        receiving(hang) as dead,
        receiving(once(CLOSING % b"204 X")) as alive,
    ):
        hanging = [asyncio.ensure_future(egress.post(f"http://127.0.0.1:{dead}/", {}, b"{}")) for _ in range(20)]
        answers = [await egress.post(f"http://127.0.0.1:{alive}/", {}, b"{}") for _ in range(5)]
        assert [answer.status for answer in answers] == [204] * 5
        assert not any(one.done() for one in hanging)
        for one in hanging:
            one.cancel()
        await asyncio.wait(hanging)


async def test_no_header_smuggles_in_another():
    received: list[bytes] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))

    async with sending() as egress, receiving(keep) as port:
        for value in ("a\r\nx-admin: yes", "a\nb: c", "a\x00b"):
            answer = await egress.post(f"http://127.0.0.1:{port}/", {"x-mine": value}, b"{}")
            assert answer.error == "nothing was sent: a header of the request holds characters that it must not"
    assert received == []
