"""Endpoints' secrets: sealed in the database's files, opened to sign, and what happens when they do not open."""

import base64
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from services.webhooks import signing
from services.webhooks.keys import PLAIN, EndpointKey
from services.webhooks.store import ENDPOINTS
from shared.clock import utc_now
from shared.documents import Collection, Document, Documents, Index
from tests.polling import eventually
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.webhook_endpoints import (
    NOT_SENT,
    created,
    database,
    endpoint,
    resealed,
    sealed,
    tell,
    tried,
    webhooks,
)
from tests.service.webhook_events import PARTNER


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path) as one:
        yield one


def spellings(secret: bytes) -> list[bytes]:
    """How it might stand in a file."""
    return [secret, base64.b64encode(secret), base64.urlsafe_b64encode(secret), secret.hex().encode()]


def files_with(folder: Path, secret: bytes) -> list[str]:
    held = {path.name: path.read_bytes() for path in folder.iterdir() if ".sqlite" in path.name}
    assert held
    return [name for name, data in held.items() if any(spelt in data for spelt in spellings(secret))]


async def test_no_file_of_the_database_holds_the_secret(service: Running, receiver: Receiver, tmp_path: Path):
    made = await created(service, receiver.url)
    secret = signing.parsed(made["secret"])
    await tell(service)
    await eventually(lambda: receiver.received)
    signing.verify([secret], receiver.received[0].headers, receiver.received[0].body, utc_now())
    assert files_with(tmp_path, secret) == []
    # The search itself finds what is there.
    assert files_with(tmp_path, receiver.url.encode()) != []


async def test_a_repeated_creation_shows_the_same_secret(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    assert (made["status"], len(signing.parsed(made["secret"]))) == (201, 32)
    assert (await created(service, receiver.url))["secret"] == made["secret"]
    answer = await service.get("/v1/webhook-endpoints", partner_id=PARTNER, scopes=("webhooks:write",))
    assert "secret" not in answer.text


async def test_secrets_swapped_between_endpoints_sign_nothing(
    service: Running, receiver: Receiver, webhooks_documents: Documents, caplog: pytest.LogCaptureFixture
):
    made = [await created(service, f"{receiver.url}/{key}", key=key) for key in ("a", "b")]
    one, other = [await endpoint(webhooks_documents, each["endpoint_id"]) for each in made]
    await webhooks_documents.put(ENDPOINTS, resealed(one, sealed(other)))
    await webhooks_documents.put(ENDPOINTS, resealed(other, sealed(one)))
    await tell(service)
    for each in made:
        delivery = await tried(service, each["endpoint_id"])
        assert (delivery.state, delivery.tries, delivery.last_error) == ("pending", 1, NOT_SENT)
        assert delivery.due_at is not None
        assert each["endpoint_id"] in caplog.text
        assert not any(spelt.decode() in caplog.text for spelt in spellings(signing.parsed(each["secret"]))[1:])
        assert each["secret"] not in caplog.text
    assert receiver.received == []


async def test_a_secret_moved_to_another_partner_does_not_open(
    service: Running, receiver: Receiver, webhooks_documents: Documents
):
    made = await created(service, receiver.url, partner="partner-2")
    foreign = await endpoint(webhooks_documents, made["endpoint_id"])
    await webhooks_documents.put(ENDPOINTS, msgspec.structs.replace(foreign, partner_id=PARTNER))
    await tell(service)
    assert (await tried(service, made["endpoint_id"])).last_error == NOT_SENT
    assert receiver.received == []


async def test_a_damaged_secret_costs_a_try_and_counts_again_once_mended(tmp_path: Path, receiver: Receiver):
    ahead = timedelta(0)
    async with webhooks(tmp_path, lambda: utc_now() + ahead) as service, database(tmp_path) as documents:
        made = await created(service, receiver.url)
        whole = await endpoint(documents, made["endpoint_id"])
        damaged = sealed(whole)[:-1] + bytes((sealed(whole)[-1] ^ 1,))
        await documents.put(ENDPOINTS, resealed(whole, damaged))
        await tell(service)
        assert (await tried(service, made["endpoint_id"])).last_error == NOT_SENT
        now = await endpoint(documents, made["endpoint_id"])
        await documents.put(ENDPOINTS, resealed(now, sealed(whole)))
        ahead = timedelta(minutes=1)
        await eventually(lambda: receiver.received)
        signing.verify(
            [signing.parsed(made["secret"])], receiver.received[0].headers, receiver.received[0].body, utc_now() + ahead
        )


async def test_sealing_anew_undoes_nobodys_write(service: Running, receiver: Receiver, webhooks_documents: Documents):
    made = await created(service, receiver.url)
    read_before = await endpoint(webhooks_documents, made["endpoint_id"])
    await service.app.state.store.disable(made["endpoint_id"], "meanwhile")
    await service.app.state.store.replace_keys(read_before, ())
    now = await endpoint(webhooks_documents, made["endpoint_id"])
    assert (now.state, now.keys) == ("disabled", read_before.keys)


class EndpointOfVersion1(Document, frozen=True, kw_only=True):
    """An endpoint as the first release stored it, its secret not sealed."""

    partner_id: str
    url: str
    event_types: tuple[str, ...]
    secret: bytes
    request_hash: str
    created_at: datetime
    state: str = "enabled"
    state_reason: str | None = None


async def test_an_endpoint_of_the_first_releases_keeps_its_secret_state_and_full_payload(tmp_path: Path):
    first = Collection("endpoints", EndpointOfVersion1, (Index("partner", ("partner_id", "created_at")),))
    at, before = datetime(2026, 3, 1, tzinfo=UTC), b"\x01sealed"
    old = EndpointOfVersion1(
        id="e1", partner_id="p", url="https://a.example/", event_types=("day.updated",), secret=before,
        request_hash="h", created_at=at, state="disabled", state_reason="the receiver answered 410 Gone",
    )  # fmt: skip
    async with database(tmp_path, [replace(first, v=2)]) as documents:
        await documents.insert(replace(first, v=2), old)
    async with database(tmp_path) as documents:
        now = await endpoint(documents, "e1")
    assert now.keys == (EndpointKey(kind="hmac", sealed=before, created_at=at),)
    assert (now.payload, now.user_ids, now.headers, now.state, now.url) == ("full", (), (), "disabled", old.url)


@pytest.mark.parametrize("secret", [bytes(range(32)), b"\x01" * 32, bytes(32)], ids=["mixed", "ones", "zeros"])
async def test_a_secret_stored_before_sealing_signs_and_is_sealed(tmp_path: Path, receiver: Receiver, secret: bytes):
    first = Collection("endpoints", EndpointOfVersion1, (Index("partner", ("partner_id", "created_at")),))
    old = EndpointOfVersion1(
        id="e1",
        partner_id=PARTNER,
        url=receiver.url,
        event_types=(),
        secret=secret,
        request_hash="h",
        created_at=utc_now(),
    )
    async with database(tmp_path, [first]) as documents:
        await documents.insert(first, old)
    async with webhooks(tmp_path) as service, database(tmp_path) as documents:
        assert sealed(await endpoint(documents, "e1")) == PLAIN + secret
        await tell(service)
        await eventually(lambda: receiver.received)
        signing.verify([secret], receiver.received[0].headers, receiver.received[0].body, utc_now())
        stored = sealed(await endpoint(documents, "e1"))
        assert (stored[0], secret in stored) == (1, False)
        await tell(service, 2)
        await eventually(lambda: len(receiver.received) == 2)
        signing.verify([secret], receiver.received[1].headers, receiver.received[1].body, utc_now())


async def test_an_old_endpoint_that_is_written_unread_still_signs(tmp_path: Path, receiver: Receiver):
    async with webhooks(tmp_path) as service, database(tmp_path) as documents:
        made = await created(service, receiver.url)
        known = await endpoint(documents, made["endpoint_id"])
        secret = signing.parsed(made["secret"])
        await documents.put(ENDPOINTS, resealed(known, PLAIN + secret))
        await tell(service)
        await eventually(lambda: receiver.received)
        signing.verify([secret], receiver.received[0].headers, receiver.received[0].body, utc_now())
        assert sealed(await endpoint(documents, made["endpoint_id"]))[0] == 1
