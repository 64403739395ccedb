"""Live streams that were opened with a partner's API key, or with a ticket of one, end with the key. Auth is real."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.auth.keys import PartnerKey, key_id, public_id
from services.gateway import feeds
from shared.clock import utc_now
from shared.events.auth import GrantUpdated
from shared.keys import api_key_id, new_api_key
from tests.polling import eventually
from tests.service.gateway_edges import USER, Gateway, MovableClock, Stream, answer, gateway, partner
from tests.service.live_messages import Webhooks, publish
from tests.service.live_sockets import Socket
from tests.service.partnering import Desk, desk_of

Kind = type[Stream] | type[Socket]
SCOPES = ("days:read", "live:read")
KINDS = pytest.mark.parametrize("kind", [Stream, Socket])


@dataclass
class Setting:
    """The gateway in front of auth, and a partner that USER lets read along."""

    door: Gateway
    desk: Desk
    partner_id: str

    async def key(self, name: str) -> dict[str, Any]:
        body = {"name": name, "scopes": list(SCOPES)}
        made = await self._of_partner("POST", "keys", body, key=name)
        assert made.status_code == 201, made.text
        return made.json()

    async def end(self, key: dict[str, Any]) -> None:
        assert (await self._of_partner("DELETE", f"keys/{key['key_id']}")).status_code == 204

    async def rotate(self, key: dict[str, Any], overlap_s: int) -> None:
        rotated = await self._of_partner("POST", f"keys/{key['key_id']}/rotations", {"overlap_s": overlap_s}, key="r")
        assert rotated.status_code == 201, rotated.text

    async def _of_partner(self, method: str, path: str, body: Any = None, **named: Any) -> Any:
        scopes = (*SCOPES, "partner:write")
        return await self.desk.ask(
            method, f"/v1/partner/{path}", body, partner_id=self.partner_id, scopes=scopes, **named
        )

    async def opened(self, kind: Kind, key: dict[str, Any], *, by_ticket: bool = False) -> Stream | Socket:
        headers, query = {"Authorization": f"Bearer {key['key']}"}, f"after=0&user={USER}"
        if by_ticket:
            issued = await self.door.ask("POST", f"/v1/live/tickets?user={USER}", token=key["key"])
            headers, query = {}, f"after=0&ticket={issued.json()['ticket']}"
        one = kind(self.door.running.app, headers, query.encode())
        assert await one.open() == 200
        return one

    async def look(self) -> None:
        await self.door.running.app.state.live.look_at_keys()


@asynccontextmanager
async def set_up(folder: Path) -> AsyncGenerator[Setting]:
    async with desk_of(folder, MovableClock()) as desk, gateway(folder) as door:
        door.services.apps["auth"] = desk.service.app
        door.services.handlers["webhooks"] = Webhooks()
        partner_id = (await desk.active(scopes=list(SCOPES)))["partner_id"]
        await door.running.app.state.partners.take(partner_id, partner(partner_id))
        grant = GrantUpdated(
            event_id="e",
            occurred_at=utc_now(),
            grant_id="g1",
            user_id=USER,
            partner_id=partner_id,
            revision=1,
            scopes=SCOPES,
        )
        await door.running.app.state.grants.take("g1", grant)
        yield Setting(door, desk, partner_id)


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncGenerator[Setting]:
    async with set_up(tmp_path) as one:
        yield one


async def why(one: Stream | Socket) -> str:
    if isinstance(one, Socket):
        reason, code = await one.reason()
        assert code == 4001
        return reason
    return await one.reason()


async def proved_open(setting: Setting, one: Stream | Socket, number: int) -> None:
    await publish(setting.door, number)
    assert [id for id, _, _ in await one.events(1)] == [number]


@KINDS
@pytest.mark.parametrize("by_ticket", [False, True])
async def test_a_stream_ends_with_its_key_and_others_go_on(setting: Setting, kind: Kind, by_ticket: bool) -> None:
    ended, good = await setting.key("ended"), await setting.key("good")
    theirs = await setting.opened(kind, ended, by_ticket=by_ticket)
    others = await setting.opened(kind, good, by_ticket=by_ticket)
    await setting.look()
    await publish(setting.door, 1)
    assert [[id for id, _, _ in await one.events(1)] for one in (theirs, others)] == [[1], [1]]
    await setting.end(ended)
    await setting.look()
    assert await why(theirs) == "token-expired"
    await proved_open(setting, others, 2)
    await others.close()


async def test_the_gateway_looks_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LOOK_AT_KEYS_EVERY_S", 0.01)
    async with set_up(tmp_path) as setting:
        key = await setting.key("ended")
        theirs = await setting.opened(Stream, key)
        await proved_open(setting, theirs, 1)
        await setting.end(key)
        assert await why(theirs) == "token-expired"


async def test_an_answer_of_auth_that_cannot_be_read_does_not_end_the_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feeds, "LOOK_AT_KEYS_EVERY_S", 0.01)
    async with set_up(tmp_path) as setting:
        key = await setting.key("ended")
        theirs = await setting.opened(Stream, key)
        setting.door.services.handlers["auth"] = lambda *_: answer({"other": []})
        auth = setting.door.services.apps.pop("auth")
        await eventually(lambda: "a look at keys failed" in caplog.text)
        await proved_open(setting, theirs, 1)
        setting.door.services.apps["auth"] = auth
        await setting.end(key)
        assert await why(theirs) == "token-expired"


async def test_the_old_key_of_a_rotation_reads_on_until_its_overlap_is_over(setting: Setting) -> None:
    key = await setting.key("rotated")
    theirs = await setting.opened(Stream, key)
    await setting.rotate(key, 60)
    await setting.look()
    await proved_open(setting, theirs, 1)
    setting.door.clock.ahead = setting.desk.clock.ahead = timedelta(seconds=61)
    await setting.look()
    assert await why(theirs) == "token-expired"


async def test_while_auth_is_silent_streams_go_on_and_end_when_it_is_back(setting: Setting) -> None:
    key = await setting.key("ended")
    theirs = await setting.opened(Stream, key)
    await setting.end(key)
    setting.door.services.down.add("auth")
    await setting.look()
    await proved_open(setting, theirs, 1)
    setting.door.services.down.clear()
    await setting.look()
    assert await why(theirs) == "token-expired"


async def test_auth_is_asked_once_for_all_streams_of_a_partner_and_not_for_others(setting: Setting) -> None:
    keys = [await setting.key(name) for name in ("one", "other")]
    own = Stream(setting.door.running.app, {"Authorization": f"Bearer {setting.door.token()}"})
    assert await own.open() == 200
    await setting.look()
    assert setting.door.services.count("auth", "/v1/partner/keys") == 0
    streams = [await setting.opened(Stream, key) for key in (*keys, keys[0])]
    await setting.look()
    assert setting.door.services.count("auth", "/v1/partner/keys") == 1
    for one in (own, *streams):
        await one.close()


def test_gateway_and_auth_call_a_key_by_the_same_id() -> None:
    text = new_api_key()
    stored = PartnerKey(id=key_id(text), partner_id="p1", scopes=(), created_at=utc_now())
    assert api_key_id(text) == public_id(stored)
    assert text[4:12] not in api_key_id(text)
