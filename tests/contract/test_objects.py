"""The contract of the objects, on a folder and on S3: a fake one always, a real one where this machine has one.

Objects come back byte for byte; a store that is away is "later", an ill-formed key never reaches it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from shared.errors import Unavailable
from shared.objects import UNFINISHED, Objects
from shared.s3_objects import PART_BYTES, Refused, S3Access
from tests.contract import fake_s3, s3_server

KEY = "inference/u1/" + "a" * 64
REAL = ("weed", *(["s3"] if s3_server.S3_URL else []))


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Access]:
    if not s3_server.WEED:
        pytest.skip("the development environment has no `weed` for this machine, and MYMACRO_WEED names none")
    with s3_server.weed(tmp_path_factory.mktemp("weed")) as access:
        yield access


@pytest.fixture(params=REAL)
def real_s3(request: pytest.FixtureRequest) -> tuple[str, S3Access]:
    return _real(request)


def _real(request: pytest.FixtureRequest) -> tuple[str, S3Access]:
    """The bucket and the access of the server that the parameter names."""
    if request.param == "weed":
        return s3_server.BUCKET, cast(S3Access, request.getfixturevalue("weed"))
    return s3_server.named()


@pytest.fixture(params=("folder", "fake-s3", *REAL))
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Objects]:
    """An empty store: a folder, or a prefix of its own in a bucket."""
    prefix = uuid4().hex
    if request.param == "folder":
        yield Objects(f"file:///{tmp_path}/objects")
    elif request.param == "fake-s3":
        async with fake_s3.serving() as server:
            yield Objects(f"s3://{fake_s3.BUCKET}/{prefix}", server.access)
    else:
        bucket, access = _real(request)
        yield Objects(f"s3://{bucket}/{prefix}", access)


@pytest.fixture
def folder(tmp_path: Path) -> Objects:
    return Objects(f"file:///{tmp_path}/objects")


async def _parts(*parts: bytes) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part


async def test_a_store_that_works_starts_and_answers(objects: Objects) -> None:
    await objects.start()
    await objects.answers()
    assert await objects.delete_all("probe/start") == 0


async def test_a_real_server_refuses_a_wrong_key_and_a_missing_bucket_by_name(
    real_s3: tuple[str, S3Access], caplog: pytest.LogCaptureFixture
) -> None:
    bucket, access = real_s3
    wrong = {
        "OBJECTS_S3_SECRET_ACCESS_KEY": Objects(f"s3://{bucket}", replace(access, secret_access_key="wrong")),
        "does not know the key of OBJECTS_S3_ACCESS_KEY_ID": Objects(
            f"s3://{bucket}", replace(access, access_key_id="stranger")
        ),
        "OBJECTS_URL": Objects("s3://there-is-no-such-bucket", access),
    }
    for said, objects in wrong.items():
        caplog.clear()
        with pytest.raises(Unavailable):
            await objects.start()
        assert said in caplog.text
        for verb in (objects.put(KEY, b"x"), objects.get(KEY), objects.size(KEY), objects.delete_all("inference/u1")):
            with pytest.raises(Refused):
                await verb


@pytest.mark.parametrize("size", [0, 1, 1_280_000, 11_000_000])
async def test_an_object_comes_back_as_it_went(objects: Objects, size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    await objects.put(KEY, data)
    assert await objects.get(KEY) == data
    assert await objects.size(KEY) == size


async def test_an_object_of_a_folder_is_a_file_by_its_key(folder: Objects, tmp_path: Path) -> None:
    await folder.put(KEY, b"x")
    assert (tmp_path / "objects" / KEY).read_bytes() == b"x"


async def test_a_repeat_overwrites(objects: Objects) -> None:
    await objects.put(KEY, b"one")
    await objects.put(KEY, b"")
    assert await objects.get(KEY) == b""


async def test_what_is_not_there(objects: Objects) -> None:
    assert (await objects.get(KEY), await objects.size(KEY)) == (None, None)
    await objects.delete(KEY)
    assert await objects.delete_all("inference/u1") == 0


async def test_delete(objects: Objects) -> None:
    await objects.put(KEY, b"x")
    await objects.delete(KEY)
    await objects.delete(KEY)
    assert await objects.get(KEY) is None


async def test_all_of_a_user_is_deleted_and_nothing_else(objects: Objects) -> None:
    kept = ("inference/u10/a", "inference/u/1", "ingest/u1/a")
    gone = ("inference/u1/a", "inference/u1/parts/b", "inference/u1/parts/c.d")
    for key in (*kept, *gone):
        await objects.put(key, key.encode())
    assert await objects.delete_all("inference/u1") == len(gone)
    assert await objects.delete_all("inference/u1") == 0
    assert [await objects.get(key) for key in gone] == [None] * len(gone)
    assert [await objects.get(key) for key in kept] == [key.encode() for key in kept]


async def test_more_objects_than_a_listing_shows_at_once_are_deleted(objects: Objects) -> None:
    keys = [f"ingest/u1/{number:064x}" for number in range(1030)]
    for first in range(0, len(keys), 50):
        await asyncio.gather(*(objects.put(key, b"x") for key in keys[first : first + 50]))
    assert await objects.delete_all("ingest/u1") == len(keys)
    assert await objects.delete_all("ingest/u1") == 0


async def test_a_stream_is_one_object_and_is_read_in_parts(objects: Objects) -> None:
    parts = [bytes([at]) * 3_000_000 for at in range(7)]
    await objects.put_stream(KEY, _parts(*parts))
    whole = b"".join(parts)
    assert await objects.size(KEY) == len(whole)
    read = [part async for part in objects.read(KEY, 5, len(whole) - 5)]
    assert b"".join(read) == whole[5:-5]
    assert max(map(len, read)) <= PART_BYTES < len(whole)


@pytest.mark.parametrize("parts", [(), (b"",), (b"a", b"", b"b"), (bytes(PART_BYTES), b"x"), (bytes(3 * PART_BYTES),)])
async def test_streams_of_all_sizes_are_whole(objects: Objects, parts: tuple[bytes, ...]) -> None:
    await objects.put_stream(KEY, _parts(*parts))
    assert await objects.get(KEY) == b"".join(parts)


async def test_a_stream_is_there_only_once_it_is_whole(objects: Objects) -> None:
    seen: list[int | None] = []

    async def breaks_off() -> AsyncGenerator[bytes]:
        yield bytes(PART_BYTES)
        yield bytes(PART_BYTES)
        seen.append(await objects.size(KEY))
        raise RuntimeError("broken")

    await objects.put_stream(KEY, _parts(b"before"))
    with pytest.raises(RuntimeError, match="broken"):
        await objects.put_stream(KEY, breaks_off())
    assert (seen, await objects.get(KEY)) == ([len(b"before")], b"before")
    assert await objects.delete_all("inference/u1") == 1


async def test_what_a_kill_left_of_a_stream_in_a_folder_is_deleted_with_the_rest(
    folder: Objects, tmp_path: Path
) -> None:
    await folder.put_stream(KEY, _parts(b"whole"))
    (tmp_path / "objects" / (KEY + UNFINISHED)).write_bytes(b"half")
    assert await folder.delete_all("inference/u1") == 2
    assert not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]


@pytest.mark.parametrize("end", [1, 100])
async def test_bytes_that_are_not_there_are_said_to_be_lost(objects: Objects, end: int) -> None:
    with pytest.raises(FileNotFoundError):
        await anext(objects.read(KEY, 0, end))
    await objects.put(KEY, b"")
    with pytest.raises(FileNotFoundError):
        await anext(objects.read(KEY, 0, end))
    assert (await objects.size(KEY), await objects.size(KEY + "x")) == (0, None)


@pytest.mark.parametrize(
    "key", ["", "x", "/a/b", "a//b", "a/../b", "a/..", "./a/b", "a/b/", "a/b\n", "a/b c", "a/%2e%2e/b", "a/b#1", "ä/b"]
)
async def test_an_ill_formed_key_is_refused(folder: Objects, key: str) -> None:
    for verb in (folder.get(key), folder.delete(key), folder.put(key, b""), folder.put_stream(key, _parts())):
        with pytest.raises(ValueError, match="key"):
            await verb


async def test_a_folder_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    objects = Objects(f"file:///{tmp_path}/file/objects")
    await objects.start()
    for verb in (objects.answers(), objects.get(KEY), objects.put(KEY, b""), objects.delete_all("inference/u1")):
        with pytest.raises(Unavailable, match="objects"):
            await verb


@pytest.mark.parametrize(
    "url", ["", "file:///", "http://x", "/folder", "s3://", "s3://Bucket", "s3://b", "s3://bucket/a//b", "s3://u:p@b/c"]
)
def test_an_address_without_a_store_says_what_to_set(url: str) -> None:
    with pytest.raises(ValueError, match="OBJECTS_URL"):
        Objects(url)
