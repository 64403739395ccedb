"""The only way out: POST to a partner's address, to checked addresses alone.

A name is resolved once per connection; one address outside the allowed networks refuses it, and the socket is opened to
an address that passed. The check sits where sockets are made, so IP literals and odd spellings meet it too.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

TOTAL_S = 15.0
CONNECT_S = 5.0
BODY_CAP_BYTES = 2048
URL_MAX = 2048
# No top-level domain is a number, but resolvers read 127.1, 0x7f.1 and 2130706433 as addresses.
NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


class AddressRefused(OSError):
    """Deliveries must not go there; the text says why and what would be allowed."""


@dataclass(frozen=True)
class Answer:
    """What came of one POST: `status` None when no answer arrived, `error` in words unless the status is 2xx."""

    status: int | None
    ms: int
    error: str | None = None
    text: str = ""
    retry_after: str | None = None
    slow: bool = False


def networks(cidrs: str) -> tuple[Network, ...]:
    """A comma-separated list such as `127.0.0.0/8,::1/128`. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in cidrs.split(",") if part.strip())


class Egress:
    """POSTs to partners over one connection pool. `open` before use, `close` after."""

    def __init__(self, allowed: Sequence[Network], *, connections: int = 100, lookup_s: float = CONNECT_S) -> None:
        self._allowed = tuple(allowed)
        self._connections = connections
        self._lookup_s = lookup_s
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the connection pool: no proxies, no cookies, no decompression."""
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(self), socket_factory=self._socket, limit=self._connections
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=TOTAL_S, sock_connect=CONNECT_S),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    async def check_url(self, url: str) -> None:
        """Would a delivery to `url` be let out now? Raises AddressRefused."""
        await self.addresses(*host_and_port(url))

    async def addresses(self, host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        """Every address of `host`, all of them allowed. Raises AddressRefused."""
        if _is_literal(host):
            self.check_address(host)
            return [(socket.AF_INET6 if ":" in host else socket.AF_INET, host)]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._lookup_s):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError as error:
            raise AddressRefused(f"no name server answered for the host within {self._lookup_s:g} s") from error
        except (OSError, UnicodeError) as error:
            raise AddressRefused("the host name has no address; check its spelling and its DNS entry") from error
        answers = [(family, str(sockaddr[0])) for family, _, _, _, sockaddr in found]
        for _, address in answers:
            self.check_address(address)
        return answers

    def check_address(self, text: str) -> None:
        """Raises AddressRefused unless the address lies in an allowed network; IPv4-mapped ones count as IPv4."""
        try:
            address: Address = ipaddress.ip_address(text)
        except ValueError as error:
            raise AddressRefused("the address cannot be read") from error
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if not any(address.version == network.version and address in network for network in self._allowed):
            raise AddressRefused("the address is outside the networks that this server may deliver to")

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """One try: 15 s in all, 5 s each for DNS and connecting, no redirects, 2 kB of the answer. Raises nothing."""
        if self._session is None:
            raise RuntimeError("open() comes first")
        started = time.monotonic()
        try:
            host_and_port(url)
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
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
            return Answer(None, _since(started), _why(error), slow=isinstance(error, TimeoutError))

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        self.check_address(str(sockaddr[0]))
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


def host_and_port(url: str) -> tuple[str, int]:
    """The host and port that `url` names. Raises AddressRefused for a form that deliveries do not take."""
    if len(url) > URL_MAX or any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise AddressRefused("the URL is too long or holds characters that it must not")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise AddressRefused("the URL cannot be read") from error
    if parts.scheme not in ("http", "https") or not host:
        raise AddressRefused("the URL must start with https:// or http:// and name a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise AddressRefused("the URL must carry no user, password or fragment")
    if port == 0:
        raise AddressRefused("the port must be between 1 and 65535")
    if "%" in host or "\\" in url:
        raise AddressRefused("the URL is too long or holds characters that it must not")
    if not _is_literal(host) and NUMERIC_LABEL.fullmatch(host.rstrip(".").rsplit(".", 1)[-1]):
        raise AddressRefused("an IP address must be written in full, such as 192.0.2.1")
    return host, port or (443 if parts.scheme == "https" else 80)


class _CheckedResolver(AbstractResolver):
    """Hands aiohttp the checked addresses only."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=found, proto=0, flags=socket.AI_NUMERICHOST)
            for found, address in await self._egress.addresses(host, port)
        ]

    async def close(self) -> None:
        return None


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


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


def _why(error: Exception) -> str:
    """The failure in words, without addresses: partners read this, and must not learn our network from it."""
    if isinstance(error, AddressRefused):
        return str(error)
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused):
        return str(error.os_error)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {CONNECT_S:.0f} s"
    if isinstance(error, TimeoutError):
        return f"no complete answer within {TOTAL_S:.0f} s"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "the TLS handshake failed; check the certificate"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "the connection was refused or could not be opened"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError | aiohttp.ClientOSError):
        return "the connection broke before an answer came"
    return "the answer was not valid HTTP"
