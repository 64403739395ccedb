"""Auth with partners: registering, approving, and asking as one."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.auth.app import create_app
from services.auth.enrolment import Approval
from services.auth.settings import Settings
from shared import topics
from shared.callers import GRANTABLE_SCOPES
from shared.internal_tokens import InternalTokenSigner
from shared.kafka import make_broker
from tests.service.gateway_edges import MovableClock
from tests.service.running import Running, common_settings, running

REGISTRATION = {
    "name": "Oat & Co",
    "contact": "dev@oat.example",
    "redirect_uris": ["https://oat.example/callback"],
    "scopes": ["days:read", "samples:write", "webhooks:write", "users:manage"],
}
SCOPES = ("days:read", "partner:read", "partner:write", "samples:write", "users:manage", "webhooks:write")
BY = {"by": "tester"}
LISTEN = (topics.USERS, topics.PARTNERS, topics.GRANTS, topics.REVOCATIONS)
assert set(SCOPES) - set(GRANTABLE_SCOPES) == {"partner:read", "partner:write", "users:manage", "webhooks:write"}


class Desk:
    """The service, seen by partners, users and operators."""

    def __init__(self, service: Running, clock: MovableClock, folder: Path) -> None:
        self.service = service
        self.clock = clock
        self.folder = folder

    async def register(self, key: str = "r1", **changed: Any) -> Any:
        headers = self.service.headers(key=key)
        return await self.service.http.post("/v1/partners", json=REGISTRATION | changed, headers=headers)

    async def operate(self, method: str, path: str, body: Any = None) -> Any:
        token = InternalTokenSigner(self.folder / "internal.jwk").operator_token("auth")
        headers = {"Authorization": f"Bearer {token}"}
        return await self.service.http.request(method, f"/internal/{path}", json=body, headers=headers)

    async def active(self, key: str = "r1", **changed: Any) -> dict[str, Any]:
        """A partner that may work, and its secret."""
        answer = await self.register(key, **changed)
        partner_id = answer.json()["partner_id"]
        approved = await self.operate("POST", f"partners/{partner_id}/approvals", BY)
        assert approved.status_code == 200, approved.text
        return answer.json() | {"state": "active"}

    async def ask(self, method: str, path: str, body: Any = None, **caller: Any) -> Any:
        """As the gateway asks for that caller; a partner has all its scopes unless told otherwise."""
        if "partner_id" in caller:
            caller = {"scopes": SCOPES} | caller
        return await self.service.http.request(method, path, json=body, headers=self.service.headers(**caller))

    async def verify(self, key: str) -> Any:
        return await self.ask("POST", "/internal/keys/verify", {"key": key})


@asynccontextmanager
async def desk_of(
    folder: Path, clock: MovableClock, approval: Approval = "operator", **changed: Any
) -> AsyncGenerator[Desk]:
    """The service on what lies in `folder`; `changed` are settings."""
    settings = Settings(
        **common_settings(folder) | changed,
        auth_signing_key_path=folder / "auth.jwk",
        auth_pepper_path=folder / "auth-pepper.key",
        auth_mail_folder=folder / "mail",
        auth_partner_approval=approval,
    )
    broker = make_broker(settings, "auth")
    app = create_app(settings, broker=broker, clock=clock)
    async with running(app, broker, "auth", folder, listen=[topic.name for topic in LISTEN]) as one:
        yield Desk(one, clock, folder)


def problem(answer: Any) -> tuple[int, str]:
    """Status and last part of the type."""
    document = answer.json()
    assert document["detail"]
    return answer.status_code, document["type"].rsplit("/", 1)[1]
