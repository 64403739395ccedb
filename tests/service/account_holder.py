"""Auth with one user, Ada: what her app asks, the letters that she gets, the codes of her authenticator."""

import email
import email.policy
import re
from base64 import b32decode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from services.auth import totp
from shared import topics
from shared.clock import utc_now
from tests.polling import eventually
from tests.service.auth_edges import auth_in
from tests.service.gateway_edges import MovableClock
from tests.service.running import Running

EMAIL = "ada@example.org"
PASSWORD = "violet tractor hums at noon"
OTHER = "seven quiet lamps of brass"
ACCOUNT = {"email": EMAIL, "password": PASSWORD}
HOME = "198.51.100.7"


class Ada:
    """The service, and its one user's app."""

    def __init__(self, service: Running, clock: MovableClock, folder: Path) -> None:
        self.service = service
        self.clock = clock
        self.folder = folder
        self.user_id = ""

    async def ask(self, method: str, path: str, body: Any = None, **caller: Any) -> Any:
        headers = self.service.headers(**{"user_id": self.user_id} | caller)
        return await self.service.http.request(method, path, json=body, headers=headers)

    async def sign_in(self, address: str = HOME, **changed: Any) -> Any:
        headers = self.service.headers() | {"Client-Address": address}
        return await self.service.http.post("/v1/tokens", json=ACCOUNT | changed, headers=headers)

    async def ask_for_reset(self, to: str = EMAIL, address: str = HOME) -> Any:
        headers = self.service.headers() | {"Client-Address": address}
        return await self.service.http.post("/v1/password-resets", json={"email": to}, headers=headers)

    async def reset(self, token: str, new: str = OTHER) -> Any:
        body = {"token": token, "new_password": new}
        return await self.service.http.post(
            "/v1/password-resets/confirmations", json=body, headers=self.service.headers()
        )

    async def reset_token(self, count: int = 1) -> str:
        """The token of the latest letter, once there are so many."""
        await eventually(lambda: len(self.letters("enter this code")) >= count)
        found = re.search(r"^([\w-]{43})\s*$", self.letters("enter this code")[-1], re.MULTILINE)
        assert found is not None
        return found[1]

    def letters(self, having: str = "") -> list[str]:
        files = sorted((self.folder / "mail").glob("*.eml"), key=lambda file: file.stat().st_mtime_ns)
        texts = [_text(file.read_bytes()) for file in files]
        return [text for text in texts if having in text]

    async def refresh(self, tokens: dict[str, Any]) -> Any:
        body = {"refresh_token": tokens["refresh_token"]}
        return await self.service.http.post("/v1/tokens/refresh", json=body, headers=self.service.headers())

    def code(self, secret: str, ahead: int = 0) -> str:
        return totp.code_at(secret_of(secret), int(self.clock().timestamp()) // totp.STEP_S + ahead)

    async def with_second_factor(self) -> tuple[str, list[str]]:
        """Switches it on: the secret as written, and the recovery codes."""
        proposed = await self.ask("POST", "/v1/me/second-factor", {"password": PASSWORD})
        secret = proposed.json()["secret"]
        answer = await self.ask("POST", "/v1/me/second-factor/confirmations", {"code": self.code(secret)})
        assert answer.status_code == 200, answer.text
        self.clock.ahead += timedelta(seconds=2 * totp.STEP_S)
        return secret, answer.json()["recovery_codes"]


def _text(content: bytes) -> str:
    return email.message_from_bytes(content, policy=email.policy.default).get_body().get_content()


def secret_of(written: str) -> bytes:
    return b32decode(written)


def early_in_the_hour() -> MovableClock:
    """Attempts are counted by the hour, which is not to change in the middle of a test."""
    clock = MovableClock()
    clock.ahead = timedelta(minutes=70 - utc_now().minute)
    return clock


@asynccontextmanager
async def auth_of(folder: Path, clock: MovableClock) -> AsyncGenerator[Ada]:
    """The service on what lies in `folder`, and Ada, who signs up or did."""
    async with auth_in(folder, clock=clock, listen=(topics.USERS,)) as one:
        ada = Ada(one, clock, folder)
        made = await one.http.post("/v1/users", json=ACCOUNT, headers=one.headers(key="k"))
        assert made.status_code == 201, made.text
        ada.user_id = made.json()["user_id"]
        yield ada
