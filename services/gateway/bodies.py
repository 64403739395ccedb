"""Compressed bodies, taken apart while they arrive and never beyond a limit, so a bomb costs no more than the limit."""

import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

from backports import zstd

from shared.errors import Problem

# RFC 9659: who sends zstd over HTTP keeps to windows of 8 MiB; the window is what a decoder must hold.
LARGEST_WINDOW_LOG = 23
# A body may be several compressed members in a row (RFC 1952 §2.2, RFC 8878 §3.1); empty ones cost time, not length.
MAX_MEMBERS = 256


class Member(Protocol):
    """One gzip member or zstd frame."""

    @property
    def eof(self) -> bool:
        """Whether its end has come."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What came after its end."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes. Raises the decoder's own error."""
        ...


class _Gzip:
    """zlib's decoder, which gives back what it had no room for."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decoder.decompress(data, max_length)


class _Zstd:
    """The zstd decoder with a bounded window."""

    def __init__(self) -> None:
        self._decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: LARGEST_WINDOW_LOG})

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decoder.decompress(data, max_length)


CODINGS: Mapping[str, Callable[[], Member]] = {"gzip": _Gzip, "x-gzip": _Gzip, "zstd": _Zstd}


class Unpacked:
    """A body of the given coding as it arrives: `add` its parts, then `whole`."""

    def __init__(self, coding: str, limit: int) -> None:
        self._coding = coding
        self._limit = limit
        self._member: Member = CODINGS[coding]()
        self._members = 1
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """Take the next part.

        Raises:
            Problem: 413 more than the limit comes out of it, 400 it is not of this coding.
        """
        try:
            self._add(data)
        except (zlib.error, zstd.ZstdError) as error:
            raise self._broken("is not that, or is damaged") from error

    def _add(self, data: bytes) -> None:
        while data:
            if self._member.eof:
                self._next_member()
            # One byte beyond the limit is enough to know.
            part = self._member.decompress(data, self._limit + 1 - self._size)
            self._parts.append(part)
            self._size += len(part)
            if self._size > self._limit:
                raise too_large(self._limit)
            data = self._member.unused_data if self._member.eof else b""

    def _next_member(self) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise self._broken(f"has more than {MAX_MEMBERS} members; compress it as one")
        self._member = CODINGS[self._coding]()

    def whole(self) -> bytes:
        """The whole body. Raises Problem(400) when its end is missing."""
        if not self._member.eof:
            raise self._broken("is cut off")
        return b"".join(self._parts)

    def _broken(self, how: str) -> Problem:
        return Problem(
            400,
            "broken-compression",
            f"Content-Encoding says {self._coding}, but the body {how}. Send it anew, or uncompressed.",
        )


def too_large(limit: int) -> Problem:
    """413 of a body beyond `limit` bytes."""
    # The connection stays: uvicorn swallows the rest. Closed, it would be reset under a client that is still sending,
    # which then sees an error of its network instead of this answer.
    return Problem(
        413,
        "body-too-large",
        f"Send at most {limit} bytes in one request, counted uncompressed; split what is larger.",
        limit_bytes=limit,
    )
