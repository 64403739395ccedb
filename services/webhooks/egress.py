"""The only way out: POST to a partner's address, to checked addresses alone.

A name is resolved once per connection; one address that deliveries must not go to refuses it, and the socket is opened
to an address that passed. The check sits where sockets are made, so IP literals, which aiohttp shows no resolver, and
odd spellings meet it too.
"""

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from services.webhooks.connections import TOO_LONG, BoundedConnector
from services.webhooks.destinations import Address, AddressRefused, Destination, Rules, is_literal
from services.webhooks.lookups import Lookups, Resolve, system_addresses

BODY_CAP_BYTES = 2048
# Shorter than Node's 5 s, or we would often write into a connection that its server is closing.
KEEP_ALIVE_S = 4.0
PLACES_KEPT = 1024
NOT_HTTP = "the answer was not valid HTTP, or had more headers than are taken: 128, of 8 kB each"
NO_ADDRESS = (
    "the host has no address in the networks that deliveries may go to; check its spelling and its DNS entry: "
    "all of its addresses must be public"
)


@dataclass(frozen=True)
class Bounds:
    """Seconds for one try: in all, for connecting (with TLS), for looking its name up."""

    total_s: float = 15.0
    connect_s: float = 5.0
    lookup_s: float = 5.0


@dataclass(frozen=True)
class Answer:
    """What came of one POST: `status` None when no answer arrived, `error` in words unless the status is 2xx."""

    status: int | None
    ms: int
    error: str | None = None
    text: str = ""
    retry_after: str | None = None
    slow: bool = False


def is_this_machine(address: Address) -> bool:
    """Does `address` belong to this machine? Nothing is sent to find out.

    Where the system lets programs bind addresses that it has not (ip_nonlocal_bind), nothing counts as its own.
    """
    return _binds(str(address)) and not _binds("2001:db8::1" if address.version == 6 else "192.0.2.1")


class Egress:
    """POSTs to partners over one connection pool. `open` before use, `close` after."""

    def __init__(
        self,
        rules: Rules,
        *,
        connections: int = 100,
        bounds: Bounds = Bounds(),
        resolve: Resolve = system_addresses,
        is_own: Callable[[Address], bool] = is_this_machine,
    ) -> None:
        self._rules = rules
        self._connections = connections
        self._bounds = bounds
        self._lookups = Lookups(resolve)
        self._is_own = is_own
        self._session: aiohttp.ClientSession | None = None
        # 24 µs of a delivery's 300 otherwise; what the text says does not change, what is behind its name is looked at
        # for each connection.
        self._place_of = lru_cache(PLACES_KEPT)(self._read)

    async def open(self) -> None:
        """Make the connection pool: TLS verified, no proxies, no cookies, no decompression."""
        connector = BoundedConnector(
            resolver=_CheckedResolver(self),
            socket_factory=self._socket,
            limit=self._connections,
            keepalive_timeout=KEEP_ALIVE_S,
            ssl=ssl.create_default_context(),
        )
        bounds = self._bounds
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            # The threshold keeps aiohttp from rounding the bounds up to whole seconds.
            timeout=aiohttp.ClientTimeout(
                total=bounds.total_s, sock_connect=bounds.connect_s, ceil_threshold=bounds.total_s
            ),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the pool."""
        self._lookups.close()
        if self._session is not None:
            await self._session.close()

    async def check_url(self, url: str) -> None:
        """Would a delivery to `url` be let out now? Raises AddressRefused."""
        await self.addresses(self._rules.destination(url).host)

    async def addresses(self, host: str) -> list[str]:
        """Every address of `host`, all of them allowed. Raises AddressRefused."""
        if is_literal(host):
            self.check_address(host)
            return [host]
        try:
            found = await self._lookups.addresses(host, self._bounds.lookup_s)
        except TimeoutError as error:
            raise AddressRefused(f"no name server answered for the host within {self._bounds.lookup_s:g} s") from error
        except (OSError, UnicodeError) as error:
            raise AddressRefused(NO_ADDRESS) from error
        try:
            for address in found:
                self.check_address(address)
        except AddressRefused as error:
            # The same words as for a name that is not there: nobody learns the names of our network by asking.
            raise AddressRefused(NO_ADDRESS) from error
        return found

    def check_address(self, text: str) -> None:
        """Raises AddressRefused unless deliveries may go to the address, which is not this machine's own."""
        address = self._rules.check(text)
        if not self._rules.names(address) and self._is_own(address):
            raise AddressRefused("the address is this server's own")

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """One try: 15 s in all, 5 s each for DNS and connecting, no redirects, 2 kB of the answer. Raises nothing."""
        if self._session is None:
            raise RuntimeError("open() comes first")
        started = time.monotonic()
        try:
            place = self._place_of(url)
            async with self._session.post(place, data=body, headers=headers, allow_redirects=False) as response:
                text = await _capped(response)
                return Answer(
                    status=response.status,
                    ms=_since(started),
                    error=_in_words(response.status),
                    text=text,
                    retry_after=response.headers.get("Retry-After"),
                    slow=response.status == 429,
                )
        except (TimeoutError, OSError, aiohttp.ClientError, ValueError) as error:
            return Answer(None, _since(started), _why(error, self._bounds), slow=isinstance(error, TimeoutError))

    def _read(self, url: str) -> URL:
        return _as_sent(self._rules.destination(url))

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        self.check_address(str(sockaddr[0]))
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


class _CheckedResolver(AbstractResolver):
    """Hands aiohttp the checked addresses only."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._egress.addresses(host)
        ]

    async def close(self) -> None:
        return None


def _binds(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _as_sent(to: Destination) -> URL:
    """The URL as aiohttp takes it, from the parts that were checked: nobody reads the partner's text a second time."""
    path, _, query = to.target.partition("?")
    host = f"[{to.host}]" if ":" in to.host else to.host
    return URL.build(scheme=to.scheme, host=host, port=to.port, path=path, query_string=query, encoded=True)


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


async def _capped(response: aiohttp.ClientResponse) -> str:
    """The answer's first 2 kB; a longer one ends the connection instead of being read on."""
    kept = bytearray()
    while len(kept) < BODY_CAP_BYTES:
        chunk = await response.content.read(BODY_CAP_BYTES - len(kept))
        if not chunk:
            return kept.decode("utf-8", "replace")
        kept += chunk
    response.close()
    return kept.decode("utf-8", "replace")


def _in_words(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"answered {status}: redirects are not followed, register the final URL"
    return f"answered {status}: only 2xx counts as received"


# The first that fits.
_WORDS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (aiohttp.ConnectionTimeoutError, "no connection within {connect_s:g} s"),
    (TimeoutError, "no complete answer within {total_s:g} s"),
    ((aiohttp.ClientSSLError, ssl.SSLError), "the TLS handshake failed; check the certificate"),
    (aiohttp.ClientConnectorError, "the connection was refused or could not be opened"),
    (aiohttp.ClientPayloadError, "the connection broke before the answer was complete"),
    (
        (aiohttp.ServerDisconnectedError, ConnectionResetError, aiohttp.ClientOSError),
        "the connection broke before an answer came",
    ),
    (aiohttp.ClientError, NOT_HTTP),
    (ValueError, "nothing was sent: a header of the request holds characters that it must not"),
)


def _why(error: Exception, bounds: Bounds) -> str:
    """The failure in words, without addresses: partners read this, and must not learn our network from it."""
    reason = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(reason, AddressRefused):
        return str(reason)
    if TOO_LONG in str(error):
        return TOO_LONG
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words.format(connect_s=bounds.connect_s, total_s=bounds.total_s)
    return NOT_HTTP
