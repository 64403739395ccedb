"""Who calls a service, for its routes: the caller from the internal token, and the scopes that routes require."""

from typing import Any, Literal, cast

from fastapi import Depends, FastAPI, Request

from shared.callers import GRANTABLE_SCOPES, OPERATOR_SCOPE, SCOPES, Caller
from shared.errors import Problem
from shared.internal_tokens import InternalTokenVerifier
from shared.tokens import invalid_token


def install_identity(app: FastAPI, verifier: InternalTokenVerifier) -> None:
    """Let the routes of `app` know their callers."""
    app.state.identity = verifier


# Async, because FastAPI takes a plain function to a thread, where two first callers would read the keys at once.
async def caller_of(request: Request) -> Caller:
    """Who calls, from the internal token in `Authorization: Bearer`; usable as a dependency.

    Raises:
        Problem: 401, no valid token.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise invalid_token("Send a token in the Authorization header.")
    verifier = cast(InternalTokenVerifier, request.app.state.identity)
    return verifier.caller(token.strip())


def require(scope: str, kind: Literal["user", "partner"] = "user") -> Any:
    """A dependency that gives the Caller, which has `scope` and is a user or a partner.

    Raises:
        Problem: 401 without a valid token, 403 `insufficient-scope` otherwise.
    """
    if scope not in SCOPES:
        raise ValueError(f"no such scope: {scope}")

    async def checked(request: Request) -> Caller:
        caller = await caller_of(request)
        check_scope(caller, scope, kind)
        return caller

    return Depends(checked)


async def operating(request: Request) -> None:
    """A dependency that lets operators' commands pass and nobody else.

    Raises:
        Problem: 401 without a valid token, 403 `insufficient-scope` for any user or partner.
    """
    caller = await caller_of(request)
    if OPERATOR_SCOPE not in caller.scopes or caller.user_id is not None or caller.partner_id is not None:
        raise Problem(403, "insufficient-scope", "Only operators may ask, by ./mymacro.", scope=OPERATOR_SCOPE)


def check_scope(caller: Caller, scope: str, kind: Literal["user", "partner"] = "user") -> None:
    """Let `caller` pass or not. A partner that calls for a user is of the kind "user", as far as users can grant.

    Raises:
        Problem: 403, it lacks `scope` or is not of that kind.
    """
    user, partner = caller.user_id is not None, caller.partner_id is not None
    known = user and (not partner or scope in GRANTABLE_SCOPES) if kind == "user" else partner and not user
    if not known or scope not in caller.scopes:
        raise Problem(403, "insufficient-scope", f"This needs a {kind}'s token with the scope {scope}.", scope=scope)
