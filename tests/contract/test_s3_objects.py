"""An S3 that is away, slow or refuses us: one sentence that says what to mend, an end in time, and nothing lost."""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from shared.errors import Unavailable
from shared.objects import Objects
from shared.s3_objects import PART_BYTES, Bucket, Refused, S3Access
from tests.contract import fake_s3
from tests.contract.fake_s3 import BUCKET, KEY_ID, SECRET, FakeS3, Fault, refusal
from tests.polling import eventually

KEY = "inference/u1/" + "a" * 64
URL = f"s3://{BUCKET}/prefix"


@pytest.fixture
async def server() -> AsyncIterator[FakeS3]:
    async with fake_s3.serving() as one:
        yield one


def answering(status: int, code: str = "") -> Fault:
    """Always this."""

    async def answer(_: web.Request) -> web.Response:
        return refusal(status, code) if code else web.Response(status=status)

    return answer


async def hanging(_: web.Request) -> None:
    await asyncio.Event().wait()


async def trickling(request: web.Request) -> web.StreamResponse:
    """An answer that would take a day."""
    response = web.StreamResponse(headers={"Content-Length": "1000000", "ETag": "e"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)  # never so slow that nothing comes within a step
    return response


def nowhere() -> S3Access:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return S3Access(f"http://127.0.0.1:{one.getsockname()[1]}", "us-east-1", KEY_ID, SECRET)


def verbs(objects: Objects) -> tuple[object, ...]:
    async def read() -> bytes:
        return await anext(objects.read(KEY, 0, 1))

    stream = objects.put_stream(KEY, parts_of(3))
    return objects.put(KEY, b"x"), objects.get(KEY), objects.size(KEY), read(), objects.delete_all("ingest/u1"), stream


async def parts_of(count: int) -> AsyncGenerator[bytes]:
    for _ in range(count):
        yield bytes(PART_BYTES)


@pytest.mark.parametrize(
    ("status", "code", "named"),
    [
        (403, "InvalidAccessKeyId", "OBJECTS_S3_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "OBJECTS_S3_SECRET_ACCESS_KEY"),
        (403, "AccessDenied", "must let the key of OBJECTS_S3_ACCESS_KEY_ID"),
        (403, "", "OBJECTS_S3_ACCESS_KEY_ID"),
        (404, "NoSuchBucket", "no bucket of the name in OBJECTS_URL"),
        (404, "", "is no S3"),
        (400, "AuthorizationHeaderMalformed", "OBJECTS_S3_REGION"),
        (301, "", "OBJECTS_S3_REGION"),
        (403, "RequestTimeTooSkewed", "clock"),
    ],
)
async def test_a_refusal_ends_the_start_with_one_sentence_and_loses_nothing_later(
    server: FakeS3, caplog: pytest.LogCaptureFixture, status: int, code: str, named: str
) -> None:
    server.objects[f"prefix/{KEY}"] = b"x"
    server.fault = answering(status, code)
    objects = Objects(URL, server.access)
    with pytest.raises(Unavailable) as caught:
        await objects.start()
    assert type(caught.value) is Unavailable, "whose trace is left out of a failed start"
    (said,) = caplog.records
    assert said.levelno == logging.ERROR
    assert named in said.getMessage()
    assert f"S3 at {server.access.endpoint}" in said.getMessage()
    for verb in (objects.answers(), *verbs(objects)):
        with pytest.raises(Refused):
            await verb
    assert {record.getMessage() for record in caplog.records} == {said.getMessage()}, "and once a minute"
    assert not any(word in caplog.text for word in (SECRET, KEY_ID, "u1", "aaaa"))


async def test_a_wrong_key_and_a_missing_bucket_are_refusals(server: FakeS3) -> None:
    stranger = replace(server.access, access_key_id="stranger")
    for objects in (Objects(URL, stranger), Objects("s3://elsewhere", server.access)):
        for verb in (objects.start(), *verbs(objects)):
            with pytest.raises(Unavailable):
                await verb


async def test_an_s3_that_is_away_holds_up_no_start_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    objects = Objects(URL, nowhere())
    await objects.start()
    for verb in (objects.answers(), objects.delete(KEY), *verbs(objects)):
        with pytest.raises(Unavailable) as caught:
            await verb
        assert not isinstance(caught.value, Refused)
    (said,) = caplog.records
    assert "does not answer: check OBJECTS_S3_ENDPOINT" in said.getMessage()


@pytest.mark.parametrize("fault", [hanging, trickling])
async def test_an_s3_that_is_slow_is_waited_for_no_longer_than_told(server: FakeS3, fault: Fault) -> None:
    server.fault = fault
    bucket = Bucket(URL, server.access, answer_s=0.3, stream_s=0.3)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await bucket.reached(_whole(bucket))
    with pytest.raises(Unavailable):
        await bucket.put_stream(KEY, parts_of(3))
    assert time.monotonic() - began < 15, "its own retries go on for three minutes"


async def test_the_size_of_an_object_is_not_asked_again_when_the_time_of_an_answer_is_over(server: FakeS3) -> None:
    server.fault = hanging
    with pytest.raises(Unavailable):
        await Bucket(URL, server.access, answer_s=0.3).size(KEY)
    assert [request.method for request in server.requests] == ["HEAD"]


async def _whole(bucket: Bucket) -> object:
    return await (await bucket.store.get_async(KEY)).bytes_async()


async def test_a_hiccup_is_tried_again_but_not_for_ever(server: FakeS3) -> None:
    statuses = iter([500, 503])

    async def hiccup(_: web.Request) -> web.Response | None:
        status = next(statuses, None)
        return None if status is None else refusal(status, "SlowDown")

    server.fault = hiccup
    objects = Objects(URL, server.access)
    await objects.put(KEY, b"x")
    assert (await objects.get(KEY), len(server.requests)) == (b"x", 4)
    server.fault = answering(503, "SlowDown")
    server.requests.clear()
    with pytest.raises(Unavailable):
        await objects.put(KEY, b"y")
    assert len(server.requests) == 3
    server.fault = None
    assert await objects.get(KEY) == b"x"


async def test_a_connection_that_breaks_in_an_object_loses_nothing(server: FakeS3) -> None:
    objects = Objects(URL, server.access)
    await objects.put(KEY, b"before")
    broken = itertools.count()

    async def breaks(request: web.Request) -> None:
        next(broken)
        await request.content.read(1000)
        assert request.transport is not None
        request.transport.abort()

    server.fault = breaks
    with pytest.raises(Unavailable):
        await objects.put(KEY, bytes(5_000_000))
    server.fault = None
    assert next(broken) <= 3
    assert await objects.get(KEY) == b"before"


async def test_what_a_failed_or_cancelled_stream_left_is_dropped(server: FakeS3) -> None:
    objects = Objects(URL, server.access)

    async def refuses_the_second(request: web.Request) -> web.Response | None:
        return refusal(400, "BadDigest") if request.query.get("partNumber") == "2" else None

    server.fault = refuses_the_second
    with pytest.raises(Unavailable):
        await objects.put_stream(KEY, parts_of(5))
    server.fault = None
    assert (server.uploads, server.objects) == ({}, {})

    async def endless() -> AsyncGenerator[bytes]:
        yield bytes(2 * PART_BYTES)
        await asyncio.Event().wait()

    task = asyncio.create_task(objects.put_stream(KEY, endless()))
    await eventually(lambda: bool(server.uploads))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (server.uploads, server.objects) == ({}, {})


async def test_readiness_asks_every_ten_seconds_at_most(server: FakeS3) -> None:
    now = [0.0]
    bucket = Bucket(URL, server.access, clock=lambda: now[0])
    await bucket.answers()
    server.fault = answering(403, "AccessDenied")
    now[0] = 9.9
    await bucket.answers()
    now[0] = 10.0
    for _ in range(3):
        with pytest.raises(Refused):
            await bucket.answers()
    assert len(server.requests) == 2
    server.fault = None
    now[0] = 20.0
    await bucket.answers()


async def test_a_bucket_that_keeps_versions_is_warned_about(server: FakeS3, caplog: pytest.LogCaptureFixture) -> None:
    server.versions = True
    await Objects(URL, server.access).start()
    assert "switch versioning off" in caplog.text


async def test_a_wrong_key_is_one_sentence_at_the_start_of_a_service(server: FakeS3, tmp_path: Path) -> None:
    environment = os.environ | {
        "DATABASE_URL": f"sqlite:///{tmp_path}",
        "INSIGHTS_PORT": "0",
        "INTERNAL_JWKS_PATH": str(_no_keys(tmp_path)),
        "OBJECTS_URL": URL,
        "OBJECTS_S3_ENDPOINT": server.access.endpoint,
        "OBJECTS_S3_ACCESS_KEY_ID": "stranger",
        "OBJECTS_S3_SECRET_ACCESS_KEY": "difference-engine",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.insights.app", env=environment, stdout=PIPE, stderr=PIPE
    )
    out, err = (text.decode() for text in await process.communicate())
    assert (process.returncode, "Traceback" in out + err) == (3, False)
    lines = [line for line in out.splitlines() if '"error"' in line]
    assert len(lines) == 2, "what is wrong, and that the start failed"
    assert "does not know the key of OBJECTS_S3_ACCESS_KEY_ID" in lines[0]
    assert "difference-engine" not in out + err


def _no_keys(folder: Path) -> Path:
    path = folder / "internal-jwks.json"
    path.write_text('{"keys": []}')
    return path
