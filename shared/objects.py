"""Pictures and files by key: a local folder or an S3 bucket."""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from obstore.exceptions import BaseError
from obstore.store import LocalStore

from shared.errors import Unavailable
from shared.s3_objects import PART_BYTES, Bucket, S3Access, access_of
from shared.settings import ServiceSettings

T = TypeVar("T")
KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
FILE_SCHEME, S3_SCHEME = "file:///", "s3://"
# A streamed file bears this name until it is whole.
UNFINISHED = ".unfinished"
# As many are deleted at once, and are listed in one piece.
DELETED_AT_ONCE = 16
LISTED = 1000


def open_objects(settings: ServiceSettings) -> "Objects":
    """The objects where OBJECTS_URL says; nothing is asked yet.

    Raises:
        ValueError: the settings make no store; which, and what to set.
    """
    url = settings.objects_url
    return Objects(url, access_of(settings) if url.startswith(S3_SCHEME) else None)


class Objects:
    """Objects under keys `<service>/<user_id>/<sha256>`; an equal key means equal bytes, so a repeat does no harm.

    Streamed objects have keys `<service>/<user_id>/<kind>/<id>`; the last one written whole is the one that is there.

    `file:///folder` is a folder (`file:////folder` is absolute), `s3://bucket/prefix` a bucket that `access` leads to.
    What `put` returned from is durable: in a folder the object and the names that lead to it are synced.

    Raises:
        ValueError: no store for this address.
    """

    def __init__(self, url: str, access: S3Access | None = None) -> None:
        if url.startswith(FILE_SCHEME) and len(url) > len(FILE_SCHEME):
            self._place: Folder | Bucket = Folder(Path(url.removeprefix(FILE_SCHEME)).absolute())
        elif url.startswith(S3_SCHEME):
            self._place = Bucket(url, access or S3Access())
        else:
            raise ValueError("OBJECTS_URL must be file:///<folder> or s3://<bucket>/<prefix>")

    async def start(self) -> None:
        """Before a service starts: a store that is away may come back, one that refuses us ends the start.

        Raises:
            Unavailable: it refused the key or has no such bucket; the log says so.
        """
        await self._place.start()

    async def answers(self) -> None:
        """Raises `Unavailable("objects")` when the store cannot be used now; for readiness, cheap to ask."""
        await self._place.answers()

    async def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`. Raises `Unavailable("objects")`, ValueError for an ill-formed key."""
        _check(key)
        await self._place.put(key, data)

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> None:
        """Store all `parts` as one object, a few of them in memory; it is there once all are.

        Raises `Unavailable("objects")`, ValueError for an ill-formed key, and what `parts` raises.
        """
        _check(key)
        await self._place.put_stream(key, parts)

    async def size(self, key: str) -> int | None:
        """The object's size in bytes, None when there is none. Raises `Unavailable("objects")`."""
        _check(key)
        try:
            return await self._place.size(key)
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
            asked = self._place.store.get_range_async(key, start=start, length=length)
            part = bytes(await self._place.reached(asked, lacking=True))
            if len(part) != length:
                raise FileNotFoundError(key)
            yield part
            start += length

    async def get(self, key: str) -> bytes | None:
        """The object's bytes, None when there is none. Raises `Unavailable("objects")`."""
        _check(key)
        try:
            return await self._place.reached(self._whole(key), lacking=True)
        except FileNotFoundError:
            return None

    async def delete(self, key: str) -> None:
        """Delete the object if it is there. Raises `Unavailable("objects")`."""
        _check(key)
        try:
            await self._place.reached(self._place.store.delete_async(key), lacking=True)
        except FileNotFoundError:
            return

    async def delete_all(self, prefix: str) -> int:
        """Delete every object under `prefix`, such as `ingest/<user_id>`; returns how many.

        Raises `Unavailable("objects")`, ValueError for an ill-formed prefix. Empty folders may stay.
        """
        _check(prefix)
        keys: list[str] = []
        store = cast(Any, self._place.store)  # its stub leaves the other kind of answer unknown
        pages = aiter(store.list(prefix, chunk_size=LISTED))
        while page := await self._place.reached(_next(pages)):
            keys += [one["path"] for one in page]
        for first in range(0, len(keys), DELETED_AT_ONCE):
            await asyncio.gather(*map(self.delete, keys[first : first + DELETED_AT_ONCE]))
        return len(keys)

    async def _whole(self, key: str) -> bytes:
        found = await self._place.store.get_async(key)
        return bytes(await found.bytes_async())


class Folder:
    """A folder of this machine, made when it is first used."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened: LocalStore | None = None

    @property
    def store(self) -> LocalStore:
        """The open store. Raises `Unavailable("objects")`."""
        if self._opened is None:
            try:
                self._opened = LocalStore(prefix=self._root, mkdir=True)
            except (BaseError, OSError) as error:
                raise Unavailable("objects") from error
        return self._opened

    async def start(self) -> None:
        """A folder refuses nobody for good."""

    async def answers(self) -> None:
        """Raises `Unavailable("objects")` when nothing can be written into it."""
        await asyncio.to_thread(lambda: self.store)
        if not await asyncio.to_thread(os.access, self._root, os.W_OK | os.X_OK):
            raise Unavailable("objects")

    async def put(self, key: str, data: bytes) -> None:
        """Store it, synced."""
        await self.reached(self.store.put_async(key, data))
        await self.reached(asyncio.to_thread(_sync, self._root, self._root / key))

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> None:
        """Store the parts as one object, synced."""
        # The local store's own unfinished files are in no listing, so nobody would delete what a crash left of them.
        path = self._root / (key + UNFINISHED)
        await self.reached(self.store.put_async(key + UNFINISHED, b""))
        try:
            with await self.reached(asyncio.to_thread(path.open, "wb")) as file:
                async for part in parts:
                    await self.reached(asyncio.to_thread(file.write, part))
            await self.reached(asyncio.to_thread(_finish, self._root, path, self._root / key))
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    async def size(self, key: str) -> int:
        """The object's size in bytes. Raises FileNotFoundError."""
        return (await self.reached(self.store.head_async(key), lacking=True))["size"]

    async def reached(self, answer: Awaitable[T], *, lacking: bool = False) -> T:
        """What the disk answers. Raises `Unavailable("objects")`, FileNotFoundError with `lacking`."""
        try:
            return await answer
        except (BaseError, OSError) as error:
            if lacking and isinstance(error, FileNotFoundError):
                raise
            raise Unavailable("objects") from error


async def _next(pages: AsyncIterator[Any]) -> Sequence[dict[str, Any]]:
    """The next page of a listing, empty after the last one."""
    # `anext` with a default, and what ends these pages, end in a SystemError together.
    try:
        return cast(Sequence[dict[str, Any]], await anext(pages))
    except StopAsyncIteration:
        return ()


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
