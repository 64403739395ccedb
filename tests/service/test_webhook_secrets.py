"""Endpoints' secrets: sealed in the database's files, opened to sign, and what happens when they do not open."""

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from secrets import token_hex
from typing import Any

import msgspec
import pytest

from services.webhooks import signing
from services.webhooks.app import create_app
from services.webhooks.keys import PLAIN
from services.webhooks.settings import Settings
from services.webhooks.store import COLLECTIONS, ENDPOINTS, Delivery, Endpoint
from shared import events, topics
from shared.clock import utc_now
from shared.documents import Collection, Document, Documents, Index, open_documents
from shared.kafka import make_broker
from shared.secrets import KeysRefused, key_id
from tests.polling import eventually
from tests.service.receiver import Receiver, receiving
from tests.service.running import Running, common_settings, running

USER, PARTNER = "user-1", "partner-1"
NOT_SENT = "not sent: the endpoint's secret cannot be opened here"


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path) as one:
        yield one


@pytest.fixture
async def documents(service: Running, tmp_path: Path) -> AsyncGenerator[Documents]:
    """The service's own database, beside it."""
    async with database(tmp_path) as one:
        yield one


def webhooks(folder: Path, clock: Callable[[], datetime] = utc_now, **changed: Any):
    settings = Settings(**(common_settings(folder) | {"webhooks_allow_cidrs": "127.0.0.0/8"} | changed))
    broker = make_broker(settings, "webhooks")
    app = create_app(settings, broker=broker, clock=clock)
    return running(app, broker, "webhooks", folder)


@asynccontextmanager
async def database(folder: Path, collections: Sequence[Collection[Any]] = COLLECTIONS) -> AsyncGenerator[Documents]:
    """The service's database, open."""
    documents = open_documents(f"sqlite:///{folder}", "webhooks")
    await documents.open(collections)
    try:
        yield documents
    finally:
        await documents.close()


async def created(service: Running, url: str, *, key: str = "k", partner: str = PARTNER) -> dict[str, Any]:
    headers = service.headers(partner_id=partner, scopes=("webhooks:write",), key=key)
    answer = await service.http.post("/v1/webhook-endpoints", json={"url": url}, headers=headers)
    return answer.json() | {"status": answer.status_code}


async def tell(service: Running, number: int = 1) -> None:
    """A grant, and a message that it covers."""
    await service.send(
        topics.GRANTS,
        events.GrantUpdated(
            event_id="grant-1",
            occurred_at=utc_now() - timedelta(seconds=5),
            grant_id="grant",
            user_id=USER,
            partner_id=PARTNER,
            revision=1,
            scopes=("insights:read",),
            revoked_at=None,
        ),
    )
    await service.send(
        topics.INSIGHTS,
        events.InsightCreated(
            event_id=f"insight-{number}",
            occurred_at=datetime(2026, 3, 1, 8, tzinfo=UTC),
            user_id=USER,
            insight_id=f"i{number}",
            date=date(2026, 3, 1),
            title="Steps",
            text="11,143 steps",
            facts=(events.Fact(id="steps", value=Decimal("11143"), unit="{steps}", window="1 d", n=2),),
            mode="deterministic",
        ),
    )


async def endpoint(documents: Documents, endpoint_id: str) -> Endpoint:
    found = await documents.get(ENDPOINTS, endpoint_id)
    assert found is not None
    return found


async def tried(service: Running, endpoint_id: str) -> Delivery:
    """The endpoint's only delivery, once it was tried."""

    async def found() -> list[Delivery]:
        return [one for one in await service.app.state.store.deliveries(endpoint_id) if one.history]

    (delivery,) = await eventually(found)
    return delivery


def spellings(secret: bytes) -> list[bytes]:
    """How it might stand in a file."""
    return [secret, base64.b64encode(secret), base64.urlsafe_b64encode(secret), secret.hex().encode()]


def files_with(folder: Path, secret: bytes) -> list[str]:
    held = {path.name: path.read_bytes() for path in folder.iterdir() if ".sqlite" in path.name}
    assert held
    return [name for name, data in held.items() if any(spelt in data for spelt in spellings(secret))]


def add_key(folder: Path) -> None:
    path = folder / "secrets.key"
    path.write_text(f"{token_hex(32)}\n{path.read_text()}")


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
    service: Running, receiver: Receiver, documents: Documents, caplog: pytest.LogCaptureFixture
):
    made = [await created(service, f"{receiver.url}/{key}", key=key) for key in ("a", "b")]
    one, other = [await endpoint(documents, each["endpoint_id"]) for each in made]
    await documents.put(ENDPOINTS, msgspec.structs.replace(one, secret=other.secret))
    await documents.put(ENDPOINTS, msgspec.structs.replace(other, secret=one.secret))
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
    service: Running, receiver: Receiver, documents: Documents
):
    made = await created(service, receiver.url, partner="partner-2")
    foreign = await endpoint(documents, made["endpoint_id"])
    await documents.put(ENDPOINTS, msgspec.structs.replace(foreign, partner_id=PARTNER))
    await tell(service)
    assert (await tried(service, made["endpoint_id"])).last_error == NOT_SENT
    assert receiver.received == []


async def test_a_damaged_secret_costs_a_try_and_counts_again_once_mended(tmp_path: Path, receiver: Receiver):
    ahead = timedelta(0)
    async with webhooks(tmp_path, lambda: utc_now() + ahead) as service, database(tmp_path) as documents:
        made = await created(service, receiver.url)
        whole = await endpoint(documents, made["endpoint_id"])
        damaged = whole.secret[:-1] + bytes((whole.secret[-1] ^ 1,))
        damaged_one = await documents.put(ENDPOINTS, msgspec.structs.replace(whole, secret=damaged))
        await tell(service)
        assert (await tried(service, made["endpoint_id"])).last_error == NOT_SENT
        await documents.put(ENDPOINTS, msgspec.structs.replace(damaged_one, secret=whole.secret))
        ahead = timedelta(minutes=1)
        await eventually(lambda: receiver.received)
        signing.verify(
            [signing.parsed(made["secret"])], receiver.received[0].headers, receiver.received[0].body, utc_now() + ahead
        )


async def test_a_lost_key_is_named_and_putting_it_back_is_enough(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
):
    ahead = timedelta(0)
    async with webhooks(tmp_path) as service:
        made = await created(service, receiver.url)
    old = (tmp_path / "secrets.key").read_text()
    (tmp_path / "secrets.key").write_text(token_hex(32))
    async with webhooks(tmp_path, lambda: utc_now() + ahead) as service, database(tmp_path) as documents:
        sealed = (await endpoint(documents, made["endpoint_id"])).secret
        await tell(service)
        assert (await tried(service, made["endpoint_id"])).last_error == NOT_SENT
        assert f"key {key_id(sealed).hex()} is not among ours" in caplog.text
        again = await created(service, receiver.url)
        assert (again["status"], again["type"].rpartition("/")[2]) == (503, "secret-unreadable")
        assert "secret" not in again
        # Nothing was written over it.
        assert (await endpoint(documents, made["endpoint_id"])).secret == sealed
        (tmp_path / "secrets.key").write_text((tmp_path / "secrets.key").read_text() + "\n" + old)
        assert (await created(service, receiver.url))["secret"] == made["secret"]
        ahead = timedelta(minutes=1)
        await eventually(lambda: receiver.received)


async def test_after_a_rotation_the_next_delivery_seals_anew(
    service: Running, receiver: Receiver, documents: Documents, tmp_path: Path
):
    made = await created(service, receiver.url)
    before = await endpoint(documents, made["endpoint_id"])
    add_key(tmp_path)
    await tell(service, 1)
    await eventually(lambda: len(receiver.received) == 1)
    after = await endpoint(documents, made["endpoint_id"])
    assert key_id(after.secret) != key_id(before.secret)
    assert msgspec.structs.replace(after, secret=before.secret, version=before.version) == before
    await tell(service, 2)
    await eventually(lambda: len(receiver.received) == 2)
    assert await endpoint(documents, made["endpoint_id"]) == after
    for request in receiver.received:
        signing.verify([signing.parsed(made["secret"])], request.headers, request.body, utc_now())
    assert (await created(service, receiver.url))["secret"] == made["secret"]


async def test_deliveries_side_by_side_after_a_rotation_all_arrive_signed(
    service: Running, receiver: Receiver, documents: Documents, tmp_path: Path
):
    made = await created(service, receiver.url)
    before = await endpoint(documents, made["endpoint_id"])
    add_key(tmp_path)
    await asyncio.gather(*(tell(service, number) for number in range(8)))
    await eventually(lambda: len(receiver.received) == 8)
    for request in receiver.received:
        signing.verify([signing.parsed(made["secret"])], request.headers, request.body, utc_now())
    assert key_id((await endpoint(documents, made["endpoint_id"])).secret) != key_id(before.secret)


async def test_sealing_anew_undoes_nobodys_write(service: Running, receiver: Receiver, documents: Documents):
    made = await created(service, receiver.url)
    read_before = await endpoint(documents, made["endpoint_id"])
    await service.app.state.store.disable(made["endpoint_id"], "meanwhile")
    await service.app.state.store.replace_secret(read_before, b"sealed anew")
    now = await endpoint(documents, made["endpoint_id"])
    assert (now.state, now.secret) == ("disabled", read_before.secret)


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
        assert (await endpoint(documents, "e1")).secret == PLAIN + secret
        await tell(service)
        await eventually(lambda: receiver.received)
        signing.verify([secret], receiver.received[0].headers, receiver.received[0].body, utc_now())
        sealed = (await endpoint(documents, "e1")).secret
        assert (sealed[0], secret in sealed) == (1, False)
        await tell(service, 2)
        await eventually(lambda: len(receiver.received) == 2)
        signing.verify([secret], receiver.received[1].headers, receiver.received[1].body, utc_now())


async def test_an_old_endpoint_that_is_written_unread_still_signs(tmp_path: Path, receiver: Receiver):
    async with webhooks(tmp_path) as service, database(tmp_path) as documents:
        made = await created(service, receiver.url)
        known = await endpoint(documents, made["endpoint_id"])
        secret = signing.parsed(made["secret"])
        await documents.put(ENDPOINTS, msgspec.structs.replace(known, secret=PLAIN + secret))
        await tell(service)
        await eventually(lambda: receiver.received)
        signing.verify([secret], receiver.received[0].headers, receiver.received[0].body, utc_now())


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
