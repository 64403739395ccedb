"""No way of writing an address leads into a private network, while receivers that are allowed get every request.

Connections are counted where sockets connect, and by a listener on all of this machine's addresses; on the event loop
of the tests and on the one that services run on.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from yarl import URL

from services.webhooks.destinations import Address, AddressRefused, Destination, Rules, rules
from services.webhooks.egress import Answer, Egress, is_this_machine
from services.webhooks.lookups import Resolve
from tests.dialled import Dialled, counted
from tests.service.event_loops import LOOPS, run

# fmt: off
ADDRESSES = (
    "0.0.0.0",  # noqa: S104 - dialled, not listened on
    "0.1.2.3", "10.254.0.0", "192.168.10.65", "172.16.10.65", "127.0.0.1", "127.254.254.254",
    "169.254.169.254", "255.255.255.255", "224.1.2.3", "233.252.0.16", "192.0.0.1", "192.0.0.9", "192.0.0.170",
    "192.0.2.255", "198.51.100.65", "203.0.113.6", "100.100.0.0", "192.88.99.3", "198.18.0.1", "240.240.240.240",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:7f00:1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "2001::1", "2001:db8::1", "3fff::1",
    "100::1", "5f00::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1",
)
SPELLINGS = (
    "2130706433", "017700000001", "0x7f000001", "0x7f.1", "0x7F.0.0.1", "127.1", "127.0.1", "0177.0.0.1", "0", "0x0",
    "127.0.0.1.", "127.0.0.1%00", "%31%32%37.0.0.1", "[::1%25lo]", "[::1%lo]", "[0:0:0:0:0:0:0:1]", "[::ffff:7f00:1]",
    "[::ffff:7f00:0001]", "[127.0.0.1]", "[64:ff9b::127.0.0.1]", "1.1.1.1@127.0.0.1", "me:secret@127.0.0.1",
    "1.1.1.1#@127.0.0.1", "1.1.1.1\\@127.0.0.1", "127.0.0.1\\.partner.example", "\u2460\u2461\u2466.0.0.1",
    "127\u30020\u30020\u30021", "\uff11\uff12\uff17.0.0.1", "localhost", "LOCALHOST", "localhost.",
)
# fmt: on
PUBLIC = "1.1.1.1"
ALLOWED = "127.0.0.99"


class Listener:
    """Counts connections and answers each request with an empty 204."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()


@dataclass(frozen=True)
class Tried:
    """What became of the whole corpus; `controls` counts requests to the receiver that is allowed."""

    addresses: int
    dialled: list[str]
    connections: int
    controls: int
    answers: list[Answer]


class Unguarded(Rules):
    """The rules with the guard taken out."""

    def check(self, text: str) -> Address:
        return ipaddress.ip_address(text)


@asynccontextmanager
async def listening(host: str) -> AsyncGenerator[Listener]:
    """On `host`, or on all addresses of this machine when it is empty."""
    listener = Listener()
    both = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    bound = socket.create_server((host, 0), family=family, dualstack_ipv6=both)
    async with await asyncio.start_server(listener.serve, sock=bound):
        listener.port = bound.getsockname()[1]
        yield listener


def egress(allowed: Rules, names: dict[str, list[str]] | None = None, own: bool | None = None) -> Egress:
    """Names resolve as `names` says; `own` says what counts as this machine's own address (None: as it is)."""
    known = names or {}

    def resolve(host: str) -> list[str]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known[host]

    return Egress(allowed, resolve=resolve, is_own=is_this_machine if own is None else lambda _: own)


@asynccontextmanager
async def opened(one: Egress) -> AsyncGenerator[Egress]:
    await one.open()
    try:
        yield one
    finally:
        await one.close()


def corpus() -> tuple[list[str], dict[str, list[str]]]:
    """Hosts to try, and what the names among them resolve to."""
    literals = [f"[{address}]" if ":" in address else address for address in ADDRESSES]
    names = {"localhost": ["127.0.0.1"], "metadata.google.internal": ["169.254.169.254"]}
    for number, address in enumerate(ADDRESSES):
        names |= {f"one{number}.example": [address], f"mixed{number}.example": [PUBLIC, address]}
    return [*literals, *SPELLINGS, *names], names


async def tried(allowed: Rules, *, own: bool | None = None) -> Tried:
    """The whole corpus, with a request to the allowed receiver after each address."""
    hosts, names = corpus()
    answers: list[Answer] = []
    async with listening("") as blocked, listening(ALLOWED) as control, opened(egress(allowed, names, own)) as out:
        with counted() as dialled:
            for host in hosts:
                answers.append(await out.post(f"http://{host}:{blocked.port}/", {}, b"{}"))
                assert (await out.post(f"http://{ALLOWED}:{control.port}/", {}, b"{}")).status == 204
        others = [address for address in dialled.addresses if address != ALLOWED]
        return Tried(len(hosts), others, blocked.connections, control.connections, answers)


def hold(found: Tried) -> None:
    """Nobody was called but the receiver that is allowed."""
    assert found.dialled == []
    assert found.connections == 0
    assert found.controls == found.addresses
    assert all(answer.status is None and answer.error for answer in found.answers)
    # Partners read these words: no address of ours, and no difference between a private name and none.
    assert not any(address in (answer.error or "") for answer in found.answers for address in ADDRESSES[2:9])


@pytest.mark.parametrize("loop", LOOPS)
def test_no_blocked_address_gets_a_connection(loop: str, capsys: pytest.CaptureFixture[str]):
    found = run(loop, lambda: tried(rules(f"{ALLOWED}/32", http=True, ports="*")))
    with capsys.disabled():
        made = len(found.dialled) + found.connections
        print(  # noqa: T201 - the figures are the point
            f"\naddresses tried: {found.addresses}, connections made: {made}; "
            f"control requests to the listener that is allowed: {found.controls} of {found.addresses} arrived"
        )
    hold(found)
    assert found.addresses > 60


@pytest.mark.parametrize("loop", LOOPS)
def test_without_the_guard_the_same_run_is_red(loop: str):
    found = run(loop, lambda: tried(Unguarded(allowed=(), http=True, ports=None), own=False))
    with pytest.raises(AssertionError):
        hold(found)
    # Real connections on this machine, and calls to the metadata service as a literal and by name.
    assert found.connections > 5
    assert found.dialled.count("169.254.169.254") > 2
    assert {"::1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"} <= set(found.dialled)


@pytest.mark.parametrize("loop", LOOPS)
def test_public_addresses_are_dialled_by_literal_and_by_name(loop: str):
    names = {"partner.example": [PUBLIC, "2606:4700:4700::1111"]}

    async def posts() -> Dialled:
        async with opened(egress(Rules(), names, own=False)) as out:
            with counted() as dialled:
                for host in (PUBLIC, "[2606:4700:4700::1111]", "partner.example"):
                    answer = await out.post(f"https://{host}/", {}, b"{}")
                    assert answer.error == "the connection was refused or could not be opened"
            return dialled

    found = run(loop, posts)
    assert found.addresses[:2] == [PUBLIC, "2606:4700:4700::1111"]
    assert set(found.addresses[2:]) == {PUBLIC, "2606:4700:4700::1111"}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_name_server_that_rebinds_gains_nothing(loop: str):
    """Public when the endpoint is registered and when it is checked, private whenever it is asked again."""

    async def rebound(answers: list[list[str]], posts: int) -> tuple[list[str], int, list[str]]:
        asked: list[str] = []

        def resolve(host: str) -> list[str]:
            asked.append(host)
            return answers[min(len(asked), len(answers)) - 1]

        async with listening("") as inside, opened(_rebinding(resolve)) as out:
            await out.check_url(f"http://rebinds.example:{inside.port}/")
            with counted() as dialled:
                said = [await out.post(f"http://rebinds.example:{inside.port}/", {}, b"") for _ in range(posts)]
            assert inside.connections == 0
        return dialled.addresses, len(asked), [answer.error or "" for answer in said]

    dialled, asked, errors = run(loop, lambda: rebound([[PUBLIC], ["127.0.0.1"]], 2))
    assert (dialled, asked) == ([], 3)
    assert all("no address in the networks" in error for error in errors)
    # Checked and dialled are one answer: nobody asks a second time in between.
    dialled, asked, _ = run(loop, lambda: rebound([[PUBLIC], [PUBLIC], ["127.0.0.1"]], 1))
    assert (dialled, asked) == ([PUBLIC], 2)


def _rebinding(resolve: Resolve) -> Egress:
    return Egress(rules("", http=True, ports="*"), resolve=resolve, is_own=lambda _: False)


async def test_this_machines_own_addresses_are_refused_though_public():
    async with opened(egress(Rules(), {"us.example": [PUBLIC]}, own=True)) as out:
        with counted() as dialled:
            answers = [await out.post(f"https://{host}/", {}, b"") for host in (PUBLIC, "us.example")]
            with pytest.raises(AddressRefused, match="this server's own"):
                await out.check_url(f"https://{PUBLIC}/")
    assert (dialled.addresses, [answer.status for answer in answers]) == ([], [None, None])


class NoUrlCheck(Rules):
    """Rules that read a URL and judge nothing in it."""

    def destination(self, url: str) -> Destination:
        host = URL(url).raw_host or ""
        return Destination("http", host, URL(url).port or 80, "/")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1", "0x7f.1"])
def test_sockets_are_guarded_by_themselves(loop: str, host: str):
    """aiohttp asks no resolver about what looks like an address."""

    async def posted() -> tuple[Answer, list[str], int]:
        async with listening("") as inside, opened(Egress(NoUrlCheck(), resolve=lambda _: ["127.0.0.1"])) as out:
            with counted() as dialled:
                answer = await out.post(f"http://{host}:{inside.port}/", {}, b"")
            return answer, dialled.addresses, inside.connections

    answer, dialled, connections = run(loop, posted)
    assert (answer.status, dialled, connections) == (None, [], 0)


def test_a_machine_knows_its_own_addresses():
    assert is_this_machine(ipaddress.ip_address("127.0.0.1"))
    assert is_this_machine(ipaddress.ip_address("127.0.0.77"))
    assert not is_this_machine(ipaddress.ip_address("192.0.2.1"))
    assert not is_this_machine(ipaddress.ip_address("2001:db8::1"))
