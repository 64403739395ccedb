"""Signing up, signing in and granting: gather, decide, write, nudge the relay."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from msgspec.structs import replace

from services.auth import accounts, audit, grants
from services.auth.accounts import Pepper, User
from services.auth.attempts import Attempts
from services.auth.erasure_documents import ERASURE_JOBS
from services.auth.factors import Factors
from services.auth.grants import GRANTS, Grant
from services.auth.guesses import Guesses, Ticket, seen_from
from services.auth.mail import Mail, Post
from services.auth.passwords import MAX_BYTES, Passwords, check_acceptable
from services.auth.repeats import key_reused
from services.auth.store import USERS, Store
from services.auth.tokens import AccessTokens, RefreshTokens
from shared import topics
from shared.clock import Clock
from shared.documents import Conflict, Duplicate, Put
from shared.errors import Problem, Unavailable
from shared.events.auth import Profile
from shared.outbox import Relay, outbox_event, with_events

ATTEMPTS = 5
# The second factor's key is away: nothing was tried.
UNREADABLE = 503
# Of new partners: by an operator, or at once.
Approval = Literal["operator", "auto"]


@dataclass(frozen=True)
class Deps:
    """Auth's parts, joined in `app.py`."""

    store: Store
    passwords: Passwords
    tokens: AccessTokens
    pepper: Pepper
    refresh_tokens: RefreshTokens
    guesses: Guesses
    factors: Factors
    mail: Mail
    post: Post
    attempts: Attempts
    relay: Relay
    clock: Clock
    approval: Approval


async def sign_up(deps: Deps, key: str, email: str, password: str, profile: Profile) -> User:
    """The user that this request makes, or made before.

    Raises:
        Problem: 409 the address is taken (which tells that it is known: accepted until addresses are verified by
            mail) or the user was erased, 422 another request under this key, or a password that we do not take.
    """
    check_acceptable(password, context=(email, email.partition("@")[0]))
    user_id = deps.pepper.user_id(key, email)
    known = await deps.store.user(user_id)
    if known is None:
        await check_not_erased(deps, user_id)
        known = await _add_user(deps, user_id, email, await deps.passwords.hash(password), profile)
        if known is None:
            known = await deps.store.user(user_id)
    if known is None:
        raise Problem(409, "email-taken", "There is an account with this address. Sign in, or take another address.")
    # The password is compared by its slow hash: a fast one of it must not lie in the database.
    same = hmac.compare_digest(known.request_hash, accounts.profile_hash(profile))
    if not await deps.passwords.verify(known.password_hash, password) or not same:
        raise key_reused()
    deps.relay.nudge(USERS, known.id)
    return known


async def check_not_erased(deps: Deps, user_id: str) -> None:
    """Let nobody come back under an id whose erasure is proved: erasing again would be answered by that proof.

    Raises:
        Problem: 409.
    """
    if await deps.store.documents.get(ERASURE_JOBS, deps.pepper.erasure_id(user_id)) is not None:
        raise Problem(409, "user-erased", "The user of this Idempotency-Key was erased. Take a fresh key for another.")


async def _add_user(deps: Deps, user_id: str, email: str, password_hash: str, profile: Profile) -> User | None:
    """The user as stored; None when the id or the address is taken."""
    now = deps.clock()
    user = User(
        id=user_id,
        email=email,
        email_hash=deps.pepper.email_hash(email),
        password_hash=password_hash,
        profile=accounts.stored_profile(profile),
        revision=1,
        created_at=now,
        request_hash=accounts.profile_hash(profile),
    )
    try:
        return await deps.store.add_user(
            with_events(user, outbox_event(topics.USERS, accounts.user_updated(user, now))),
            audit.line("account-created", now, user_id=user_id, actor="user"),
        )
    except Duplicate:
        return None


async def sign_in(
    deps: Deps,
    email: str,
    password: str,
    second_factor: str | None = None,
    address: str = "",
    *,
    session_id: str = "",
    partner_id: str | None = None,
) -> str:
    """The user's id. Equal answers and times for unknown addresses and wrong passwords.

    `second_factor`: the authenticator's code or a recovery code, each good for once. `address`: where the request
    came from, as the gateway says. What the audit log says of it: the session that it starts, or the partner for
    whose page it is.

    Raises:
        Problem: 401 `wrong-credentials`, also for a wrong second factor; 401 `second-factor-required`; 429.
    """
    try:
        normalised = accounts.normalised_address(email)
        user = await deps.store.user_by_email(deps.pepper.email_hash(normalised))
    except ValueError:
        normalised, user = email, None
    try:
        ticket = await deps.guesses.admit(normalised, user, address)
    except Problem:
        if user is not None:
            deps.attempts.note("sign-in-held-up", user.id)
        raise
    right = await _is_right(deps, ticket, user, password)
    if user is None:
        raise _wrong_credentials()
    if not right:
        deps.attempts.note("wrong-password", user.id)
        raise _wrong_credentials()
    try:
        told = audit.line(
            "signed-in", deps.clock(), user_id=user.id, partner_id=partner_id, about=session_id, actor="user"
        )
        await _note_sign_in(deps, user, password, second_factor, address, told)
    except Problem as problem:
        if problem.status == UNREADABLE:
            await deps.guesses.untried(ticket)
        raise
    await deps.guesses.right(ticket)
    return user.id


async def _is_right(deps: Deps, ticket: Ticket, user: User | None, password: str) -> bool:
    fits = len(password.encode(errors="replace")) <= MAX_BYTES
    try:
        return await deps.passwords.verify(user.password_hash if user else None, password if fits else "")
    except Problem:
        await deps.guesses.untried(ticket)
        raise


async def _note_sign_in(
    deps: Deps, user: User, password: str, second_factor: str | None, address: str, told: Put
) -> None:
    """Use up the second factor, and remember the network. Raises Problem(401)."""
    verified = user.password_hash
    rehashed = await deps.passwords.hash(password) if deps.passwords.needs_rehash(verified) else verified
    for _ in range(ATTEMPTS):
        if user.password_hash != verified:
            # Hashed anew by a sign-in beside this one, or another password by now.
            if not await deps.passwords.verify(user.password_hash, password):
                raise _wrong_credentials()
            verified = rehashed = user.password_hash
        now = deps.clock()
        signed_in = replace(_past_second_factor(deps, user, second_factor), password_hash=rehashed)
        signed_in = seen_from(signed_in, deps.pepper, address, now)
        lines = [told, *_used_code(user, signed_in, now)]
        try:
            if signed_in == user:
                await deps.store.documents.put_many(lines)
            else:
                await deps.store.put_user(signed_in, *lines)
        except Conflict:
            # Read again, so that of two sign-ins with one code the second finds it used.
            known = await deps.store.user(user.id)
            if known is None:
                raise _wrong_credentials() from None  # erased meanwhile
            user = known
            continue
        return
    raise Unavailable("database")


def _used_code(before: User, after: User, now: datetime) -> list[Put]:
    """The line of a recovery code that was used, if one was."""
    if before.second_factor and after.second_factor and before.second_factor.recovery != after.second_factor.recovery:
        return [audit.line("recovery-code-used", now, user_id=after.id, actor="user")]
    return []


def _past_second_factor(deps: Deps, user: User, code: str | None) -> User:
    if user.second_factor is None:
        return user
    if code is None:
        deps.attempts.note("second-factor-asked", user.id)
        raise Problem(
            401,
            "second-factor-required",
            "Send the same again with `second_factor`: the code of your authenticator app, or a recovery code.",
        )
    used = deps.factors.used(user, code, deps.clock())
    if used is None:
        deps.attempts.note("wrong-second-factor", user.id)
        raise _wrong_credentials()
    return used


def _wrong_credentials() -> Problem:
    return Problem(
        401,
        "wrong-credentials",
        "The address, the password or the code is wrong. Check them, or set a new password: POST /v1/password-resets.",
    )


async def grant(deps: Deps, user_id: str, key: str, partner_id: str, scopes: Sequence[str]) -> Grant:
    """What the partner may see from now on; a repeated request changes nothing.

    Raises:
        Problem: 404 no such partner, 409 a repeat of a request whose grant was taken back since, 422 scopes it cannot
            have, or another request under this key.
    """
    partner = await deps.store.partner(partner_id)
    if partner is None or partner.state != "active":
        raise Problem(404, "not-found", "There is no such partner; ask it for its partner_id.")
    allowed = grants.check_scopes(partner, scopes)
    hashed = grants.request_hash(partner_id, scopes)
    id = grants.grant_id(user_id, partner_id)
    for _ in range(ATTEMPTS):
        known = await deps.store.grant(id)
        if known is not None and grants.was_answered(known, key, hashed):
            deps.relay.nudge(GRANTS, id)
            return known
        try:
            told = audit.line(
                "grant-given",
                deps.clock(),
                user_id=user_id,
                partner_id=partner_id,
                about=id,
                details=allowed,
                actor="user",
            )
            stored = await deps.store.put_grant(_granted(deps, known, user_id, partner_id, allowed, key, hashed), told)
        except Conflict:
            continue
        deps.relay.nudge(GRANTS, id)
        return stored
    raise Unavailable("database")


def _granted(
    deps: Deps, known: Grant | None, user_id: str, partner_id: str, scopes: tuple[str, ...], key: str, hashed: str
) -> Grant:
    requests = grants.remembered(known, key, hashed)
    lives = known is not None and known.revoked_at is None
    if known is not None and lives and known.scopes == scopes:
        return replace(known, requests=requests)
    now, revision = deps.clock(), known.revision + 1 if known else 1
    granted = Grant(
        id=grants.grant_id(user_id, partner_id),
        version=known.version if known else 0,
        outbox=known.outbox if known else (),
        outbox_at=known.outbox_at if known else None,
        user_id=user_id,
        partner_id=partner_id,
        scopes=scopes,
        revision=revision,
        granted_at=now,
        since_revision=known.since_revision if known and lives else revision,
        since_at=known.since_at if known and lives else now,
        requests=requests,
    )
    return with_events(granted, outbox_event(topics.GRANTS, grants.grant_updated(granted)))
