"""New keys of an endpoint: of both kinds, beside the old ones, or in their place."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from standardwebhooks.webhooks import Webhook

from services.webhooks import signing
from services.webhooks.endpoints import MAX_ENDED
from services.webhooks.store import ENDPOINTS
from shared.clock import utc_now
from shared.documents import Documents
from tests.polling import eventually
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.test_webhook_endpoints import ask, code, listed, told
from tests.service.test_webhook_secrets import files_with
from tests.service.webhook_endpoints import created, database, endpoint, webhooks


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path) as one:
        yield one


async def rotated(service: Running, made: dict[str, Any], key: str = "r", **asked: Any) -> httpx2.Response:
    return await ask(service, "POST", f"/{made['endpoint_id']}/secrets", asked, key=key)


async def test_a_new_secret_and_the_old_one_both_sign_until_the_overlap_is_over(tmp_path: Path, receiver: Receiver):
    ahead = timedelta(0)
    async with webhooks(tmp_path, lambda: utc_now() + ahead) as service:
        made = await created(service, receiver.url)
        answer = await rotated(service, made, overlap_s=3600)
        assert answer.status_code == 201
        fresh = answer.json()
        assert (fresh["secret"] != made["secret"], fresh["signature"], fresh["public_key"]) == (True, "hmac", None)
        headers = await told(service, receiver, 1)
        for secret in (made["secret"], fresh["secret"]):
            assert Webhook(secret).verify(receiver.received[-1].body, headers)["type"] == "insight.created"
        (shown,) = await listed(service)
        assert [key["expires_at"] for key in shown["keys"]] == [None, fresh["earlier_until"]]
        ahead = timedelta(hours=1, seconds=1)
        headers, body = await told(service, receiver, 2), receiver.received[-1].body
        signing.verify([signing.parsed(fresh["secret"])], headers, body, utc_now() + ahead)
        with pytest.raises(signing.SignatureRefused, match="no signature fits"):
            signing.verify([signing.parsed(made["secret"])], headers, body, utc_now() + ahead)
        (shown,) = await listed(service)
        assert len(shown["keys"]) == 1
        for secret in (made["secret"], fresh["secret"]):
            assert files_with(tmp_path, signing.parsed(secret)) == []


async def test_without_an_overlap_the_old_secret_ends_at_once(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    fresh = (await rotated(service, made, overlap_s=0)).json()
    assert fresh["earlier_until"] is None
    headers = await told(service, receiver, 1)
    assert len(headers["webhook-signature"].split(" ")) == 1
    assert Webhook(fresh["secret"]).verify(receiver.received[0].body, headers)


async def test_a_repeated_rotation_gives_the_same_secret(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    first, again = [await rotated(service, made, overlap_s=60) for _ in range(2)]
    assert first.json() == again.json()
    assert code(await rotated(service, made, overlap_s=61)) == (422, "idempotency-key-reused")
    assert code(await rotated(service, made, overlap_s=60, signature="hmac")) == (422, "idempotency-key-reused")
    assert len((await listed(service))[0]["keys"]) == 2
    assert (await created(service, receiver.url))["secret"] == made["secret"]


@pytest.mark.parametrize("signature", ["hmac", "ed25519"])
async def test_a_late_repeat_of_a_rotation_ends_nobodys_key(
    service: Running, receiver: Receiver, webhooks_documents: Documents, signature: str
):
    made = await created(service, receiver.url)
    asked = {"overlap_s": 0, "signature": signature}
    first = (await rotated(service, made, "a", **asked)).json()
    second = (await rotated(service, made, "b", **asked)).json()
    before = (await listed(service))[0]["keys"]
    late = await rotated(service, made, "a", **asked)
    # As other secrets that are shown once: the same answer without it.
    assert (late.status_code, late.json()) == (201, first | {"secret": None})
    assert code(await rotated(service, made, "a", overlap_s=1)) == (422, "idempotency-key-reused")
    assert (await listed(service))[0]["keys"] == before
    headers = await told(service, receiver, 1)
    shown = signing.parsed_key(second["secret"] or second["public_key"])
    signing.verify([shown], headers, receiver.received[0].body, utc_now())
    (ended,) = (await endpoint(webhooks_documents, made["endpoint_id"])).ended
    assert (ended.sealed, ended.public) == (b"", first["public_key"])


async def test_a_secret_that_signs_no_more_is_not_shown_again(tmp_path: Path, receiver: Receiver):
    ahead = timedelta(0)
    async with webhooks(tmp_path, lambda: utc_now() + ahead) as service:
        made = await created(service, receiver.url)
        first = (await rotated(service, made, "a", overlap_s=60)).json()
        await rotated(service, made, "b", overlap_s=60)
        assert (await rotated(service, made, "a", overlap_s=60)).json()["secret"] == first["secret"]
        ahead = timedelta(seconds=61)
        assert (await rotated(service, made, "a", overlap_s=60)).json()["secret"] is None
        assert (await created(service, receiver.url))["secret"] is None


async def test_what_recognises_late_repeats_has_an_end(tmp_path: Path, receiver: Receiver):
    ahead = timedelta(0)
    async with webhooks(tmp_path, lambda: utc_now() + ahead) as service, database(tmp_path) as documents:
        made = await created(service, receiver.url)
        for number in range(MAX_ENDED + 3):
            assert (await rotated(service, made, str(number), overlap_s=0)).json()["secret"]
        assert len((await endpoint(documents, made["endpoint_id"])).ended) == MAX_ENDED
        assert (await rotated(service, made, "2", overlap_s=0)).json()["secret"] is None
        ahead = timedelta(days=1, seconds=1)
        assert (await rotated(service, made, "last", overlap_s=0)).json()["secret"]
        assert (await endpoint(documents, made["endpoint_id"])).ended == ()


async def test_four_keys_sign_at_most(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    answers = [await rotated(service, made, str(number)) for number in range(4)]
    assert [one.status_code for one in answers] == [201, 201, 201, 409]
    assert code(answers[3])[1] == "too-many-secrets"
    assert len((await told(service, receiver, 1))["webhook-signature"].split(" ")) == 4
    last = (await rotated(service, made, "last", overlap_s=0)).json()
    assert len((await listed(service))[0]["keys"]) == 1
    headers = await told(service, receiver, 2)
    assert Webhook(last["secret"]).verify(receiver.received[-1].body, headers)["data"]["sequence"] == 2


async def test_of_equal_rotations_at_once_there_is_one_key(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    answers = await asyncio.gather(*(rotated(service, made) for _ in range(6)))
    assert {one.status_code for one in answers} == {201}
    assert len({one.json()["secret"] for one in answers}) == 1
    others = await asyncio.gather(*(rotated(service, made, f"other-{number}") for number in range(6)))
    assert sorted(one.status_code for one in others) == [201, 201, 409, 409, 409, 409]
    assert len((await listed(service))[0]["keys"]) == 4


@pytest.mark.parametrize("asked", [{"overlap_s": -1}, {"overlap_s": 86_401}, {"overlap_s": 1.5}, {"signature": "rsa"}])
async def test_what_no_rotation_can_be(service: Running, receiver: Receiver, asked: dict[str, Any]):
    made = await created(service, receiver.url)
    assert code(await rotated(service, made, **asked)) == (422, "invalid-request")
    assert len((await listed(service))[0]["keys"]) == 1


async def test_ed25519_needs_no_secret_at_the_partners(service: Running, receiver: Receiver, tmp_path: Path):
    made = await created(service, receiver.url, signature="ed25519")
    assert made["secret"] is None
    public = made["keys"][0]["public_key"]
    assert public.startswith("whpk_")
    headers = await told(service, receiver, 1)
    assert headers["webhook-signature"].startswith("v1a,")
    signing.verify([signing.parsed_key(public)], headers, receiver.received[0].body, utc_now())
    async with database(tmp_path) as documents:
        (key,) = (await endpoint(documents, made["endpoint_id"])).keys
    assert (key.kind, key.public, len(key.sealed)) == ("ed25519", public, 32 + 77)


async def test_an_endpoint_changes_over_to_the_other_kind(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    fresh = (await rotated(service, made, signature="ed25519")).json()
    assert (fresh["secret"], fresh["public_key"][:5]) == (None, "whpk_")
    headers, body = await told(service, receiver, 1), receiver.received[0].body
    signing.verify([signing.parsed_key(fresh["public_key"])], headers, body, utc_now())
    assert Webhook(made["secret"]).verify(body, headers)["data"]["sequence"] == 1
    next_one = (await rotated(service, made, "s", overlap_s=0)).json()
    assert next_one["signature"] == "ed25519"


async def test_a_sealed_seed_is_no_secret_of_the_other_kind(service: Running, receiver: Receiver, tmp_path: Path):
    made = await created(service, receiver.url, signature="ed25519")
    async with database(tmp_path) as documents:
        known = await endpoint(documents, made["endpoint_id"])
        passed_off = msgspec.structs.replace(known.keys[0], kind="hmac", public=None)
        await documents.put(ENDPOINTS, msgspec.structs.replace(known, keys=(passed_off,)))
    await ask(service, "POST", f"/{made['endpoint_id']}/tests", key="t")

    async def tried() -> bool:
        found = await service.app.state.store.deliveries(made["endpoint_id"])
        return any(one.history for one in found)

    await eventually(tried)
    assert receiver.received == []
