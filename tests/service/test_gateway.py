"""The gateway's door: identity, limits, accept path, proxied reads."""

import gzip
import io
import json
import tracemalloc
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backports import zstd
from PIL import Image

from services.auth.app import create_app as create_auth
from services.auth.settings import Settings as AuthSettings
from services.gateway.proxy import Unanswered
from services.gateway.upstreams import AiohttpUpstreams
from shared import topics
from shared.access_tokens import sign_access_token
from shared.clock import utc_now
from shared.events.gateway import BatchSubmitted, PhotoSubmitted
from shared.kafka import make_broker
from shared.keys import generate_key_files, load_private_jwk, new_api_key
from tests.service.gateway_edges import USER, Gateway, answer, gateway

SAMPLE = {"metric": "heart_rate", "start": "2026-03-01T08:00:00+01:00", "value": 61}
BATCHES = topics.BATCHES.name
BATCH = {"device": {"id": "watch-1", "kind": "watch"}, "app": "test/1", "samples": [SAMPLE]}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path) as one:
        yield one


def picture(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "white").save(file, kind)
    return file.getvalue()


def problem(got: Any) -> tuple[int, str]:
    assert got.headers["content-type"] == "application/problem+json"
    document = got.json()
    assert document["detail"]
    assert document["status"] == got.status_code
    assert "Traceback" not in got.text
    return got.status_code, document["type"].rsplit("/", 1)[1]


async def put_photo(door: Gateway, data: bytes, query: str = "", kind: str = "image/png", key: str = "p1") -> Any:
    return await door.ask("PUT", f"/v1/photos{query}", content=data, headers={"Content-Type": kind}, key=key)


# accept path


async def test_a_batch_is_held_by_the_broker_before_the_answer(door: Gateway) -> None:
    got = await door.ask("POST", "/v1/batches", json=BATCH, key="b1")
    assert got.status_code == 202
    accepted = got.json()
    assert (accepted["state"], accepted["received"], accepted["invalid_records"]) == ("queued", 1, 0)
    assert got.headers["trace-id"] == accepted["trace_id"]
    (value,) = door.running.published[BATCHES]
    batch = msgspec.msgpack.decode(value, type=BatchSubmitted)
    assert (batch.user_id, batch.receipt_id, batch.series[0].metric) == (USER, accepted["receipt_id"], "heart_rate")


async def test_a_repeat_gives_the_same_receipt_and_another_body_another(door: Gateway) -> None:
    first = (await door.ask("POST", "/v1/batches", json=BATCH, key="b1")).json()["receipt_id"]
    again = (await door.ask("POST", "/v1/batches", json=BATCH, key="b1")).json()["receipt_id"]
    other = (await door.ask("POST", "/v1/batches", json=BATCH | {"app": "x"}, key="b1")).json()["receipt_id"]
    assert first == again != other


async def test_a_photo_is_stored_before_it_is_published(door: Gateway) -> None:
    data = picture()
    got = await put_photo(door, data, "?grams=40.5&eaten_at=2026-03-01T23:30:00%2B02:00")
    assert got.status_code == 202
    event = PhotoSubmitted.model_validate_json(door.running.published[topics.PHOTOS.name][0])
    assert event.photo_id == got.json()["photo_id"]
    assert (str(event.grams), str(event.local_date)) == ("40.5", "2026-03-01")
    assert event.eaten_at is not None
    assert event.eaten_at.isoformat() == "2026-03-01T21:30:00+00:00"
    assert event.object.key == f"inference/{USER}/{event.object.sha256}"
    assert (door.folder / "objects" / event.object.key).read_bytes() == data


async def test_a_broker_that_is_away_is_503_and_the_repeat_succeeds(door: Gateway) -> None:
    door.broker.away = True
    got = await door.ask("POST", "/v1/batches", json=BATCH, key="b1")
    assert problem(got) == (503, "broker-unavailable")
    assert int(got.headers["retry-after"]) > 0
    assert problem(await put_photo(door, picture())) == (503, "broker-unavailable")
    door.broker.away = False
    assert (await door.ask("POST", "/v1/batches", json=BATCH, key="b1")).status_code == 202


# bad input


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "not-json"),
        (b'{"samples": 1}', "application/json", 422, "invalid-batch"),
        (b"[]", "application/json", 422, "invalid-batch"),
        (b"[" * 100_000, "application/json", 422, "invalid-batch"),
        (b'{"x":' * 100_000, "application/json", 422, "invalid-batch"),
        (b'{"app":' * 100_000, "application/json", 422, "invalid-batch"),
        (json.dumps(BATCH).encode(), "text/plain", 415, "unsupported-media-type"),
        (json.dumps(BATCH).encode(), "", 415, "unsupported-media-type"),
    ],
)
async def test_a_bad_batch(door: Gateway, body: bytes, content_type: str, status: int, code: str) -> None:
    got = await door.ask("POST", "/v1/batches", content=body, headers={"Content-Type": content_type}, key="b1")
    assert problem(got) == (status, code)
    assert door.running.published[BATCHES] == []


async def test_bad_records_are_accepted_with_the_rest(door: Gateway) -> None:
    got = await door.ask("POST", "/v1/batches", json=BATCH | {"samples": [SAMPLE, {"metric": "steps"}]}, key="b1")
    assert (got.status_code, got.json()["invalid_records"]) == (202, 1)


@pytest.mark.parametrize("declares", [True, False])
async def test_a_body_over_the_limit_names_the_limit(tmp_path: Path, declares: bool) -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        for _ in range(20):
            yield b" " * 100

    async with gateway(tmp_path, gateway_max_batch_bytes=1024) as door:
        content: Any = b" " * 2000 if declares else chunks()
        headers = {"Content-Type": "application/json"}
        got = await door.ask("POST", "/v1/batches", content=content, headers=headers, key="b1")
        assert problem(got) == (413, "body-too-large")
        assert "1024" in got.json()["detail"]
        assert "connection" not in got.headers


async def send_packed(door: Gateway, coding: str, content: Any, path: str = "/v1/batches", key: str = "b1") -> Any:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    return await door.ask("POST", path, content=content, headers=headers, key=key)


PLAIN = json.dumps(BATCH).encode()
PACKED = {
    "gzip": gzip.compress(PLAIN),
    "x-gzip": gzip.compress(PLAIN[:30]) + gzip.compress(b"") + gzip.compress(PLAIN[30:]),
    "zstd": zstd.compress(PLAIN),
    "ZSTD": zstd.compress(PLAIN[:30]) + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(PLAIN[30:]),
    "identity": PLAIN,
}


async def chunked(content: bytes, size: int) -> AsyncGenerator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("size", [0, 1, 7])
async def test_a_compressed_batch_is_the_same_batch(door: Gateway, coding: str, size: int) -> None:
    plain = await door.ask("POST", "/v1/batches", json=BATCH, key="b1")
    again = await door.ask("POST", "/v1/batches", content=PLAIN, headers={"Content-Type": "application/json"}, key="b1")
    content = chunked(PACKED[coding], size) if size else PACKED[coding]
    got = await send_packed(door, coding, content)
    assert got.status_code == plain.status_code == 202
    assert got.json()["receipt_id"] == again.json()["receipt_id"]
    batches = [msgspec.msgpack.decode(value, type=BatchSubmitted) for value in door.running.published[BATCHES]]
    assert batches[0].series == batches[-1].series


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("gzip", b""),
        ("gzip", b"\x1f\x8b"),
        ("gzip", PACKED["gzip"][:-1]),
        ("gzip", PACKED["gzip"] + b"garbage"),
        ("gzip", PACKED["gzip"][:-8] + bytes(8)),
        ("gzip", PLAIN),
        ("gzip", PACKED["zstd"]),
        ("gzip", gzip.compress(b"") * 300),
        ("zstd", b""),
        ("zstd", PACKED["zstd"][:-1]),
        ("zstd", PACKED["zstd"] + b"garbage"),
        ("zstd", PLAIN),
        ("zstd", zstd.compress(PLAIN, options={zstd.CompressionParameter.window_log: 27})[:4] + b"\x00\xff"),
    ],
)
async def test_a_body_that_is_not_what_its_coding_says(door: Gateway, coding: str, content: bytes) -> None:
    assert problem(await send_packed(door, coding, content)) == (400, "broken-compression")
    assert door.running.published[BATCHES] == []


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_bomb_stops_at_the_limit(door: Gateway, coding: str) -> None:
    nothing = b" " * (64 * 1024 * 1024)
    bomb = gzip.compress(nothing, 9) if coding == "gzip" else zstd.compress(nothing)
    tracemalloc.start()
    got = await send_packed(door, coding, chunked(bomb, 4096))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert problem(got) == (413, "body-too-large")
    assert str(4 * 1024 * 1024) in got.json()["detail"]
    assert peak < 20 * 1024 * 1024


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "deflate"])
async def test_another_coding_is_told_the_right_ones(door: Gateway, coding: str) -> None:
    got = await send_packed(door, coding, PACKED["gzip"])
    assert problem(got) == (415, "unsupported-content-encoding")
    assert got.headers["accept-encoding"] == "gzip, zstd, identity"


async def test_other_routes_take_no_compressed_body(door: Gateway) -> None:
    assert problem(await send_packed(door, "gzip", PACKED["gzip"], "/v1/grants")) == (
        415,
        "unsupported-content-encoding",
    )


@pytest.mark.parametrize(
    ("data", "kind", "status", "code"),
    [
        (b"GIF89a", "image/gif", 415, "unsupported-media-type"),
        (b"<svg/>", "image/png", 415, "unsupported-picture"),
        (picture("PNG")[:-20], "image/png", 422, "truncated-picture"),
        (picture("JPEG")[:200], "image/jpeg", 422, "truncated-picture"),
        (picture("PNG"), "application/json", 415, "unsupported-media-type"),
    ],
)
async def test_a_bad_picture(door: Gateway, data: bytes, kind: str, status: int, code: str) -> None:
    assert problem(await put_photo(door, data, kind=kind)) == (status, code)
    assert door.running.published[topics.PHOTOS.name] == []


@pytest.mark.parametrize(
    "query",
    [
        "?grams=0",
        "?grams=-1",
        "?grams=nan",
        "?grams=1e9",
        "?grams=1e-9999",
        "?grams=1_0",
        "?grams=+5",
        "?grams=x",
        "?grams=1&grams=2",
        "?eaten_at=yesterday",
        "?eaten_at=2026-03-01T12:00:00",
        "?eaten_at=1969-12-31T23:59:59Z",
        "?eaten_at=0001-01-01T00:00:00%2B14:00",
        "?eaten_at=9999-12-31T23:59:59-14:00",
        f"?eaten_at={utc_now() + timedelta(hours=25):%Y-%m-%dT%H:%M:%SZ}",
        "?gramms=5",
        "?&&",
        "?%ff",
    ],
)
async def test_a_bad_photo_query(door: Gateway, query: str) -> None:
    assert problem(await put_photo(door, picture(), query)) == (422, "invalid-request")


@pytest.mark.parametrize("key", [None, " ", "x" * 256, "ü"])
async def test_what_creates_needs_a_key(door: Gateway, key: str | None) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1"))] if key else []
    for method, path, kind in (
        ("POST", "/v1/batches", "application/json"),
        ("PUT", "/v1/photos", "image/png"),
        ("POST", "/v1/users", "application/json"),
        ("POST", "/v1/grants", "application/json"),
    ):
        sent = [*headers, (b"Content-Type", kind.encode()), (b"Authorization", f"Bearer {door.token()}".encode())]
        got = await door.http.request(method, path, content=b"{}", headers=sent)
        assert problem(got) == (400, "idempotency-key-required")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not-found"),
        ("GET", "/v1/whoami/", 404, "not-found"),
        ("DELETE", "/v1/batches", 405, "method-not-allowed"),
    ],
)
async def test_unknown_routes_are_problems(door: Gateway, method: str, path: str, status: int, code: str) -> None:
    assert problem(await door.ask(method, path)) == (status, code)


async def test_a_wrong_method_is_told_the_methods_of_all_routes_of_the_path(door: Gateway) -> None:
    got = await door.ask("DELETE", "/v1/webhook-endpoints")
    assert (got.status_code, got.headers["allow"]) == (405, "GET, HEAD, POST")


async def test_an_address_that_is_not_ascii_is_refused(door: Gateway) -> None:
    sent: list[Any] = []

    async def nothing() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def keep(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/v1/insights",
        "raw_path": b"/v1/insights",
        "query_string": b"cursor=\xff",
        "headers": [(b"authorization", f"Bearer {door.token()}".encode())],
        "root_path": "",
    }
    await door.running.app(scope, nothing, keep)
    assert sent[0]["status"] == 400


async def test_internal_routes_are_not_public(door: Gateway) -> None:
    for path in ("/internal/keys/verify", "/v1/../internal/keys/verify", "/v1/days/..%2F..%2Finternal", "/metrics"):
        assert (await door.ask("POST", path, json={})).status_code in (404, 405)
    assert problem(await door.ask("GET", "/v1/days/%2E%2E"))[0] == 404
    assert not any("internal" in target for _, _, target, _, _ in door.services.seen)


# identity


async def test_whoami(door: Gateway) -> None:
    got = await door.ask("GET", "/v1/whoami", token=door.token(scopes=("days:read",)))
    assert got.json() == {"user_id": USER, "partner_id": None, "scopes": ["days:read"]}
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["cache-control"] == "no-store"
    assert len(got.headers["trace-id"]) == 32
    assert "access-control-allow-origin" not in got.headers


async def test_tokens_that_are_not_good(door: Gateway) -> None:
    past = door.clock().timestamp() - 3600
    good = door.token()
    bad = {
        "expired": door.token(now=past),
        "audience": door.token(audience="else"),
        "issuer": door.token(issuer="else"),
        "signature": good[:-8] + "AAAAAAAA",
        "junk": "junk",
        "none": "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.e30.",
    }
    for name, token in bad.items():
        got = await door.ask("GET", "/v1/whoami", token=token)
        assert problem(got) == (401, "invalid-token"), name
        assert got.headers["www-authenticate"].startswith("Bearer"), name
    got = await door.ask("GET", "/v1/whoami", token=None)
    assert problem(got) == (401, "token-required")
    assert problem(await door.ask("GET", "/v1/whoami", token=None, headers={"Authorization": "Basic eA=="}))[0] == 401


async def test_a_cached_token_still_expires(door: Gateway) -> None:
    token = door.token()
    assert (await door.ask("GET", "/v1/whoami", token=token)).status_code == 200
    door.clock.ahead = timedelta(minutes=15, seconds=10)
    assert problem(await door.ask("GET", "/v1/whoami", token=token)) == (401, "invalid-token")


async def test_a_missing_scope_and_the_wrong_kind_are_403(door: Gateway) -> None:
    got = await door.ask("GET", "/v1/days/2026-03-01", token=door.token(scopes=("diary:read",)))
    assert problem(got) == (403, "insufficient-scope")
    assert 'scope="days:read"' in got.headers["www-authenticate"]
    assert problem(await door.ask("GET", "/v1/webhook-endpoints")) == (403, "insufficient-scope")


async def test_known_keys_outlive_auth_and_unknown_ones_are_503(door: Gateway) -> None:
    key = new_api_key()
    verified = answer({"partner_id": "p1", "scopes": ["webhooks:write"], "expires_at": None})
    door.services.handlers["auth"] = lambda *_: verified
    door.services.handlers["webhooks"] = lambda *_: answer({"endpoints": []})
    assert (await door.ask("GET", "/v1/webhook-endpoints", token=key)).status_code == 200
    assert (await door.ask("GET", "/v1/webhook-endpoints", token=key)).status_code == 200
    assert door.services.count("auth", "/internal/keys/verify") == 1
    door.services.down.add("auth")
    door.clock.ahead = timedelta(seconds=60)
    assert (await door.ask("GET", "/v1/webhook-endpoints", token=key)).status_code == 200
    assert problem(await door.ask("GET", "/v1/webhook-endpoints", token=new_api_key())) == (503, "auth-unavailable")
    door.clock.ahead = timedelta(minutes=11)
    assert problem(await door.ask("GET", "/v1/webhook-endpoints", token=key)) == (503, "auth-unavailable")


async def test_junk_keys_cost_auth_nothing(door: Gateway) -> None:
    assert problem(await door.ask("GET", "/v1/webhook-endpoints", token="mmt_" + "A" * 36)) == (401, "invalid-token")
    assert door.services.seen == []
    got = await door.ask("GET", "/v1/webhook-endpoints", token=new_api_key())
    assert problem(got) == (401, "invalid-token")


async def test_tokens_outlive_auth_and_without_keys_it_is_503(door: Gateway) -> None:
    door.services.down.add("auth")
    assert problem(await door.ask("GET", "/v1/whoami")) == (503, "auth-unavailable")
    door.services.down.clear()
    assert (await door.ask("GET", "/v1/whoami")).status_code == 200
    door.services.down.add("auth")
    door.clock.ahead = timedelta(minutes=10)
    assert (await door.ask("GET", "/v1/whoami", token=door.token(user_id="usr_2"))).status_code == 200


async def test_unknown_key_ids_do_not_make_the_gateway_ask_again_and_again(door: Gateway, tmp_path: Path) -> None:
    other = tmp_path / "other"
    generate_key_files(other)
    await door.ask("GET", "/v1/whoami")
    door.clock.ahead = timedelta(seconds=11)
    for number in range(5):
        key = load_private_jwk(other / "auth.jwk")
        token = sign_access_token(key, issuer="x", audience="y", user_id=f"u{number}", scopes=())
        assert problem(await door.ask("GET", "/v1/whoami", token=token)) == (401, "invalid-token")
    assert door.services.count("auth", "/.well-known/jwks.json") == 2


# receipts


async def test_a_foreign_receipt_is_404_and_an_unknown_one_is_queued(door: Gateway) -> None:
    receipt_id = (await door.ask("POST", "/v1/batches", json=BATCH, key="b1")).json()["receipt_id"]
    mine = await door.ask("GET", f"/v1/receipts/{receipt_id}")
    assert mine.json() == {"receipt_id": receipt_id, "state": "queued"}
    foreign = await door.ask("GET", f"/v1/receipts/{receipt_id}", token=door.token("usr_2"))
    made_up = await door.ask("GET", "/v1/receipts/rcp_" + "a" * 39, token=door.token("usr_2"))
    assert problem(foreign) == problem(made_up) == (404, "not-found")
    assert problem(await door.ask("GET", f"/v1/photos/{receipt_id}")) == (404, "not-found")
    door.services.handlers["ingest"] = lambda *_: answer({"receipt_id": receipt_id, "state": "stored"})
    assert (await door.ask("GET", f"/v1/receipts/{receipt_id}")).json()["state"] == "stored"
    for broken in (lambda: door.services.down.add("ingest"), lambda: door.services.down.clear()):
        broken()
        door.services.handlers["ingest"] = lambda *_: answer({}, 500)
        got = await door.ask("GET", f"/v1/receipts/{receipt_id}")
        assert problem(got) == (503, "receipt-unavailable")
        assert got.headers["retry-after"]


# proxied


async def test_what_may_be_kept_is_said_of_routes_for_anyone_alone(door: Gateway) -> None:
    kept = {"cache-control": "public, max-age=3600"}
    door.services.handlers["webhooks"] = lambda *_: answer({"event_types": []}, **kept)
    door.services.handlers["insights"] = lambda *_: answer({"insights": []}, **kept)
    open_to_all = await door.ask("GET", "/v1/event-types", token=None)
    assert (open_to_all.status_code, open_to_all.headers["cache-control"]) == (200, "public, max-age=3600")
    of_a_user = await door.ask("GET", "/v1/insights")
    assert (of_a_user.status_code, of_a_user.headers["cache-control"]) == (200, "no-store")


async def test_a_proxied_read_carries_caller_and_trace_and_keeps_the_answer(door: Gateway) -> None:
    door.services.handlers["insights"] = lambda *_: answer({"insights": []}, etag='"1"', server="secret/1")
    got = await door.ask("GET", "/v1/insights?limit=5&cursor=a%2Fb", headers={"Cookie": "x=y"})
    assert (got.status_code, got.json(), got.headers["etag"]) == (200, {"insights": []}, '"1"')
    assert "server" not in got.headers
    _, method, target, headers, _ = door.services.seen[-1]
    assert (method, target) == ("GET", "/v1/insights?limit=5&cursor=a%2Fb")
    assert headers["traceparent"].split("-")[1] == got.headers["trace-id"]
    assert "Cookie" not in headers
    assert door.token() not in headers["Authorization"]


async def test_problems_of_services_are_passed_on(door: Gateway) -> None:
    document = {"type": "https://mymacrotracker.dev/problems/invalid-request", "status": 422, "detail": "x"}
    door.services.handlers["ingest"] = lambda *_: answer(document, 422, "application/problem+json")
    assert problem(await door.ask("GET", "/v1/days/nonsense")) == (422, "invalid-request")


async def test_a_silent_service_is_503(door: Gateway) -> None:
    door.services.down.add("ingest")
    got = await door.ask("GET", "/v1/days/2026-03-01")
    assert problem(got) == (503, "service-unavailable")
    assert got.headers["retry-after"]


async def test_a_refused_internal_token_is_our_fault(door: Gateway) -> None:
    door.services.handlers["ingest"] = lambda *_: answer({}, 401)
    assert problem(await door.ask("GET", "/v1/days/2026-03-01")) == (503, "service-unavailable")


async def test_the_http_client_copies_and_gives_up() -> None:
    upstreams = AiohttpUpstreams({"ingest": ["http://127.0.0.1:9"]})
    await upstreams.open()
    with pytest.raises(Unanswered):
        await upstreams.send("ingest", "GET", "/", {}, b"")
    await upstreams.close()


# with the real auth behind it


async def test_from_sign_up_to_a_batch_with_the_real_auth(door: Gateway) -> None:
    folder = door.folder
    settings = AuthSettings(
        database_url=f"sqlite:///{folder}",
        internal_jwks_path=folder / "internal-jwks.json",
        auth_signing_key_path=folder / "auth.jwk",
        auth_pepper_path=folder / "auth-pepper.key",
        secrets_key_path=folder / "secrets.key",
        auth_demo_partner_key_path=folder / "demo-partner.key",
        kafka_bootstrap_servers="127.0.0.1:9",
    )
    auth = create_auth(settings, broker=make_broker(settings, "auth"))
    door.services.apps["auth"] = auth
    account = {"email": "ada@example.org", "password": "violet tractor hums at noon"}
    async with auth.router.lifespan_context(auth):
        made = await door.ask("POST", "/v1/users", token=None, json=account, key="u1")
        again = await door.ask("POST", "/v1/users", token=None, json=account, key="u1")
        assert (made.status_code, again.json()) == (201, made.json())
        wrong = await door.ask("POST", "/v1/tokens", token=None, json=account | {"password": "x"})
        assert problem(wrong) == (401, "wrong-credentials")
        token = (await door.ask("POST", "/v1/tokens", token=None, json=account)).json()["access_token"]
        who = (await door.ask("GET", "/v1/whoami", token=token)).json()
        assert who["user_id"] == made.json()["user_id"]
        grant = {"partner_id": "demo-partner", "scopes": ["days:read"]}
        assert (await door.ask("POST", "/v1/grants", token=token, json=grant, key="g1")).status_code == 201
        assert (await door.ask("POST", "/v1/batches", token=token, json=BATCH, key="b1")).status_code == 202
        partner = (folder / "demo-partner.key").read_text().strip()
        who = (await door.ask("GET", "/v1/whoami", token=partner)).json()
        assert (who["user_id"], who["partner_id"]) == (None, "demo-partner")


# documents and health


async def test_one_openapi_document_and_a_page(door: Gateway) -> None:
    door.services.apps["auth"] = create_auth(
        AuthSettings(
            auth_signing_key_path=door.folder / "auth.jwk",
            auth_pepper_path=door.folder / "auth-pepper.key",
            secrets_key_path=door.folder / "secrets.key",
            database_url=f"sqlite:///{door.folder}",
        )
    )
    document = (await door.ask("GET", "/openapi.json", token=None)).json()
    assert {"/v1/batches", "/v1/photos", "/v1/live", "/v1/users", "/v1/grants"} <= set(document["paths"])
    assert not any("internal" in path or path == "/readyz" for path in document["paths"])
    assert document["paths"]["/v1/grants"]["post"]["security"] == [{"user": []}]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    page = await door.ask("GET", "/docs", token=None)
    assert page.headers["content-type"].startswith("text/html")
    assert "/v1/batches" in page.text
    assert "http" not in page.headers["content-security-policy"]
    assert "<script" not in page.text


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    return [found for item in node for found in _references(item)] if isinstance(node, list) else []


async def test_health_is_public(door: Gateway) -> None:
    assert (await door.ask("GET", "/livez", token=None)).status_code == 200
    parts = (await door.ask("GET", "/readyz", token=None)).json()["parts"]
    assert set(parts) == {"kafka", "revocations", "grants", "partners", "objects"}
