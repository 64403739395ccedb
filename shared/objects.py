"""Pictures and files by key: a local folder or an S3 bucket."""

import asyncio
import os
import re
from collections.abc import Awaitable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from shared.errors import Unavailable

T = TypeVar("T")
KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
FILE_SCHEME = "file:///"


class Objects:
    """Objects under keys `<service>/<user_id>/<sha256>`; an equal key means equal bytes, so a repeat does no harm.

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
