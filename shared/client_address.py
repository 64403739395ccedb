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
    """Networks, comma-separated. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def origin(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """The address that the request came from: the last of `peer` and X-Forwarded-For that is no trusted proxy's.

    Of `forwarded_for` only what a trusted proxy wrote counts; without trusted proxies it counts for nothing.
    """
    hops = [*(part.strip() for part in forwarded_for.split(",")), peer]
    for hop in reversed(hops):
        if not _is_trusted(hop, trusted):
            # Written by a trusted proxy, yet no address: the nearest that is one.
            return hop if _is_address(hop) else peer
    return peer


def network_of(address: str) -> str:
    """What guesses from `address` are counted under: the IPv4 address or the IPv6 /64; the text itself if neither."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, IPV6_PREFIX), strict=False))
    return str(found)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_trusted(text: str, trusted: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return any(address.version == network.version and address in network for network in trusted)
