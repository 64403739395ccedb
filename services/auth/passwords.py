"""Passwords: Argon2id in a bounded pool, with equal answers and times for users that do not exist."""

import asyncio
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from shared.errors import Problem

MIN_CHARACTERS = 15
MAX_BYTES = 1024
# OWASP's minimum; 22 ms and 19 MiB a hash on two cores.
MEMORY_KIB = 19 * 1024
PASSES = 2
LANES = 1


class Passwords:
    """Hashes and checks passwords, `threads` at a time, with at most `queue` callers waiting.

    Each hash takes 19 MiB, so the bound is also the bound on memory.
    """

    def __init__(self, *, threads: int = 2, queue: int = 64, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._limit = threads + queue
        self._under_way = 0
        self._dummy: str | None = None

    async def hash(self, password: str) -> str:
        """The hash to store. Raises Problem(503) when too many callers wait."""
        with self._place():
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether `password` made the hash `stored`; as slow when there is none. Raises Problem(503) as above."""
        with self._place():
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._verify, stored, password)

    def needs_rehash(self, stored: str) -> bool:
        """Whether `stored` was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _verify(self, stored: str | None, password: str) -> bool:
        if self._dummy is None:
            self._dummy = self._hasher.hash("the hash of nobody's password")
        try:
            return self._hasher.verify(stored or self._dummy, password) and stored is not None
        except (VerificationError, InvalidHashError):
            return False

    @contextmanager
    def _place(self) -> Generator[None, None, None]:
        if self._under_way >= self._limit:
            raise Problem(
                503, "too-busy", "Too many sign-ins at once. Try again shortly.", headers={"Retry-After": "1"}
            )
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1


def check_acceptable(password: str) -> None:
    """Raise Problem(422) for a password we do not take at sign-up (NIST 800-63B-4: length alone counts)."""
    if len(password) < MIN_CHARACTERS:
        raise Problem(
            422, "password-too-short", f"Take a password of at least {MIN_CHARACTERS} characters; a sentence is good."
        )
    try:
        size = len(password.encode())
    except UnicodeEncodeError as error:
        raise Problem(422, "password-not-text", "Send the password as text, without half a surrogate pair.") from error
    if size > MAX_BYTES:
        raise Problem(422, "password-too-long", f"Take a password of at most {MAX_BYTES} bytes.")
