"""Changing what a user signs in with: the password, lost or not, and the second factor.

A password beside a second factor may have 8 characters, alone it needs 15: so one of fewer keeps its second factor.
"""

from collections.abc import Callable

from msgspec.structs import replace

from services.auth import audit, recovery, sessions
from services.auth.accounts import User
from services.auth.enrolment import ATTEMPTS, Deps
from services.auth.mail import Letter
from services.auth.passwords import check_acceptable, check_length
from services.auth.recovery import RESET_LIFETIME, Reset
from shared.documents import Conflict
from shared.errors import Problem, Unavailable

PASSWORD_CHANGED = "password-changed"  # noqa: S105 - a reason's code, no password
PASSWORD_RESET = "password-reset"  # noqa: S105 - a reason's code, no password
SECOND_FACTOR_CHANGED = "second-factor-changed"
SUBJECT = "Your MyMacroTracker account"
RESET_TEXT = """Somebody asked for a new password of your MyMacroTracker account.

If it was you, enter this code in your app within 30 minutes:

{token}

If not, do nothing: your password stays as it is.
"""
NOTICE_TEXT = """{what} All other devices were signed out.

If it was not you, set a new password now: ask your app for it under "forgotten password".
"""


async def own(deps: Deps, user_id: str) -> User:
    """The user. Raises Problem(404): deleted meanwhile."""
    user = await deps.store.user(user_id)
    if user is None:
        raise Problem(404, "not-found", "This account is no longer there.")
    return user


async def change_password(deps: Deps, user_id: str, session_id: str | None, old: str, new: str) -> None:
    """Set a new password, and end the user's other sessions.

    Raises:
        Problem: 403 the old one is wrong, 422 we do not take the new one, 429.
    """
    user = await _with_password(deps, user_id, old)
    _check(user, new)
    hashed = await deps.passwords.hash(new)

    def changed(known: User) -> User:
        if known.password_hash != user.password_hash:
            raise _wrong_password()  # somebody else changed it meanwhile
        return _repassworded(known, new, hashed)

    await _end_sessions(deps, user, session_id, PASSWORD_CHANGED)
    await _write(deps, user, changed, "password-changed")
    await deps.store.forget_resets(user.id)
    await _tell(deps, user, session_id, PASSWORD_CHANGED, "Your password was changed.")


def ask_for_reset(deps: Deps, email: str, address: str) -> None:
    """Have a letter sent if there is such a user. Nothing tells whether there is: it is looked up afterwards.

    Raises:
        Problem: 429, or 503 when too many letters wait.
    """
    deps.guesses.admit_letter(email, address)
    asked = audit.origin()

    async def write() -> None:
        user = await deps.store.user_by_email(deps.pepper.email_hash(email))
        if user is None:
            return
        token, now = recovery.new_reset_token(), deps.clock()
        reset = Reset(id=recovery.reset_id(token), user_id=user.id, expires_at=now + RESET_LIFETIME)
        await deps.store.add_reset(reset, now, audit.line("password-reset-asked", now, user_id=user.id, asked=asked))
        await deps.mail.send(Letter(user.email, SUBJECT, RESET_TEXT.format(token=token)))

    if not deps.post.later(write):
        raise Problem(503, "too-busy", "Too many letters wait. Try again shortly.", headers={"Retry-After": "60"})


async def reset_password(deps: Deps, token: str, new: str) -> None:
    """Set a new password by a letter's token, once, and end all sessions. A second factor stays in force.

    Raises:
        Problem: 422 the token is none, used or run out; or we do not take the password, which leaves the token good.
    """
    reset = await deps.store.reset(token)
    user = await deps.store.user(reset.user_id) if reset is not None else None
    if reset is None or user is None or reset.expires_at <= deps.clock():
        raise _no_such_reset()
    _check(user, new)
    hashed = await deps.passwords.hash(new)
    await _end_sessions(deps, user, None, PASSWORD_RESET)
    if not await deps.store.take_reset(reset):
        raise _no_such_reset()
    await _write(deps, user, lambda known: _repassworded(known, new, hashed), "password-reset")
    await deps.store.forget_resets(user.id)
    await deps.guesses.reopen(user)
    await _tell(deps, user, None, PASSWORD_RESET, "Your password was set anew by mail.")


async def propose_second_factor(deps: Deps, user_id: str, password: str) -> tuple[User, bytes]:
    """The user and a new authenticator's secret, in force once a code confirms it.

    Raises:
        Problem: 403 the password is wrong, 409 there is a second factor, 429.
    """
    user = await _with_password(deps, user_id, password)
    secrets: list[bytes] = []

    def proposed(known: User) -> User:
        if known.second_factor is not None:
            raise Problem(409, "second-factor-exists", "Switch the present second factor off first.")
        changed, secret = deps.factors.proposed(known)
        secrets.append(secret)
        return changed

    return await _write(deps, user, proposed), secrets[-1]


async def confirm_second_factor(deps: Deps, user_id: str, session_id: str | None, code: str) -> tuple[str, ...]:
    """Put the proposed authenticator in force, and end the other sessions; the recovery codes, told this once.

    Raises:
        Problem: 422 the code is wrong, or nothing was proposed; 429.
    """
    worked = deps.guesses.admit_own(user_id)
    user = await own(deps, user_id)
    codes: list[tuple[str, ...]] = []

    def confirmed(known: User) -> User:
        found = deps.factors.confirmed(known, code, deps.clock())
        if found is None:
            raise Problem(
                422, "wrong-code", "Send the code that the authenticator shows now; see that its clock is right."
            )
        codes.append(found[1])
        return found[0]

    user = await _write(deps, user, confirmed, "second-factor-on")
    worked()
    await _tell(deps, user, session_id, SECOND_FACTOR_CHANGED, "A second factor was switched on.")
    return codes[-1]


async def renew_recovery_codes(deps: Deps, user_id: str, session_id: str | None, password: str) -> tuple[str, ...]:
    """Fresh recovery codes in place of all others. Raises Problem: 403, 409 there is no second factor, 429."""
    user = await _with_password(deps, user_id, password)
    codes: list[tuple[str, ...]] = []

    def renewed(known: User) -> User:
        if known.second_factor is None:
            raise _no_second_factor()
        changed, found = deps.factors.renewed(known)
        codes.append(found)
        return changed

    user = await _write(deps, user, renewed, "recovery-codes-renewed")
    await _tell(deps, user, session_id, SECOND_FACTOR_CHANGED, "Your recovery codes were made anew.")
    return codes[-1]


async def remove_second_factor(deps: Deps, user_id: str, session_id: str | None, password: str) -> None:
    """Switch the second factor off, and end the other sessions.

    Raises:
        Problem: 403 the password is wrong, 409 there is no second factor, 422 the password is too short to stand
            alone, 429.
    """
    user = await _with_password(deps, user_id, password)
    verified = user.password_hash

    def without(known: User) -> User:
        if known.second_factor is None:
            raise _no_second_factor()
        if known.password_hash != verified:
            raise _wrong_password()
        check_length(password)
        return replace(known, second_factor=None, pending_factor=None)

    user = await _write(deps, user, without, "second-factor-off")
    await _tell(deps, user, session_id, SECOND_FACTOR_CHANGED, "The second factor was switched off.")


async def _with_password(deps: Deps, user_id: str, password: str) -> User:
    """The user, who knows the password."""
    worked = deps.guesses.admit_own(user_id)
    user = await own(deps, user_id)
    try:
        right = await deps.passwords.verify(user.password_hash, password)
    except Problem:
        worked()  # too busy: it was not looked at
        raise
    if not right:
        deps.attempts.note("wrong-password", user_id)
        raise _wrong_password()
    worked()
    return user


def _check(user: User, new: str) -> None:
    context = (user.email, user.email.partition("@")[0])
    check_acceptable(new, two_factors=user.second_factor is not None, context=context)


def _repassworded(user: User, new: str, hashed: str) -> User:
    # Once more, for the second factor may have gone since.
    check_length(new, two_factors=user.second_factor is not None)
    return replace(user, password_hash=hashed)


async def _write(deps: Deps, user: User, change: Callable[[User], User], kind: audit.Kind | None = None) -> User:
    """Store what `change` makes of the user, of a newer version when there is one; the audit log calls it `kind`."""
    for _ in range(ATTEMPTS):
        told = (audit.line(kind, deps.clock(), user_id=user.id),) if kind is not None else ()
        try:
            return await deps.store.put_user(change(user), *told)
        except Conflict:
            user = await own(deps, user.id)
    raise Unavailable("database")


async def _end_sessions(deps: Deps, user: User, session_id: str | None, reason: str) -> None:
    """End the sessions but the caller's own.

    A new password does it before it is written, so that none of a thief outlives a crash in between and the request
    may be repeated, and once more behind (`_tell`), for those that the old password began meanwhile.
    """
    await sessions.end_all(deps, user.id, but=session_id, reason=reason)


async def _tell(deps: Deps, user: User, session_id: str | None, reason: str, what: str) -> None:
    """End the sessions but the caller's own, and write to the user."""
    await _end_sessions(deps, user, session_id, reason)
    letter = Letter(user.email, SUBJECT, NOTICE_TEXT.format(what=what))
    deps.post.later(lambda: deps.mail.send(letter))


def _wrong_password() -> Problem:
    return Problem(403, "wrong-password", "Send the present password of this account.")


def _no_second_factor() -> Problem:
    return Problem(409, "no-second-factor", "There is no second factor; switch one on first.")


def _no_such_reset() -> Problem:
    return Problem(422, "reset-token-invalid", "This code was used, or its 30 minutes are over. Ask for a new letter.")
