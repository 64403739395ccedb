"""The gateway as phones see it: sign up, and repeat a request under the same key until there is an answer."""

import asyncio
import gzip
import json
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import aiohttp

# A phone gives up on one attempt after so long, and repeats it.
ATTEMPT_S = 10.0
COMPRESSED_FROM = 256 * 1024
STREAM = aiohttp.ClientTimeout(total=60)
REPEAT_AFTER_S = 0.2
# Passwords are hashed two at a time.
SIGN_UPS = 8
REPEATED = frozenset({408, 429, 500, 502, 503, 504})


class Refused(Exception):
    """An answer that repeating does not cure."""


@dataclass
class Door:
    """One gateway or several, asked in turn. `under_way`: POSTs of batches that wait for an answer right now.

    `answers`: how often each status was answered, 0 for none; `hasty`: how many 503 did not say when to come back.
    """

    urls: Sequence[str]
    session: aiohttp.ClientSession
    under_way: int = 0
    attempts: int = 0
    answers: Counter[int] = field(default_factory=Counter[int])
    hasty: int = 0
    _accounts: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    _tokens: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self._turns = cycle(self.urls)

    @property
    def url(self) -> str:
        """The gateway whose turn it is."""
        return next(self._turns)

    async def sign_up(self, count: int, *, patience_s: float = 60) -> list[str]:
        """The ids of so many new users."""
        places = asyncio.Semaphore(SIGN_UPS)

        async def one() -> str:
            async with places:
                account = {"email": f"{secrets.token_hex(8)}@example.com", "password": secrets.token_urlsafe(24)}
                key, body = secrets.token_hex(8), json.dumps(account).encode()
                user = await self._send("POST", "/v1/users", {"Idempotency-Key": key}, body, patience_s)
                self._accounts[user["user_id"]] = account
                await self._sign_in(user["user_id"], patience_s)
                return user["user_id"]

        return list(await asyncio.gather(*(one() for _ in range(count))))

    async def _sign_in(self, user_id: str, patience_s: float) -> None:
        body = json.dumps(self._accounts[user_id]).encode()
        self._tokens[user_id] = (await self._send("POST", "/v1/tokens", {}, body, patience_s))["access_token"]

    async def post_batch(self, user_id: str, key: str, body: bytes, *, patience_s: float) -> dict[str, Any]:
        """The answer to a batch, which is repeated under its key until there is one; a large one goes compressed."""
        headers = {"Idempotency-Key": key}
        if len(body) > COMPRESSED_FROM:
            body, headers["Content-Encoding"] = gzip.compress(body, 1, mtime=0), "gzip"
        return await self._as_user("POST", "/v1/batches", user_id, patience_s, headers, body)

    async def get(self, path: str, user_id: str, *, patience_s: float = 60) -> dict[str, Any]:
        """What a user reads there. Raises `Refused`, TimeoutError."""
        return await self._as_user("GET", path, user_id, patience_s, {}, None)

    async def lines(self, path: str, user_id: str, *, patience_s: float = 60) -> list[dict[str, Any]]:
        """All points of a stream, read to its end; one that broke off is read again. Raises TimeoutError."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            headers = {"Authorization": f"Bearer {self._tokens[user_id]}", "Accept": "application/x-ndjson"}
            try:
                async with self.session.get(self.url + path, headers=headers, timeout=STREAM) as response:
                    text = await response.read()
                if response.status == 200:
                    return [json.loads(line) for line in text.splitlines()]
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            await self._sign_in(user_id, patience_s)
        raise TimeoutError(f"{path} was not read within {patience_s:.0f} s")

    async def patiently(self, user_id: str, key: str, body: bytes) -> tuple[int, str, float]:
        """What one POST of a batch is answered by who waits for it: status, Retry-After, and after how many seconds."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        headers["Authorization"] = f"Bearer {self._tokens[user_id]}"
        began = time.monotonic()
        async with self.session.post(f"{self.url}/v1/batches", data=body, headers=headers, timeout=STREAM) as answer:
            await answer.read()
            return answer.status, answer.headers.get("Retry-After", ""), time.monotonic() - began

    async def _as_user(
        self, method: str, path: str, user_id: str, patience_s: float, headers: dict[str, str], body: bytes | None
    ) -> dict[str, Any]:
        deadline = time.monotonic() + patience_s
        while True:
            headers = {**headers, "Authorization": f"Bearer {self._tokens[user_id]}"}
            left = deadline - time.monotonic()
            try:
                return await self._send(method, path, headers, body, left)
            except Refused as refused:
                if not str(refused).startswith("401"):
                    raise
                await self._sign_in(user_id, left)

    async def _send(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, patience_s: float
    ) -> dict[str, Any]:
        deadline = time.monotonic() + patience_s
        while True:
            status, answer = await self._once(method, path, headers, body)
            if 200 <= status < 300:
                return answer
            if status and status not in REPEATED:
                raise Refused(f"{status} {answer.get('type', '')}: {answer.get('detail', '')}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{method} {path}: no answer within {patience_s:.0f} s")
            await asyncio.sleep(REPEAT_AFTER_S)

    async def _once(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[int, dict[str, Any]]:
        counted = 1 if path == "/v1/batches" else 0
        headers = {"Content-Type": "application/json", **headers}
        self.under_way += counted
        self.attempts += counted
        try:
            async with self.session.request(method, self.url + path, headers=headers, data=body) as response:
                text = await response.read()
                self.answers[response.status] += 1
                self.hasty += response.status == 503 and "Retry-After" not in response.headers
                return response.status, json.loads(text) if text else {}
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            self.answers[0] += 1
            return 0, {}
        finally:
            self.under_way -= counted


def phone_session() -> aiohttp.ClientSession:
    """A session that gives up like a phone does, and never queues requests of its own."""
    timeout = aiohttp.ClientTimeout(total=ATTEMPT_S)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
