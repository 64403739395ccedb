"""`?user=<user_id>`, by which a partner says for whom it calls, and its like; nothing behind the door sees them."""

from urllib.parse import unquote_to_bytes

from shared.errors import Problem

PARAMETER = b"user"


def taken(query: bytes, parameter: bytes = PARAMETER) -> tuple[bytes, str | None]:
    """The query without `parameter`, however it is escaped, and its value; None where it is not there.

    Raises:
        Problem: 422, it is there more than once, empty or not UTF-8.
    """
    # Most queries end here: a name that is escaped has a % in it.
    if parameter not in query and b"%" not in query:
        return query, None
    kept: list[bytes] = []
    named: list[bytes] = []
    for field in query.split(b"&"):
        name, _, value = field.partition(b"=")
        if _plain(name) == parameter:
            named.append(_plain(value))
        else:
            kept.append(field)
    if not named:
        return query, None
    return b"&".join(kept), _one(named, parameter)


def _plain(escaped: bytes) -> bytes:
    return unquote_to_bytes(escaped.replace(b"+", b" "))


def _one(named: list[bytes], parameter: bytes) -> str:
    try:
        value = named[0].decode()
    except UnicodeDecodeError as error:
        raise _unreadable(parameter) from error
    if len(named) > 1 or not value:
        raise _unreadable(parameter)
    return value


def _unreadable(parameter: bytes) -> Problem:
    return Problem(422, "invalid-request", f"Give `{parameter.decode()}` once, with one value.")
