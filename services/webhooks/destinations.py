"""Where deliveries may go: which URLs, and which addresses behind their names."""

import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

URL_MAX = 2048
HOST_MAX = 253
HTTPS_PORT, HTTP_PORT, PORT_MAX = 443, 80, 65535
ANY_PORT = "*"
PORT = re.compile(r"[0-9]{1,5}")
# RFC 3986. Hosts know no "%": no zone ids, no encoded letters.
URL_LETTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")
HOST_AND_PORT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5})?)?")
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# No top-level domain is a number, but resolvers read 127.1, 0x7f.1 and 2130706433 as addresses.
NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
# IPv6 is handed out from here alone; NAT64, IPv4 in IPv6, link-local, site-local and multicast lie outside.
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# What Python (3.11 to 3.13) calls global, though it is no partner's: IETF assignments, 6to4 relays, shared (CGNAT) and
# documentation space, and IPv6 that carries an IPv4 address inside (Teredo, 6to4).
NOT_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "100.64.0.0/10", "2001::/23", "2002::/16", "3fff::/20")
)


class AddressRefused(OSError):
    """Deliveries must not go there; the text says why and what would be allowed."""


@dataclass(frozen=True)
class Destination:
    """One delivery's way: `host` is a name in lower case or an IP literal, `target` the path and query as written."""

    scheme: str
    host: str
    port: int
    target: str


@dataclass(frozen=True)
class Rules:
    """Public addresses by https on port 443, and what an operator adds.

    `allowed` are further networks, `ports` None means any; `own_names` and `own_networks` lead to this server and are
    refused whatever else says.
    """

    allowed: Sequence[Network] = ()
    http: bool = False
    ports: Collection[int] | None = (HTTPS_PORT,)
    own_names: Collection[str] = ()
    own_networks: Sequence[Network] = ()

    def destination(self, url: str) -> Destination:
        """What `url` names; the addresses behind a host name are not looked at. Raises AddressRefused."""
        found = _parsed(url)
        if found.scheme != "https" and not (self.http and found.scheme == "http"):
            allowed = "https:// or http://" if self.http else "https://"
            raise AddressRefused(f"the URL must start with {allowed}")
        if self.ports is not None and found.port not in self.ports:
            listed = ", ".join(str(port) for port in sorted(self.ports))
            raise AddressRefused(f"deliveries go to these ports only: {listed}")
        if is_literal(found.host):
            self.check(found.host)
        elif found.host in self.own_names:
            raise AddressRefused("the host is this server itself")
        return found

    def check(self, text: str) -> Address:
        """The address, which deliveries may go to. Raises AddressRefused."""
        try:
            address = _plain(ipaddress.ip_address(text))
        except ValueError as error:
            raise AddressRefused("the address cannot be read") from error
        if _within(address, self.own_networks):
            raise AddressRefused("the address is this server's own")
        if not self.names(address) and not is_public(address):
            raise AddressRefused("the address is private, local or reserved; deliveries go to public networks only")
        return address

    def names(self, address: Address) -> bool:
        """Did an operator allow a network that holds `address`?"""
        return _within(address, self.allowed)


def rules(cidrs: str, *, http: bool = False, ports: str = str(HTTPS_PORT), own_hosts: str = "") -> Rules:
    """The rules as settings write them, comma-separated; `own_hosts` are names and networks. Raises ValueError."""
    names, own_networks = own(own_hosts)
    return Rules(networks(cidrs), http, allowed_ports(ports), names, own_networks)


def own(hosts: str) -> tuple[frozenset[str], tuple[Network, ...]]:
    """The names and the networks of a comma-separated list of both. Raises ValueError, without what was written."""
    listed = [part.rstrip(".").lower() for part in _listed(hosts)]
    own_networks = [part for part in listed if _is_network(part)]
    names = frozenset(listed) - frozenset(own_networks)
    if not all(map(_is_name, names)):
        raise ValueError("write host names and networks such as api.example.com,198.51.100.0/24, comma-separated")
    return names, networks(",".join(own_networks))


def networks(cidrs: str) -> tuple[Network, ...]:
    """A comma-separated list such as `127.0.0.0/8,::1/128`. Raises ValueError, without what was written."""
    try:
        return tuple(ipaddress.ip_network(part) for part in _listed(cidrs))
    except ValueError:
        raise ValueError(
            "write networks such as 127.0.0.0/8, comma-separated, with no bit set behind the prefix"
        ) from None


def allowed_ports(ports: str) -> frozenset[int] | None:
    """A comma-separated list such as `443,8443`; None for any (`*`). Raises ValueError, without what was written."""
    if ports.strip() == ANY_PORT:
        return None
    listed = _listed(ports)
    if not all(PORT.fullmatch(part) and 1 <= int(part) <= PORT_MAX for part in listed):
        raise ValueError(f"write ports between 1 and {PORT_MAX} such as 443,8443, comma-separated, or * for any")
    return frozenset(map(int, listed))


def is_public(address: Address) -> bool:
    """Is `address` one that anybody on the internet may be reached at? IPv4-mapped ones count as IPv4.

    Stricter than `is_global`, which lets multicast, NAT64, 6to4 and Teredo through: ways back into a private network.
    """
    address = _plain(address)
    if isinstance(address, ipaddress.IPv6Address) and address not in GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast and not _within(address, NOT_PUBLIC)


def is_literal(host: str) -> bool:
    """Is `host` an IP address in full, without brackets?"""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _parsed(url: str) -> Destination:
    if len(url) > URL_MAX:
        raise AddressRefused(f"the URL is longer than {URL_MAX} characters")
    if not URL_LETTERS.fullmatch(url):
        raise AddressRefused(
            "the URL holds characters that it must not: write a host name in other letters as xn--…, "
            "and other characters of the path as %…"
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise AddressRefused("the URL cannot be read") from error
    if "@" in parts.netloc or "#" in url:
        raise AddressRefused("the URL must carry no user, password or fragment")
    if not parts.scheme or not parts.netloc:
        raise AddressRefused("the URL must start with https:// and name a host")
    found = HOST_AND_PORT.fullmatch(parts.netloc)
    if found is None:
        raise AddressRefused("the host or the port cannot be read")
    host = (found["six"] or found["host"]).lower()
    if found["six"] is not None and not is_literal(host):
        raise AddressRefused("the address in brackets cannot be read")
    if found["six"] is None and not is_literal(host):
        _check_name(host)
    port = int(found["port"] or (HTTPS_PORT if parts.scheme == "https" else HTTP_PORT))
    if not 1 <= port <= PORT_MAX:
        raise AddressRefused(f"the port must be between 1 and {PORT_MAX}")
    return Destination(parts.scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def _check_name(host: str) -> None:
    if NUMERIC_LABEL.fullmatch(host.rstrip(".").rsplit(".", 1)[-1]):
        raise AddressRefused("an IP address must be written in full, such as 192.0.2.1")
    if not _is_name(host):
        raise AddressRefused("the host name must be letters, digits and hyphens between dots, without a dot at its end")


def _is_name(host: str) -> bool:
    return len(host) <= HOST_MAX and all(LABEL.fullmatch(label) for label in host.split("."))


def _plain(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _within(address: Address, some: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in some)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
