"""Where a request came from, as the gateway tells the services: one internal header that callers cannot set.

The gateway passes on a closed list of a caller's headers, so a caller's own `Client-Address` never gets further.
"""

import ipaddress
from collections.abc import Sequence

from fastapi import Request

CLIENT_ADDRESS = "client-address"
# What one household or one phone has: whoever holds an IPv6 address holds its /64.
IPV6_PREFIX = 64

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address_of(request: Request) -> str:
    """The caller's address from the gateway's header, "" without one; usable as a dependency."""
    return request.headers.get(CLIENT_ADDRESS, "")


def networks(text: str) -> tuple[Network, ...]:
    """Networks, comma-separated. Raises ValueError, without what was written."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            "write networks such as 10.0.0.0/8, comma-separated, with no bit set behind the prefix"
        ) from None


def origin(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """The address that the request came from: the last of `peer` and X-Forwarded-For that is no trusted proxy's.

    Of `forwarded_for` only what a trusted proxy wrote counts; without trusted proxies it counts for nothing.
    """
    nearest = peer
    for hop in (peer, *(_without_port(part.strip()) for part in reversed(forwarded_for.split(",")))):
        address = _address(hop)
        if address is None:
            # Written by a trusted proxy, yet no address: the nearest that is one.
            return nearest
        if not any(address.version == network.version and address in network for network in trusted):
            return hop
        nearest = hop
    return nearest


def network_of(address: str) -> str:
    """What guesses from `address` are counted under: the IPv4 address or the IPv6 /64; the text itself if neither."""
    found = _address(address)
    if found is None:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, IPV6_PREFIX), strict=False))
    return str(found)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address; IPv4 also as a socket for both kinds tells it, ::ffff:10.0.0.1."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return found if isinstance(found, ipaddress.IPv4Address) else found.ipv4_mapped or found


def _without_port(hop: str) -> str:
    """Some proxies write the caller's port too: 198.51.100.1:4711, [2001:db8::7]:4711."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
