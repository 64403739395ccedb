"""Auth with partners: registering, approving, and asking as one."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.auth.enrolment import Approval
from shared import topics
from shared.callers import GRANTABLE_SCOPES
from shared.internal_tokens import InternalTokenSigner
from tests.service.auth_edges import auth_in
from tests.service.gateway_edges import MovableClock
from tests.service.running import Running

REGISTRATION = {
    "name": "Oat & Co",
    "contact": "dev@oat.example",
    "redirect_uris": ["https://oat.example/callback"],
    "scopes": ["days:read", "samples:write", "webhooks:write", "users:manage"],
}
SCOPES = ("days:read", "partner:read", "partner:write", "samples:write", "users:manage", "webhooks:write")
BY = {"by": "tester"}
KEYS = "/v1/partner/keys"
KEY = {"name": "nightly import", "scopes": ["days:read"]}
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


class Partner:
    """A partner, and what it asks at its desk."""

    def __init__(self, desk: Desk, partner_id: str) -> None:
        self.desk = desk
        self.id = partner_id

    async def ask(self, method: str, path: str, body: Any = None, **caller: Any) -> Any:
        return await self.desk.ask(method, path, body, **{"partner_id": self.id} | caller)

    async def key(self, request: str = "k1", body: Any = KEY, **caller: Any) -> Any:
        return await self.ask("POST", KEYS, body, key=request, **caller)

    async def rotate(self, id: str, request: str = "k2", overlap_s: int = 3600, **caller: Any) -> Any:
        return await self.ask("POST", f"{KEYS}/{id}/rotations", {"overlap_s": overlap_s}, key=request, **caller)

    async def keys(self) -> list[Any]:
        return (await self.ask("GET", KEYS)).json()["keys"]

    async def good(self, text: str) -> bool:
        return (await self.desk.verify(text)).status_code == 200


async def rye_of(desk: Desk) -> Partner:
    """Another partner."""
    return Partner(desk, (await desk.active("r2", contact="dev@rye.example"))["partner_id"])


@asynccontextmanager
async def desk_of(
    folder: Path, clock: MovableClock, approval: Approval = "operator", **changed: Any
) -> AsyncGenerator[Desk]:
    """The service on what lies in `folder`; `changed` are settings."""
    async with auth_in(folder, clock=clock, listen=LISTEN, auth_partner_approval=approval, **changed) as one:
        yield Desk(one, clock, folder)
