"""`?user=<user_id>`, by which a partner says for whom it calls; nothing behind the door ever sees it."""

from urllib.parse import unquote_to_bytes

from shared.errors import Problem

PARAMETER = b"user"


def taken(query: bytes) -> tuple[bytes, str | None]:
    """The query without `user`, however it is escaped, and whom it named; None for nobody.

    Raises:
        Problem: 422, `user` is there more than once, empty or not UTF-8.
    """
    # Most queries end here: a name that is escaped has a % in it.
    if PARAMETER not in query and b"%" not in query:
        return query, None
    kept: list[bytes] = []
    named: list[bytes] = []
    for field in query.split(b"&"):
        name, _, value = field.partition(b"=")
        if _plain(name) == PARAMETER:
            named.append(_plain(value))
        else:
            kept.append(field)
    if not named:
        return query, None
    return b"&".join(kept), _one(named)


def _plain(escaped: bytes) -> bytes:
    return unquote_to_bytes(escaped.replace(b"+", b" "))


def _one(named: list[bytes]) -> str:
    try:
        user_id = named[0].decode()
    except UnicodeDecodeError as error:
        raise _unreadable() from error
    if len(named) > 1 or not user_id:
        raise _unreadable()
    return user_id


def _unreadable() -> Problem:
    return Problem(422, "invalid-request", "Give `user` once, with the id of one user.")
