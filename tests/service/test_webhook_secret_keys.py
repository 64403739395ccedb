"""The keys that endpoints' secrets are sealed under: where they come from, new ones, lost ones."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from secrets import token_hex

import msgspec
import pytest

from services.webhooks import signing
from shared.clock import utc_now
from shared.documents import Documents
from shared.secrets import KeysRefused, key_id
from tests.polling import eventually
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.webhook_endpoints import NOT_SENT, created, database, endpoint, sealed, tell, tried, webhooks
from tests.service.webhook_events import PARTNER


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path) as one:
        yield one


def add_key(folder: Path) -> None:
    path = folder / "secrets.key"
    path.write_text(f"{token_hex(32)}\n{path.read_text()}")


async def test_a_lost_key_is_named_and_putting_it_back_is_enough(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
):
    ahead = timedelta(0)
    async with webhooks(tmp_path) as service:
        made = await created(service, receiver.url)
    old = (tmp_path / "secrets.key").read_text()
    (tmp_path / "secrets.key").write_text(token_hex(32))
    async with webhooks(tmp_path, lambda: utc_now() + ahead) as service, database(tmp_path) as documents:
        lost = sealed(await endpoint(documents, made["endpoint_id"]))
        await tell(service)
        assert (await tried(service, made["endpoint_id"])).last_error == NOT_SENT
        assert f"key {key_id(lost).hex()} is not among ours" in caplog.text
        again = await created(service, receiver.url)
        assert (again["status"], again["type"].rpartition("/")[2]) == (503, "secret-unreadable")
        assert "secret" not in again
        # Nothing was written over it.
        assert sealed(await endpoint(documents, made["endpoint_id"])) == lost
        (tmp_path / "secrets.key").write_text((tmp_path / "secrets.key").read_text() + "\n" + old)
        assert (await created(service, receiver.url))["secret"] == made["secret"]
        ahead = timedelta(minutes=1)
        await eventually(lambda: receiver.received)


async def test_after_a_lost_key_a_rotation_without_overlap_is_enough(tmp_path: Path, receiver: Receiver):
    async with webhooks(tmp_path) as service:
        made = await created(service, receiver.url)
    (tmp_path / "secrets.key").write_text(token_hex(32))
    async with webhooks(tmp_path) as service:
        headers = service.headers(partner_id=PARTNER, scopes=("webhooks:write",), key="r")
        path = f"/v1/webhook-endpoints/{made['endpoint_id']}/secrets"
        fresh = (await service.http.post(path, json={"overlap_s": 0}, headers=headers)).json()
        await tell(service)
        await eventually(lambda: receiver.received)
        (sent,) = receiver.received
        signing.verify([signing.parsed(fresh["secret"])], sent.headers, sent.body, utc_now())
        # The creation's secret is gone for good, and its repeat shows no other.
        assert (await created(service, receiver.url))["secret"] is None


async def test_after_a_rotation_the_next_delivery_seals_anew(
    service: Running, receiver: Receiver, webhooks_documents: Documents, tmp_path: Path
):
    made = await created(service, receiver.url)
    before = await endpoint(webhooks_documents, made["endpoint_id"])
    add_key(tmp_path)
    await tell(service, 1)
    await eventually(lambda: len(receiver.received) == 1)
    after = await endpoint(webhooks_documents, made["endpoint_id"])
    assert key_id(sealed(after)) != key_id(sealed(before))
    assert msgspec.structs.replace(after, keys=before.keys, version=before.version) == before
    await tell(service, 2)
    await eventually(lambda: len(receiver.received) == 2)
    assert await endpoint(webhooks_documents, made["endpoint_id"]) == after
    for request in receiver.received:
        signing.verify([signing.parsed(made["secret"])], request.headers, request.body, utc_now())
    assert (await created(service, receiver.url))["secret"] == made["secret"]


async def test_deliveries_side_by_side_after_a_rotation_all_arrive_signed(
    service: Running, receiver: Receiver, webhooks_documents: Documents, tmp_path: Path
):
    made = await created(service, receiver.url)
    before = await endpoint(webhooks_documents, made["endpoint_id"])
    add_key(tmp_path)
    await asyncio.gather(*(tell(service, number) for number in range(8)))
    await eventually(lambda: len(receiver.received) == 8)
    for request in receiver.received:
        signing.verify([signing.parsed(made["secret"])], request.headers, request.body, utc_now())
    assert key_id(sealed(await endpoint(webhooks_documents, made["endpoint_id"]))) != key_id(sealed(before))


async def test_keys_may_come_from_the_setting(tmp_path: Path, receiver: Receiver):
    keys = f"{token_hex(32)},{token_hex(32)}"
    async with webhooks(tmp_path, secrets_keys=keys, secrets_key_path=tmp_path / "none") as service:
        assert (await created(service, receiver.url))["status"] == 201


def test_without_usable_keys_nothing_starts(tmp_path: Path):
    with pytest.raises(KeysRefused, match="not there"):
        webhooks(tmp_path, secrets_key_path=tmp_path / "none")
    (tmp_path / "secrets.key").chmod(0o644)
    with pytest.raises(KeysRefused, match="chmod 600"):
        webhooks(tmp_path)
