"""Objects come back byte for byte; a store that is away is "later", an ill-formed key never reaches it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from shared.errors import Unavailable
from shared.objects import PART_BYTES, UNFINISHED, Objects

KEY = "inference/u1/" + "a" * 64


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(f"file:///{tmp_path}/objects")


async def test_an_object_comes_back_as_it_went(objects: Objects, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    await objects.put(KEY, data)
    assert await objects.get(KEY) == data
    assert (tmp_path / "objects" / KEY).read_bytes() == data


async def test_a_repeat_overwrites(objects: Objects) -> None:
    await objects.put(KEY, b"one")
    await objects.put(KEY, b"")
    assert await objects.get(KEY) == b""


async def test_what_is_not_there(objects: Objects) -> None:
    assert await objects.get(KEY) is None
    await objects.delete(KEY)


async def test_delete(objects: Objects) -> None:
    await objects.put(KEY, b"x")
    await objects.delete(KEY)
    assert await objects.get(KEY) is None


async def _parts(*parts: bytes) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part


async def test_a_stream_is_one_object_and_is_read_in_parts(objects: Objects) -> None:
    parts = [bytes([at]) * 3_000_000 for at in range(7)]
    await objects.put_stream(KEY, _parts(*parts))
    whole = b"".join(parts)
    assert await objects.size(KEY) == len(whole)
    read = [part async for part in objects.read(KEY, 5, len(whole) - 5)]
    assert b"".join(read) == whole[5:-5]
    assert max(map(len, read)) <= PART_BYTES < len(whole)


async def test_a_stream_is_there_only_once_it_is_whole(objects: Objects, tmp_path: Path) -> None:
    seen: list[int | None] = []

    async def breaks_off() -> AsyncGenerator[bytes]:
        yield b"x"
        seen.append(await objects.size(KEY))
        raise RuntimeError("broken")

    await objects.put_stream(KEY, _parts(b"before"))
    with pytest.raises(RuntimeError, match="broken"):
        await objects.put_stream(KEY, breaks_off())
    assert (seen, await objects.get(KEY)) == ([len(b"before")], b"before")
    assert [path.name for path in (tmp_path / "objects").rglob("*") if path.is_file()] == ["a" * 64]


async def test_what_a_kill_left_of_a_stream_is_deleted_with_the_rest(objects: Objects, tmp_path: Path) -> None:
    await objects.put_stream(KEY, _parts(b"whole"))
    (tmp_path / "objects" / (KEY + UNFINISHED)).write_bytes(b"half")
    assert await objects.delete_all("inference/u1") == 2
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
async def test_an_ill_formed_key_is_refused(objects: Objects, key: str) -> None:
    for verb in (objects.get(key), objects.delete(key), objects.put(key, b""), objects.put_stream(key, _parts())):
        with pytest.raises(ValueError, match="key"):
            await verb


async def test_a_folder_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    objects = Objects(f"file:///{tmp_path}/file/objects")
    for verb in (objects.get(KEY), objects.put(KEY, b"")):
        with pytest.raises(Unavailable, match="objects"):
            await verb


async def test_a_bucket_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="objects"):
        await Objects("s3://bucket").get(KEY)


@pytest.mark.parametrize("url", ["", "file:///", "http://x", "/folder"])
def test_an_address_without_a_store_says_what_to_set(url: str) -> None:
    with pytest.raises(ValueError, match="OBJECTS_URL"):
        Objects(url)
