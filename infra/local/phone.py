"""An app's side of the API, as a careful client does it: the same key again on refusal, 429 or 503."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp

REPEAT_AFTER_SECONDS = 0.5
REPEATED_STATUS = frozenset({429, 503})


class Refused(Exception):
    """The API answered with a problem document that repeating does not cure."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('title', '')}: {problem.get('detail', '')}")
        self.status = status
        self.problem = problem


@dataclass(frozen=True)
class Answer:
    """An answer's JSON, the id of the trace that made it, and how often the request was repeated."""

    body: dict[str, Any]
    trace_id: str
    repeats: int
    milliseconds: float


@dataclass
class Phone:
    """A client of one gateway. `deadline` (of `time.monotonic`) bounds all repeating."""

    base_url: str
    session: aiohttp.ClientSession
    deadline: float
    token: str = ""
    repeats: int = 0
    seen: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(
        self,
        method: str,
        path: str,
        *,
        key: str = "",
        token: str | None = None,
        content_type: str = "",
        body: Any = None,
    ) -> Answer:
        """Send until there is an answer, with the same `Idempotency-Key` each time.

        Raises:
            Refused: a problem that repeating does not cure.
            TimeoutError: no answer before the deadline.
        """
        headers = self._headers(key, token, content_type)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        started, repeats = time.monotonic(), 0
        while True:
            status, text, answered = await self._once(method, path, headers, data)
            if status and status not in REPEATED_STATUS:
                parsed = json.loads(text) if text else {}
                if status >= 400:
                    raise Refused(status, parsed)
                elapsed = (time.monotonic() - started) * 1000
                return Answer(parsed, answered.get("trace-id", ""), repeats, elapsed)
            if time.monotonic() > self.deadline:
                raise TimeoutError(f"{method} {path} had no answer in time")
            repeats += 1
            self.repeats += 1
            await asyncio.sleep(REPEAT_AFTER_SECONDS)

    def _headers(self, key: str, token: str | None, content_type: str) -> dict[str, str]:
        bearer = self.token if token is None else token
        headers = {"Content-Type": content_type or "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        return headers

    async def _once(
        self, method: str, path: str, headers: dict[str, str], data: bytes | None
    ) -> tuple[int, str, dict[str, str]]:
        try:
            async with self.session.request(method, self.base_url + path, headers=headers, data=data) as response:
                return response.status, await response.text(), {k.lower(): v for k, v in response.headers.items()}
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0, "", {}

    async def poll(self, path: str, done: Callable[[dict[str, Any]], bool], *, every: float = 0.02) -> Answer:
        """GET `path` every so many seconds until `done` says so. Raises TimeoutError at the deadline."""
        while True:
            try:
                answer = await self.send("GET", path)
                if done(answer.body):
                    return answer
            except Refused as refused:
                if refused.status != 404:
                    raise
            if time.monotonic() > self.deadline:
                raise TimeoutError(f"{path} did not get there in time")
            await asyncio.sleep(every)

    async def listen(self) -> None:
        """Keep `GET /v1/live` open and collect its messages by sequence; resume where it broke off."""
        while True:
            try:
                async for sequence, message in self._stream():
                    self.seen.setdefault(sequence, message)
                    self._news.set()
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            await asyncio.sleep(REPEAT_AFTER_SECONDS)

    async def _stream(self) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        headers = self._headers("", None, "")
        headers["Last-Event-ID"] = str(self.newest())
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with self.session.get(f"{self.base_url}/v1/live", headers=headers, timeout=timeout) as response:
            response.raise_for_status()
            sequence, data = 0, ""
            async for raw in response.content:
                line = raw.decode().rstrip("\r\n")
                if line.startswith("id:"):
                    sequence = int(line[3:])
                elif line.startswith("data:"):
                    data += line[5:].strip()
                elif not line and data:
                    yield sequence, json.loads(data)
                    data = ""

    def newest(self) -> int:
        """The sequence number of the last live message so far, 0 before the first."""
        return max(self.seen, default=0)

    async def wait_for(self, type: str, *, after: int = 0, **data: object) -> dict[str, Any]:
        """The first live message of that type behind number `after` whose data has these values.

        Raises:
            TimeoutError: none came before the deadline.
        """
        while True:
            for message in [message for sequence, message in self.seen.items() if sequence > after]:
                if message["type"] == type and all(message["data"].get(name) == value for name, value in data.items()):
                    return message
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), max(0.01, self.deadline - time.monotonic()))


def half_a_day(start: datetime) -> list[dict[str, Any]]:
    """720 minutes from `start`: a heart-rate and a step sample each, 1,440 in all."""
    samples: list[dict[str, Any]] = []
    for minute in range(720):
        begin = start + timedelta(minutes=minute)
        end = begin + timedelta(minutes=1)
        walking = minute % 90 < 12
        samples.append(
            {"metric": "heart_rate", "start": begin.isoformat(), "value": 58 + minute % 11 + (35 if walking else 0)}
        )
        samples.append(
            {
                "metric": "steps",
                "start": begin.isoformat(),
                "end": end.isoformat(),
                "value": 98 if walking else minute % 3,
            }
        )
    return samples
