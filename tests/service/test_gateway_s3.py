"""The gateway while S3 is away or refuses it: what needs objects is answered 503, the rest goes on, none is lost."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import web

from shared import topics
from tests.contract import fake_s3
from tests.contract.fake_s3 import FakeS3, refusal
from tests.service.gateway_edges import USER, Gateway, gateway
from tests.service.test_gateway import BATCH, picture, problem, put_photo
from tests.service.test_gateway_intake import LARGE

PHOTOS, BATCHES = topics.PHOTOS.name, topics.BATCHES.name


@pytest.fixture
async def s3() -> AsyncGenerator[FakeS3]:
    async with fake_s3.serving() as server:
        yield server


@pytest.fixture
async def door(tmp_path: Path, s3: FakeS3) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path, **s3.settings()) as one:
        yield one


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (403, "SignatureDoesNotMatch"), (404, "NoSuchBucket")])
async def test_what_s3_does_not_take_is_503_and_the_repeat_succeeds(
    door: Gateway, s3: FakeS3, status: int, code: str
) -> None:
    async def refuses(_: web.Request) -> web.Response:
        return refusal(status, code)

    s3.fault = refuses
    for got in (await put_photo(door, picture()), await door.ask("POST", "/v1/batches", json=LARGE, key="b1")):
        assert problem(got) == (503, "objects-unavailable")
        assert int(got.headers["retry-after"]) > 0
    assert (door.running.published[PHOTOS], door.running.published[BATCHES]) == ([], [])
    assert (await door.ask("POST", "/v1/batches", json=BATCH, key="b2")).status_code == 202, "it needs no object"
    ready = await door.ask("GET", "/readyz", token=None)
    assert ready.json()["parts"]["objects"] != "ok"
    assert ready.status_code == 200
    s3.fault = None
    assert (await put_photo(door, picture())).status_code == 202
    assert (await door.ask("POST", "/v1/batches", json=LARGE, key="b1")).status_code == 202
    (event,) = door.running.published[PHOTOS]
    assert [len(door.running.published[name]) for name in (PHOTOS, BATCHES)] == [1, 2]
    keys = sorted(s3.objects)
    assert [key.rpartition("/")[0] for key in keys] == [f"inference/{USER}", f"ingest/{USER}"]
    assert keys[0].encode() in event
