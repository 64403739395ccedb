"""What partners get for codes, refresh tokens and their own credentials, and how it is called back."""

from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from services.auth import codes, grants, sessions
from services.auth.authorization import split_scopes
from services.auth.codes import CODES, Code
from services.auth.enrolment import Deps
from services.auth.grants import Grant
from services.auth.oauth_errors import OAuthError, invalid_grant
from services.auth.partners import Partner
from services.auth.session_documents import SESSIONS, Session, Share
from shared.access_tokens import ACCESS_TYPE
from shared.documents import Conflict
from shared.errors import Problem, Unavailable
from shared.keys import load_jwks
from shared.tokens import verified

ATTEMPTS = 10
CODE_REPLAYED = "code-reused"
REVOKED_BY_PARTNER = "revoked-by-partner"
INACTIVE: dict[str, Any] = {"active": False}


@dataclass(frozen=True)
class Issued:
    """An access token with its scopes; for a user also the refresh token, and who that is."""

    access_token: str
    scopes: tuple[str, ...]
    refresh_token: str | None = None
    user_id: str | None = None


async def exchanged(deps: Deps, partner: Partner, text: str, redirect_uri: str, verifier: str) -> Issued:
    """What a code stands for. Whatever its own client sends with it uses it up.

    Raises:
        OAuthError: it is not good; a second use ends what the first gave rise to.
    """
    first = deps.refresh_tokens.first()
    code = await _used(deps, partner, text, first.session_id)
    if not codes.is_met(code, redirect_uri=redirect_uri, verifier=verifier, now=deps.clock()):
        raise invalid_grant()
    grant = await _living(deps, code.user_id, partner.id, code.grant_revision)
    scopes = _still(code.scopes, grant, partner)
    share = Share(partner_id=partner.id, scopes=code.scopes, grant_revision=code.grant_revision)
    try:
        session, refresh_token = await sessions.start(
            deps, code.user_id, partner.name, asked_at=code.signed_in_at, share=share, first=first
        )
    except Problem as error:
        raise invalid_grant() from error
    # Whoever replays it marks the code before it looks for the session, so it finds this one or is found here.
    latest = await deps.store.documents.get(CODES, code.id)
    if latest is None or latest.replayed:
        await sessions.end(deps, session.id, reason=CODE_REPLAYED)
        raise invalid_grant()
    return _issued(deps, session, scopes, grant.revision, refresh_token)


async def refreshed(deps: Deps, partner: Partner, text: str, scope: str | None) -> Issued:
    """The next tokens; `scope` narrows what this access token is good for.

    Raises:
        OAuthError: the token is not good, the grant is no more, or the scope is not what the user grants.
    """
    known = await sessions.current(deps, text)
    if known is not None and known.partner_id == partner.id:
        await _scopes_now(deps, partner, known, scope)  # before anything changes
    try:
        session, successor = await sessions.refresh(deps, text, partner_id=partner.id)
    except Problem as error:
        raise invalid_grant() from error
    scopes, revision = await _scopes_now(deps, partner, session, scope)
    return _issued(deps, session, scopes, revision, successor)


def own(deps: Deps, partner: Partner, scope: str | None) -> Issued:
    """A token of the partner itself, with all its scopes unless it asks for fewer. Raises OAuthError."""
    wanted = partner.scopes if scope is None else split_scopes(scope)
    if not wanted or not set(wanted) <= set(partner.scopes):
        raise OAuthError("invalid_scope", "Ask for scopes that this client is registered for.")
    token = deps.tokens.issue_to_partner(partner.id, wanted, deps.clock())
    return Issued(token, wanted)


async def revoke(deps: Deps, partner: Partner, text: str) -> None:
    """End the session of one of the partner's tokens, whichever it is; any other token is left alone."""
    await sessions.sign_out(deps, text, partner_id=partner.id, reason=REVOKED_BY_PARTNER)
    session = await _session_of(deps, partner, _claims(deps, text))
    if session is not None:
        await sessions.end(deps, session.id, reason=REVOKED_BY_PARTNER)


async def introspected(deps: Deps, partner: Partner, text: str) -> dict[str, Any]:
    """What one of the partner's tokens says as long as it is good (RFC 7662 §2.2)."""
    session = await sessions.current(deps, text)
    if session is not None:
        return await _introspected_refresh(deps, partner, session)
    claims = _claims(deps, text)
    if claims.get("client_id") != partner.id:
        return INACTIVE
    if claims.get("sub") != partner.id:
        session = await _session_of(deps, partner, claims)
        if session is None or session.ended_at is not None:
            return INACTIVE
        try:
            grant = await _living(deps, session.user_id, partner.id, int(claims["grant_revision"]))
            claims |= {"scope": " ".join(_still(split_scopes(claims["scope"]), grant, partner))}
        except OAuthError:
            return INACTIVE
    told = {name: claims[name] for name in ("scope", "client_id", "sub", "iss", "aud", "exp", "iat", "jti")}
    return {"active": True, "token_type": "Bearer", **told}


async def _used(deps: Deps, partner: Partner, text: str, session_id: str) -> Code:
    for _ in range(ATTEMPTS):
        code = await deps.store.documents.get(CODES, codes.code_id(text))
        if code is None or code.partner_id != partner.id:
            raise invalid_grant()
        replayed = code.session_id is not None
        try:
            if not replayed:
                return await deps.store.documents.put(CODES, replace(code, session_id=session_id))
            if not code.replayed:
                await deps.store.documents.put(CODES, replace(code, replayed=True))
        except Conflict:
            continue
        await sessions.end(deps, str(code.session_id), reason=CODE_REPLAYED)
        raise invalid_grant()
    raise Unavailable("database")


async def _living(deps: Deps, user_id: str, partner_id: str, revision: int) -> Grant:
    """The grant, if it lives without a break since `revision`."""
    grant = await deps.store.grant(grants.grant_id(user_id, partner_id))
    if grant is None or grant.revoked_at is not None or revision < grant.since_revision:
        raise invalid_grant()
    return grant


def _still(wanted: tuple[str, ...], grant: Grant, partner: Partner) -> tuple[str, ...]:
    """Of `wanted`, what the user grants now and the partner may have."""
    scopes = tuple(scope for scope in wanted if scope in grant.scopes and scope in partner.scopes)
    if not scopes:
        raise invalid_grant()
    return scopes


async def _scopes_now(deps: Deps, partner: Partner, session: Session, scope: str | None) -> tuple[tuple[str, ...], int]:
    """The scopes to be issued, and the grant's revision that they hang on; ends a session to which nothing is left."""
    if session.share is None:
        raise invalid_grant()
    wanted = session.share.scopes if scope is None else split_scopes(scope)
    if not wanted or not set(wanted) <= set(session.share.scopes):
        raise OAuthError("invalid_scope", "Ask for no more than what was granted at first, or leave `scope` out.")
    try:
        grant = await _living(deps, session.user_id, partner.id, session.share.grant_revision)
        left = _still(session.share.scopes, grant, partner)
    except OAuthError:
        await sessions.end(deps, session.id, reason=sessions.GRANT_REVOKED)
        raise
    scopes = tuple(one for one in wanted if one in left)
    if not scopes:
        raise OAuthError("invalid_scope", "The user grants none of these any more. Leave `scope` out.")
    return scopes, grant.revision


def _issued(deps: Deps, session: Session, scopes: tuple[str, ...], revision: int, refresh_token: str) -> Issued:
    token = deps.tokens.issue_to_partner(
        str(session.partner_id),
        scopes,
        deps.clock(),
        user_id=session.user_id,
        session_id=session.id,
        grant_revision=revision,
    )
    return Issued(token, scopes, refresh_token, session.user_id)


def _claims(deps: Deps, text: str) -> dict[str, Any]:
    """Those of an access token that is good by itself, none of anything else."""
    now = deps.clock()
    try:
        keys = load_jwks(deps.tokens.jwks(now))
        issuer, audience = deps.tokens.issuer, deps.tokens.audience
        return verified(text, keys, token_type=ACCESS_TYPE, issuer=issuer, audience=audience, now=now.timestamp())
    except Problem:
        return {}


async def _session_of(deps: Deps, partner: Partner, claims: dict[str, Any]) -> Session | None:
    session_id = claims.get("sid")
    if not isinstance(session_id, str) or claims.get("client_id") != partner.id:
        return None
    session = await deps.store.documents.get(SESSIONS, session_id)
    return session if session is not None and session.partner_id == partner.id else None


async def _introspected_refresh(deps: Deps, partner: Partner, session: Session) -> dict[str, Any]:
    if session.partner_id != partner.id or session.share is None or session.ends_at is None:
        return INACTIVE
    try:
        grant = await _living(deps, session.user_id, partner.id, session.share.grant_revision)
        scopes = _still(session.share.scopes, grant, partner)
    except OAuthError:
        return INACTIVE
    return {
        "active": True,
        "scope": " ".join(scopes),
        "client_id": partner.id,
        "sub": session.user_id,
        "iss": deps.tokens.issuer,
        "exp": int(session.ends_at.timestamp()),
        "iat": int(session.last_used_at.timestamp()),
    }
