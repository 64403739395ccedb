"""Objects come back byte for byte; a store that is away is "later", an ill-formed key never reaches it."""

from pathlib import Path

import pytest

from shared.errors import Unavailable
from shared.objects import Objects

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


@pytest.mark.parametrize(
    "key", ["", "x", "/a/b", "a//b", "a/../b", "a/..", "./a/b", "a/b/", "a/b\n", "a/b c", "a/%2e%2e/b", "a/b#1", "ä/b"]
)
async def test_an_ill_formed_key_is_refused(objects: Objects, key: str) -> None:
    for verb in (objects.get(key), objects.delete(key), objects.put(key, b"")):
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
