"""The gateway as partners call it: by key, by client credentials, or for a user by the code flow."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.gateway.settings import Settings
from shared.callers import GRANTABLE_SCOPES, SCOPES, Caller
from shared.events.auth import GrantUpdated
from shared.internal_tokens import InternalTokenVerifier
from shared.keys import load_private_jwk, new_api_key
from shared.tokens import signed
from tests.service.gateway_edges import USER, Gateway, answer, gateway, partner

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)
KEY = new_api_key()
DAY = "/v1/days/2026-03-01"
BATCH = {
    "device": {"id": "watch-1", "kind": "watch"},
    "app": "test/1",
    "samples": [{"metric": "heart_rate", "start": "2026-03-01T08:00:00Z", "value": 61}],
}
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + (4).to_bytes(4, "big") * 2 + bytes(20) + b"IEND"


@asynccontextmanager
async def partners_gateway(folder: Path) -> AsyncGenerator[Gateway]:
    """The gateway; the partner p1 has a key with every scope, and users' days can be read."""
    async with gateway(folder) as one:
        jwks = one.services.handlers["auth"]
        verified = answer({"partner_id": "p1", "scopes": SCOPES, "expires_at": None})
        one.services.handlers["auth"] = lambda *sent: verified if "keys/verify" in sent[1] else jwks(*sent)
        one.services.handlers["ingest"] = lambda *_: answer({"date": "2026-03-01"})
        one.services.handlers["webhooks"] = lambda *_: answer({"events": [], "has_more": False, "last_sequence": 0})
        yield one


def grant(**changed: Any) -> GrantUpdated:
    """The news of what USER lets p1 see."""
    news = GrantUpdated(
        event_id="e",
        occurred_at=AT,
        grant_id="g1",
        user_id=USER,
        partner_id="p1",
        revision=1,
        scopes=GRANTABLE_SCOPES,
    )
    return news.model_copy(update=changed)


async def granted(door: Gateway, **changed: Any) -> None:
    news = grant(**changed)
    await door.running.app.state.grants.take(news.grant_id, news)


async def known(door: Gateway, **changed: Any) -> None:
    await door.running.app.state.partners.take("p1", partner("p1", **changed))


def claims(door: Gateway, **changed: Any) -> str:
    settings, now = Settings(), int(door.clock().timestamp())
    good = {"iss": settings.token_issuer, "aud": settings.token_audience, "iat": now, "exp": now + 900}
    return signed(load_private_jwk(door.folder / "auth.jwk"), "at+jwt", good | changed)


def for_user(door: Gateway, *, revision: int = 1, session_id: str = "sid_p", scope: str = "days:read live:read") -> str:
    """The token of the code flow."""
    return claims(door, sub=USER, client_id="p1", sid=session_id, grant_revision=revision, scope=scope)


def itself(door: Gateway) -> str:
    """The token of client credentials."""
    return claims(door, sub="p1", client_id="p1", scope="days:read webhooks:write")


def caller(door: Gateway) -> Caller:
    """Whom the last call to a service was for."""
    service, _, _, headers, _ = door.services.seen[-1]
    verifier = InternalTokenVerifier(door.folder / "internal-jwks.json", service)
    return verifier.caller(headers["Authorization"].removeprefix("Bearer "))


def plain(response: Any) -> tuple[int, dict[str, Any]]:
    """Status and body but for what the caller itself sent, and the trace."""
    body = response.json()
    return response.status_code, {name: body[name] for name in body.keys() - {"trace_id", "instance"}}


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["type"].rsplit("/", 1)[-1]
