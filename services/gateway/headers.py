"""A request's headers, looked through once for all who ask: limits, door and proxy see the same."""

from collections.abc import Sequence

from starlette.types import Scope

from shared.errors import Problem

# Where they are kept.
HEADERS = "gateway.headers"
FORWARDED_FOR = b"x-forwarded-for"
# Two of these could mean one thing to a proxy and another to us.
ONCE = frozenset({b"authorization", b"content-type", b"idempotency-key"})


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """A request's headers by lower-case name, looked through once for all who ask; X-Forwarded-For in one line.

    Raises:
        Problem: 400, one that must stand there once does so twice.
    """
    found: dict[bytes, bytes] | None = scope.get(HEADERS)
    if found is None:
        lines: list[tuple[bytes, bytes]] = scope["headers"]
        found = dict(lines)
        if len(found) < len(lines):
            _check_repeated(lines)
            if FORWARDED_FOR in found:
                # RFC 9110 §5.3: the lines of a list are one list, and each proxy may write a line of its own.
                found[FORWARDED_FOR] = b", ".join(value for name, value in lines if name == FORWARDED_FOR)
        scope[HEADERS] = found
    return found


def _check_repeated(lines: Sequence[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in lines if name in ONCE]
    if len(set(names)) < len(names):
        raise Problem(400, "bad-request", "Send Authorization, Content-Type and Idempotency-Key once each.")
