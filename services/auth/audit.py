"""The audit log: what happened to accounts, partners and keys, who did it, and roughly from where.

A line goes into the same `put_many` as the change that it tells of, behind it: SQLite writes both or neither; MongoDB
in order, so that a crash between the two loses the line and never the change. Lines of failed attempts are written
after the answer, whose time would otherwise tell which addresses are known; a crash loses what came in the last second.
Nothing here changes or deletes a line but `prune`, the counts of an hour's attempts, and the erasure of a user.

Minimisation: opaque ids, names of fields, and the network alone: a /24 of IPv4, a /48 of IPv6. That is enough for
users to recognise a stranger and for operators to find a campaign, and names no household.
"""

import asyncio
import ipaddress
import logging
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from fastapi import Request

from shared.callers import ANONYMOUS, OPERATOR_SCOPE, Caller
from shared.client_address import client_address_of
from shared.clock import Clock
from shared.documents import Collection, Document, Documents, Index, Page, Put
from shared.errors import Problem, Unavailable
from shared.identity import caller_of
from shared.spans import current_trace_id

Actor = Literal["user", "partner", "operator", "nobody", "system"]
Kind = Literal[
    "account-created",
    "account-erased",
    "audit-read",
    "client-secret-rotated",
    "erasure-asked",
    "export-asked",
    "export-downloaded",
    "grant-given",
    "grant-revoked",
    "key-created",
    "key-revoked",
    "key-rotated",
    "managed-user-created",
    "operator-command",
    "partner-approved",
    "partner-changed",
    "partner-quota-changed",
    "partner-registered",
    "partner-suspended",
    "password-changed",
    "password-reset",
    "password-reset-asked",
    "profile-changed",
    "recovery-code-used",
    "recovery-codes-renewed",
    "refresh-token-reused",
    "second-factor-asked",
    "second-factor-off",
    "second-factor-on",
    "session-ended",
    "sign-in-held-up",
    "signed-in",
    "wrong-password",
    "wrong-second-factor",
]
# Those that strangers cause as often as they like: one line an hour and account, with a count; see attempts.py.
Attempt = Literal["second-factor-asked", "sign-in-held-up", "wrong-password", "wrong-second-factor"]
KINDS: tuple[str, ...] = get_args(Kind)
IPV4_PREFIX, IPV6_PREFIX = 24, 48
MAX_DETAILS, MAX_DETAIL = 40, 80
DAY = timedelta(days=1)

log = logging.getLogger(__name__)


class Line(Document, frozen=True, kw_only=True):
    """A line. `by` is an operator's name, `about` the id of the session, grant or key, `details` codes and names of
    fields. `count` attempts were made from `at` to `last_at`; `network` and `trace_id` are those of the first.
    """

    at: datetime
    last_at: datetime
    kind: str
    actor: Actor
    by: str = ""
    user_id: str | None = None
    partner_id: str | None = None
    about: str = ""
    details: tuple[str, ...] = ()
    network: str = ""
    trace_id: str = ""
    count: int = 1


BY_TIME, BY_USER, BY_PARTNER, BY_KIND, BY_USER_AND_KIND = "time", "user", "partner", "kind", "user_kind"
LINES = Collection(
    "audit_lines",
    Line,
    (
        Index(BY_TIME, ("at",)),
        Index(BY_USER, ("user_id", "at")),
        Index(BY_PARTNER, ("partner_id", "at")),
        Index(BY_KIND, ("kind", "at")),
        Index(BY_USER_AND_KIND, ("user_id", "kind", "at")),
    ),
)


@dataclass(frozen=True)
class Origin:
    """Who asks, from which network, in which trace."""

    caller: Caller | None = None
    network: str = ""
    trace_id: str = ""


_origin: ContextVar[Origin | None] = ContextVar("audit_origin", default=None)


async def note_origin(request: Request) -> None:
    """A dependency of every route: what lines say of who asks. A bad token is for the route itself to refuse."""
    try:
        caller = await caller_of(request)
    except Problem:
        caller = ANONYMOUS
    _origin.set(Origin(caller, coarse(client_address_of(request)), current_trace_id() or ""))


def note_client(partner_id: str) -> None:
    """Lines of this request are of that partner, which has proved who it is by its client secret."""
    _origin.set(replace(origin(), caller=Caller(None, partner_id)))


def origin() -> Origin:
    """That of this request, for work that is done after it; none outside of a request."""
    return _origin.get() or Origin()


def coarse(address: str) -> str:
    """The /24 or /48 that an address is in, "" for what is no address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    prefix = IPV4_PREFIX if found.version == 4 else IPV6_PREFIX
    return str(ipaddress.ip_network((found, prefix), strict=False))


def line(
    kind: Kind,
    at: datetime,
    *,
    user_id: str | None = None,
    partner_id: str | None = None,
    about: str = "",
    details: Iterable[str] = (),
    actor: Actor | None = None,
    by: str = "",
    asked: Origin | None = None,
) -> Put:
    """A line for the `put_many` of the change, to be put behind it.

    `actor`: where the caller's token does not say it, as at sign-in. `asked`: of a request that is over. Neither
    `about` nor `details` may hold what somebody typed.
    """
    asked = asked or origin()
    document = new_line(
        kind,
        at,
        asked,
        actor=actor_of(asked.caller, actor),
        by=by[:MAX_DETAIL],
        user_id=user_id,
        partner_id=partner_id or (asked.caller.partner_id if asked.caller is not None else None),
        about=about[:MAX_DETAIL],
        details=tuple(detail[:MAX_DETAIL] for detail in details)[:MAX_DETAILS],
    )
    return Put(LINES, document)


def new_line(kind: Kind, at: datetime, asked: Origin, **rest: Any) -> Line:
    """A line with an id of its own; `rest` are further fields."""
    # Ids that go up keep lines of one moment in their order.
    id = f"aud_{time.time_ns():016x}{secrets.token_hex(6)}"
    return Line(id=id, at=at, last_at=at, kind=kind, network=asked.network, trace_id=asked.trace_id, **rest)


def actor_of(caller: Caller | None, otherwise: Actor | None = None) -> Actor:
    """Who did it, as far as the token says, else `otherwise`; a caller of None: it was no request.

    What we do of ourselves, whoever gave rise to it, is the system's.
    """
    if otherwise == "system":
        return otherwise
    if caller is None or caller == ANONYMOUS:
        return otherwise or ("system" if caller is None else "nobody")
    if OPERATOR_SCOPE in caller.scopes:
        return "operator"
    if caller.partner_id is not None:
        return "partner"
    return "user" if caller.user_id is not None else otherwise or "nobody"


async def page(
    documents: Documents,
    *,
    user_id: str | None = None,
    kind: str | None = None,
    since: datetime | None = None,
    limit: int,
    cursor: str | None,
) -> Page[Line]:
    """Lines, newest first. Raises ValueError for a cursor that is none."""
    by = {(True, True): BY_USER_AND_KIND, (True, False): BY_USER, (False, True): BY_KIND, (False, False): BY_TIME}
    index = by[user_id is not None, kind is not None]
    equals = [value for value in (user_id, kind) if value is not None]
    return await documents.find(LINES, index, equals, at_least=since, descending=True, limit=limit, cursor=cursor)


async def prune(documents: Documents, before: datetime) -> int:
    """Delete lines of before; how many that were."""
    return await documents.delete_where(LINES, BY_TIME, (), below=before)


async def keep_pruned(documents: Documents, clock: Clock, kept: timedelta) -> None:
    """Prune each day until cancelled."""
    while True:
        with suppress(Unavailable):
            if deleted := await prune(documents, clock() - kept):
                log.info("%d lines of the audit log were older than %d days", deleted, kept.days)
        await asyncio.sleep(DAY.total_seconds())
