"""Every route by every caller: who gets what, and whether anything of somebody shows up in another's answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

import msgspec

from services.gateway.routes import Route
from tests.flows.matrix_cases import Case
from tests.flows.matrix_world import NOBODY, Partner, World
from tests.service.gateway_edges import Stream
from tests.service.live_sockets import PATH as SOCKET
from tests.service.live_sockets import Socket

Role = Literal[
    "anonymous",
    "expired token",
    "operator",
    "partner without a grant",
    "partner of a revoked grant",
    "partner of other scopes",
    "other user",
    "partner with a grant",
    "owner",
]
# In this order: those who may do nothing first, and whoever may end something last.
ROLES: tuple[Role, ...] = (
    "anonymous",
    "expired token",
    "operator",
    "partner without a grant",
    "partner of a revoked grant",
    "partner of other scopes",
    "other user",
    "partner with a grant",
    "owner",
)
# What a caller gets: its answer (2xx), its own and nothing of anybody else's, the 404 of what is not there, a refusal
# by kind (403), by identity (401), for want of `user` (422), or the same as everybody.
Expected = Literal["answer", "own", "hidden", "forbidden", "unknown", "unnamed", "same"]
STATUS = {"hidden": 404, "forbidden": 403, "unknown": 401, "unnamed": 422}


@dataclass(frozen=True)
class Attempt:
    """A request of a role: with which token, for which user, and what it should get."""

    expected: Expected
    token: str = ""
    user: str = ""


@dataclass(frozen=True)
class Got:
    """An answer; `body` without what names the one request."""

    status: int
    body: Any
    text: str


@dataclass
class Verdict:
    """What was asked, and what was wrong."""

    covered: set[tuple[str, str, str]] = field(default_factory=set[tuple[str, str, str]])
    leaks: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])

    def summary(self, routes: Sequence[Route]) -> str:
        """One line for people."""
        cells = len(routes) * len(ROLES)
        share = 100 * len(self.covered) // cells
        covered = f"routes \N{MULTIPLICATION SIGN} roles covered: {len(self.covered)} of {cells} ({share} %)"
        return f"{covered}, leaks: {len(self.leaks)}"


async def examined(
    world: World, routes: Sequence[Route], cases: Mapping[tuple[str, str], Case], roles: Sequence[Role] = ROLES
) -> Verdict:
    """Ask every route in every role."""
    verdict = Verdict()
    for route in sorted(routes, key=lambda one: cases[one.method, one.path].late):
        case = cases[route.method, route.path]
        for role in roles:
            for attempt in _attempts(world, route, case, role):
                await _judge(verdict, world, route, case, role, attempt)
                verdict.covered.add((route.method, route.path, role))
    return verdict


def _attempts(world: World, route: Route, case: Case, role: Role) -> Iterator[Attempt]:
    if role in ("anonymous", "expired token", "operator"):
        expired = world.expired(of_partner=route.caller == "partner")
        token = {"anonymous": "", "expired token": expired, "operator": world.operator}[role]
        yield Attempt("same" if route.caller == "anyone" else "unknown", token)
    elif route.caller == "anyone":
        yield Attempt("same", _token(world, role))
    elif route.caller == "signed-in":
        yield Attempt("answer" if role == "owner" else "own", _token(world, role))
    elif route.caller == "partner":
        yield from _of_partners(world, case, role)
    else:
        yield from _of_users(world, route, case, role)


def _token(world: World, role: Role) -> str:
    tokens: dict[Role, str] = {
        "partner without a grant": world.without.token,
        "partner of a revoked grant": world.revoked.token,
        "partner of other scopes": world.lacking(None).token,
        "other user": world.other.token,
        "partner with a grant": world.granted.token,
        "owner": world.owner.token,
    }
    return tokens[role]


def _partner(world: World, role: Role) -> Partner:
    partners: dict[Role, Partner] = {
        "partner without a grant": world.without,
        "partner of a revoked grant": world.revoked,
        "partner of other scopes": world.lacking(None),
    }
    return partners[role]


def _of_partners(world: World, case: Case, role: Role) -> Iterator[Attempt]:
    """A route about partners themselves: what is there is the granted partner's."""
    if role == "partner with a grant":
        yield Attempt("forbidden", world.granted.for_owner)
        yield Attempt("answer", world.granted.token)
    elif role in ("owner", "other user"):
        yield Attempt("forbidden", _token(world, role))
    else:
        yield Attempt("hidden" if case.ids else "own", _token(world, role))
        # A token for a user whose grant is no more is nobody's; one of other scopes is a user's.
        yield Attempt("forbidden" if role == "partner of other scopes" else "hidden", _partner(world, role).for_owner)


def _of_users(world: World, route: Route, case: Case, role: Role) -> Iterator[Attempt]:
    me = world.owner.user_id
    if role == "owner":
        yield Attempt("answer", world.owner.token)
        if route.about_users:
            yield Attempt("answer", world.owner.token, me)
    elif role == "other user":
        yield Attempt("hidden" if case.ids else "own", world.other.token)
        yield Attempt("hidden" if route.about_users or case.ids else "own", world.other.token, me)
    elif role == "partner with a grant" and route.about_users:
        yield Attempt("unnamed", world.granted.token)
        yield Attempt("answer", world.granted.token, me)
        yield Attempt("answer", world.key, me)
        yield Attempt("answer", world.granted.for_owner)
        yield Attempt("hidden", world.key, world.other.user_id)
        yield Attempt("hidden", world.granted.for_owner, world.other.user_id)
    elif role == "partner with a grant":
        for token in (world.granted.token, world.key, world.granted.for_owner):
            yield Attempt("forbidden", token, me)
    elif role == "partner of other scopes":
        partner = world.lacking(route.scope)
        # Its tokens have the scope; it is the grant that leaves it out.
        for token, user in ((partner.token, me), (partner.for_owner, ""), (partner.for_owner, me)):
            yield Attempt("hidden" if route.about_users else "forbidden", token, user)
    else:
        partner = _partner(world, role)
        yield Attempt("hidden" if route.about_users else "forbidden", partner.token, me)
        yield Attempt("hidden", partner.for_owner)


async def _judge(verdict: Verdict, world: World, route: Route, case: Case, role: Role, attempt: Attempt) -> None:
    where = f"{route.method} {route.path} as {role} ({attempt.expected}{', user' if attempt.user else ''})"
    got = await _sent(world, route, case, attempt)
    if attempt.expected == "answer":
        if not 200 <= got.status < 300:
            verdict.wrong.append(f"{where}: {got.status} {got.text[:300]}")
        missing = [name for name in case.shows if world.canaries[name] not in got.text]
        if missing:
            verdict.wrong.append(f"{where}: shows no {missing}")
        return
    leaked = [name for name, canary in world.canaries.items() if canary in got.text]
    if leaked:
        verdict.leaks.append(f"{where}: {leaked}")
    if attempt.expected in STATUS and got.status != STATUS[attempt.expected]:
        verdict.wrong.append(f"{where}: {got.status} {got.text[:300]}")
    if attempt.expected == "own" and got.status >= 500:
        verdict.wrong.append(f"{where}: {got.status} {got.text[:300]}")
    if attempt.expected == "same" and got.status != case.refused:
        verdict.wrong.append(f"{where}: {got.status}, not {case.refused}; {got.text[:300]}")
    if attempt.expected == "hidden":
        twin = await _sent(world, route, case, attempt, nowhere=True)
        if (twin.status, twin.body) != (got.status, got.body):
            verdict.wrong.append(f"{where}: unlike what is nowhere: {got.text[:200]} / {twin.text[:200]}")


async def _sent(world: World, route: Route, case: Case, attempt: Attempt, *, nowhere: bool = False) -> Got:
    """The answer, cut down to what the caller did not say itself."""
    parameters = dict(case.plain)
    for name, (known, unknown) in case.ids.items():
        parameters[name] = unknown if nowhere else world.ids[known]
    user = NOBODY if nowhere and attempt.user else attempt.user
    query = "&".join(filter(None, [case.query, f"user={user}" if user else ""]))
    path = route.path.format(**parameters)
    if route.rate == "stream":
        return await _streamed(world, route, case, attempt, query)
    sent: dict[str, Any] = {"json": case.json(world)} if case.json else {"content": case.content}
    headers = {**case.headers, **({"Idempotency-Key": uuid4().hex} if route.keyed else {})}
    answer = await world.ask(route.method, f"{path}?{query}", attempt.token, headers=headers, **sent)
    if case.learns and attempt.expected == "answer" and answer.is_success:
        case.learns(world, answer)
    return _got(answer.status_code, answer.text)


def _got(status: int, text: str) -> Got:
    try:
        body = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return Got(status, text, text)
    if isinstance(body, dict) and status >= 400:
        body = {name: value for name, value in body.items() if name not in ("trace_id", "instance")}
        return Got(status, body, str(body))
    return Got(status, body, text)


async def _streamed(world: World, route: Route, case: Case, attempt: Attempt, query: str) -> Got:
    """The stream's first stored messages; everybody has one, the owner at least four."""
    headers = {**({"Authorization": f"Bearer {attempt.token}"} if attempt.token else {}), **case.headers}
    kind = Socket if route.path == SOCKET else Stream
    stream = kind(world.whole.apps["gateway"], headers, query.encode())
    status = await stream.open()
    text = str(await stream.events(4 if attempt.expected == "answer" else 1)) if status == 200 else await stream.body()
    await stream.close()
    return _got(status, text)
