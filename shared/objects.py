"""Pictures and files by key: a local folder or an S3 bucket."""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from shared.errors import Unavailable

T = TypeVar("T")
KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
FILE_SCHEME = "file:///"
# Streams read so much at a time, and write so much to a bucket; a request of it ends long before its time is over.
PART_BYTES = 8 * 1024 * 1024
# A streamed file bears this name until it is whole.
UNFINISHED = ".unfinished"


class Objects:
    """Objects under keys `<service>/<user_id>/<sha256>`; an equal key means equal bytes, so a repeat does no harm.

    Streamed objects have keys `<service>/<user_id>/<kind>/<id>`; the last one written whole is the one that is there.

    `file:///folder` is a folder (`file:////folder` is absolute), `s3://bucket/prefix` a bucket, whose address and
    credentials come from the usual AWS_ variables. What `put` returned from is durable: in a folder the object and
    the names that lead to it are synced.

    Raises:
        ValueError: no store for this address.
    """

    def __init__(self, url: str) -> None:
        self._root: Path | None = None
        if url.startswith(FILE_SCHEME) and len(url) > len(FILE_SCHEME):
            self._root = Path(url.removeprefix(FILE_SCHEME)).absolute()
            self._store: LocalStore | S3Store | None = None
        elif url.startswith("s3://"):
            self._store = S3Store.from_url(
                url,
                client_options={"connect_timeout": "2s", "timeout": "20s"},
                retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=10)},
            )
        else:
            raise ValueError("OBJECTS_URL must be file:///<folder> or s3://<bucket>")

    async def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`. Raises `Unavailable("objects")`, ValueError for an ill-formed key."""
        _check(key)
        await _reached(self._opened().put_async(key, data))
        if self._root is not None:
            await _reached(asyncio.to_thread(_sync, self._root, self._root / key))

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> None:
        """Store all `parts` as one object, a few of them in memory; it is there once all are.

        Raises `Unavailable("objects")`, ValueError for an ill-formed key, and what `parts` raises.
        """
        _check(key)
        store = self._opened()
        if self._root is None:
            await _reached(store.put_async(key, parts, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=2))
            return
        # The local store's own unfinished files are in no listing, so nobody would delete what a crash left of them.
        path = self._root / (key + UNFINISHED)
        await _reached(store.put_async(key + UNFINISHED, b""))
        try:
            with await _reached(asyncio.to_thread(path.open, "wb")) as file:
                async for part in parts:
                    await _reached(asyncio.to_thread(file.write, part))
            await _reached(asyncio.to_thread(_finish, self._root, path, self._root / key))
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    async def size(self, key: str) -> int | None:
        """The object's size in bytes, None when there is none. Raises `Unavailable("objects")`."""
        _check(key)
        try:
            return (await _reached(self._opened().head_async(key)))["size"]
        except FileNotFoundError:
            return None

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes [start, end) of an object in parts of 8 MiB at most, as fast as they are taken.

        Raises `Unavailable("objects")`, FileNotFoundError when the object is not there or has fewer bytes.
        """
        # A range behind the end is an error like any other to the store.
        if (await self.size(key) or 0) < end:
            raise FileNotFoundError(key)
        while start < end:
            length = min(PART_BYTES, end - start)
            yield bytes(await _reached(self._opened().get_range_async(key, start=start, length=length)))
            start += length

    async def get(self, key: str) -> bytes | None:
        """The object's bytes, None when there is none. Raises `Unavailable("objects")`."""
        _check(key)
        try:
            found = await _reached(self._opened().get_async(key))
            return bytes(await _reached(found.bytes_async()))
        except FileNotFoundError:
            return None

    async def delete(self, key: str) -> None:
        """Delete the object if it is there. Raises `Unavailable("objects")`."""
        _check(key)
        try:
            await _reached(self._opened().delete_async(key))
        except FileNotFoundError:
            return

    async def delete_all(self, prefix: str) -> int:
        """Delete every object under `prefix`, such as `ingest/<user_id>`; returns how many.

        Raises `Unavailable("objects")`, ValueError for an ill-formed prefix. Empty folders may stay.
        """
        _check(prefix)
        store = cast(Any, self._opened())  # its stub leaves the other kind of answer unknown
        found: list[dict[str, Any]] = await _reached(store.list(prefix).collect_async())
        for one in found:
            await self.delete(one["path"])
        return len(found)

    def _opened(self) -> LocalStore | S3Store:
        if self._store is None:
            try:
                self._store = LocalStore(prefix=self._root, mkdir=True)
            except (BaseError, OSError) as error:
                raise Unavailable("objects") from error
        return self._store


async def _reached(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        raise Unavailable("objects") from error


def _check(key: str) -> None:
    if KEY.fullmatch(key) is None:
        raise ValueError("an object's key is <service>/<user_id>/<sha256>")


def _finish(root: Path, path: Path, final: Path) -> None:
    path.replace(final)
    _sync(root, final)


def _sync(root: Path, path: Path) -> None:
    """The local store renames a finished file into place but syncs neither the file nor the folders."""
    for place in (path, *path.parents):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if place == root:
            break
