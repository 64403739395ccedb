"""A user's exports: who may ask and how often, what becomes of the parts, and what is told in words."""

import asyncio
import io
import zipfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from services.auth.export_documents import EXPORTS
from services.auth.exports import forget
from shared import topics
from shared.callers import SCOPES, Caller
from shared.events.event import ObjectRef
from shared.events.personal import ExportPartReady, UserDataErased
from shared.export import KEPT
from shared.objects import Objects
from tests.polling import eventually
from tests.service.auth_edges import auth_in, problem
from tests.service.gateway_edges import MovableClock
from tests.service.running import Running

ACCOUNT = {"email": "ada@example.org", "password": "violet tractor hums at noon"}


class Auth:
    """Auth with Ada, and the other services' words."""

    def __init__(self, service: Running, clock: MovableClock, folder: Path) -> None:
        self.service = service
        self.clock = clock
        self.objects = Objects(f"file:///{folder}/objects")
        self.user_id = self.session_id = ""

    async def sign_in(self) -> None:
        self.session_id = (
            await self.service.http.post("/v1/tokens", json=ACCOUNT, headers=self.service.headers())
        ).json()["session_id"]

    async def ask(self, method: str = "POST", path: str = "/v1/me/exports", partner_id: str | None = None) -> Any:
        caller = Caller(self.user_id, partner_id, frozenset(SCOPES), self.session_id)
        headers = {"Authorization": f"Bearer {self.service.signer.token(caller, 'auth')}"}
        return await self.service.http.request(method, path, headers=headers)

    async def newest(self) -> dict[str, Any]:
        return (await self.ask("GET", "/v1/me/export")).json()

    async def becomes(self, state: str) -> dict[str, Any]:
        async def there() -> dict[str, Any]:
            found = await self.newest()
            return found if found["state"] == state else {}

        return await eventually(there)

    async def part(self, service: str, export_id: str, *, key: str = "1", size: int = 1) -> str:
        """Have a service say that its part, which is empty, is ready; its key."""
        full = f"{service}/{self.user_id}/exports/{export_id}/{key}"
        await self.objects.put(full, b"\x90")
        stored = ObjectRef(key=full, sha256="", size_bytes=size, content_type="application/octet-stream")
        event = ExportPartReady(
            event_id=f"{service} {export_id} {key}",
            occurred_at=self.clock(),
            user_id=self.user_id,
            export_id=export_id,
            service=service,
            object=stored,
            data_bytes=0,
            files=(),
        )
        await self.service.send(topics.EXPORT_PARTS[service], event)
        return full

    async def complete(self) -> dict[str, Any]:
        export_id = (await self.ask()).json()["export_id"]
        for service in topics.EXPORT_PARTS:
            await self.part(service, export_id)
        return await self.becomes("ready")


@pytest.fixture
async def auth(tmp_path: Path) -> AsyncGenerator[Auth]:
    async with auth_of(tmp_path) as one:
        yield one


@asynccontextmanager
async def auth_of(folder: Path) -> AsyncGenerator[Auth]:
    clock = MovableClock()
    async with auth_in(folder, clock=clock, listen=(topics.EXPORTS,)) as one:
        auth = Auth(one, clock, folder)
        made = await one.http.post("/v1/users", json=ACCOUNT, headers=one.headers(key="k"))
        auth.user_id = made.json()["user_id"]
        await auth.sign_in()
        yield auth


async def test_asking_needs_a_sign_in_of_the_last_ten_minutes(auth: Auth) -> None:
    auth.clock.ahead += timedelta(minutes=11)
    assert problem(await auth.ask()) == (403, "sign-in-again")
    await auth.sign_in()
    assert (await auth.ask()).status_code == 202


async def test_partners_export_nothing(auth: Auth) -> None:
    done = await auth.complete()
    for method, path in (
        ("POST", "/v1/me/exports"),
        ("GET", "/v1/me/export"),
        ("GET", done["link"]),
        ("GET", done["file"]),
    ):
        assert problem(await auth.ask(method, path, partner_id="p1")) == (403, "insufficient-scope")


async def test_at_most_three_a_day_and_one_at_a_time(auth: Auth) -> None:
    at_once = await asyncio.gather(*(auth.ask() for _ in range(4)))
    assert len({answer.json()["export_id"] for answer in at_once}) == 1
    await eventually(lambda: len(auth.service.published[topics.EXPORTS.name]) == 1)
    for _ in range(3):
        await auth.complete()
    refused = await auth.ask()
    assert problem(refused) == (429, "too-many-exports")
    assert 86_000 < int(refused.headers["retry-after"]) <= 86_401
    auth.clock.ahead += timedelta(days=1, seconds=1)
    await auth.sign_in()
    assert (await auth.ask()).status_code == 202


async def test_progress_is_told_by_service_and_the_file_waits(auth: Auth) -> None:
    asked = (await auth.ask()).json()
    await auth.part("insights", asked["export_id"])
    states = {one["service"]: one["state"] for one in (await auth.newest())["services"]}
    assert {service for service, state in states.items() if state == "ready"} == {"insights"}
    waiting = await auth.ask("GET", f"{asked['link']}/file")
    assert problem(waiting) == (409, "export-not-ready")


async def test_after_a_day_an_export_fails_in_words_and_its_parts_go(auth: Auth) -> None:
    export_id = (await auth.ask()).json()["export_id"]
    key = await auth.part("insights", export_id)
    auth.clock.ahead += KEPT + timedelta(seconds=1)
    failed = await auth.becomes("failed")
    assert "ingest, inference, nutrition, webhooks did not answer" in failed["problem"]
    await eventually(lambda: _gone(auth, key))
    late = await auth.part("ingest", export_id)
    assert await auth.objects.size(late) is None
    assert problem(await auth.ask("GET", f"{failed['link']}/file")) == (410, "export-lost")


async def test_an_export_is_kept_for_a_day_and_then_deleted(auth: Auth, tmp_path: Path) -> None:
    done = await auth.complete()
    assert (await auth.ask("GET", done["file"])).status_code == 200
    events = (await auth.ask("GET", "/v1/me/security-events")).json()["events"]
    assert [(one["kind"], one["about"]) for one in events[:2]] == [
        (kind, done["export_id"]) for kind in ("export-downloaded", "export-asked")
    ]
    assert _at(done["expires_at"]) - _at(done["ready_at"]) == timedelta(hours=24)
    auth.clock.ahead += KEPT
    over = await auth.newest()
    assert (over["state"], over["file"]) == ("expired", None)
    assert problem(await auth.ask("GET", done["file"])) == (404, "not-found")
    await eventually(lambda: not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()])


async def test_a_part_that_is_not_as_announced_fails_the_export_in_words(auth: Auth) -> None:
    export_id = (await auth.ask()).json()["export_id"]
    for service in topics.EXPORT_PARTS:
        await auth.part(service, export_id, size=2 if service == "webhooks" else 1)
    assert "webhooks" in (await auth.becomes("failed"))["problem"]


async def test_a_second_part_of_a_service_is_deleted_and_the_same_word_again_is_not(auth: Auth) -> None:
    export_id = (await auth.ask()).json()["export_id"]
    first = await auth.part("insights", export_id)
    assert await auth.part("insights", export_id) == first
    second = await auth.part("insights", export_id, key="2")
    assert (await auth.objects.size(first), await auth.objects.size(second)) == (1, None)
    stray = await auth.part("insights", "exp_nobody_asked")
    assert await auth.objects.size(stray) is None


async def test_bytes_that_are_no_event_are_a_dead_letter_and_stop_nothing(auth: Auth) -> None:
    await auth.service.send_bytes(topics.EXPORT_PARTS["ingest"], b"{")
    assert (await auth.complete())["state"] == "ready"


async def test_auth_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    async with auth_of(tmp_path) as auth:
        export_id = (await auth.ask()).json()["export_id"]
        for service in list(topics.EXPORT_PARTS)[1:]:
            await auth.part(service, export_id)
    async with auth_of(tmp_path) as again:
        await again.part("ingest", export_id)
        done = await again.becomes("ready")
        files = await again.ask("GET", done["file"])
    with zipfile.ZipFile(io.BytesIO(files.content)) as archive:
        assert {"README.txt", "profile.jsonl", "sign_ins.jsonl"} <= set(archive.namelist())


async def test_an_export_that_is_asked_for_while_one_is_erased_is_erased_too(auth: Auth) -> None:
    export_id = (await auth.ask()).json()["export_id"]
    documents = auth.service.app.state.deps.store.documents
    late = await documents.get(EXPORTS, export_id)
    link = (await auth.ask("DELETE", "/v1/me")).json()["link"]
    for service in topics.ERASURES:
        await _erased_by(auth, service)
    await eventually(lambda: _erased(auth, link))
    assert await documents.get(EXPORTS, export_id) is None
    await documents.insert(EXPORTS, replace(late, version=0))  # by a request that hung all the while
    key = f"auth/{auth.user_id}/exports/{export_id}/1"
    await auth.objects.put(key, b"late")
    auth.clock.ahead += timedelta(minutes=11)

    async def gone() -> bool:
        return await documents.get(EXPORTS, export_id) is None and await _gone(auth, key)

    await eventually(gone)


async def test_what_is_known_of_old_exports_is_forgotten(auth: Auth) -> None:
    await auth.complete()
    documents = auth.service.app.state.deps.store.documents
    assert await forget(documents, auth.clock() + timedelta(days=29)) == 0
    assert await forget(documents, auth.clock() + timedelta(days=31)) == 1


async def _erased_by(auth: Auth, service: str) -> None:
    now = auth.clock()
    event = UserDataErased(
        event_id=service,
        occurred_at=now,
        user_id=auth.user_id,
        service=service,
        documents=1,
        objects=0,
        finished_at=now,
    )
    await auth.service.send(topics.ERASURES[service], event)


async def _erased(auth: Auth, link: str) -> bool:
    return (await auth.ask("GET", link)).json()["state"] == "erased"


async def _gone(auth: Auth, key: str) -> bool:
    return await auth.objects.size(key) is None


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)
