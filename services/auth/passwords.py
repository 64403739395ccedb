"""Passwords: Argon2id in a bounded pool, with equal answers and times for users that do not exist."""

import asyncio
import unicodedata
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from services.auth.blocklist import is_common
from shared.errors import Problem

# NIST 800-63B-4 §3.1.1.2: alone, and beside a second factor.
MIN_CHARACTERS = 15
MIN_CHARACTERS_OF_TWO = 8
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
        # Made now: made at the first unknown user, it would tell that one by its time.
        self._nobodys = self._hasher.hash("the hash of nobody's password")

    async def hash(self, password: str) -> str:
        """The hash to store. Raises Problem(503) when too many callers wait."""
        with self._place():
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._hasher.hash, prepared(password))

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
        try:
            return self._hasher.verify(stored or self._nobodys, prepared(password)) and stored is not None
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


def prepared(password: str) -> bytes:
    """What is hashed, whole: the bytes of form NFC, so that keyboards that compose "é" differently agree.

    NFC as in RFC 8265 (OpaqueString): unlike NFKC it makes no two different characters the same.
    """
    return unicodedata.normalize("NFC", password).encode(errors="surrogatepass")


def check_acceptable(password: str, *, two_factors: bool = False, context: Sequence[str] = ()) -> None:
    """Raise Problem(422) for a password that we do not take (NIST 800-63B-4: length and a list, no composition).

    `context` are words that others know of the user, such as the address; `two_factors`: a second one is enrolled.
    """
    check_text(password)
    check_length(password, two_factors=two_factors)
    if is_common(password, context):
        raise Problem(
            422,
            "password-too-common",
            "Guessers try this password early: it is made of well-known passwords, sequences, or of your address. "
            "Take several unrelated words, or let a password manager make one.",
        )


def check_text(password: str) -> None:
    """Raise Problem(422) for what is no text, has control characters, or is longer than 1,024 bytes."""
    try:
        size = len(password.encode())
    except UnicodeEncodeError as error:
        raise Problem(422, "password-not-text", "Send the password as text, without half a surrogate pair.") from error
    if size > MAX_BYTES:
        raise Problem(422, "password-too-long", f"Take a password of at most {MAX_BYTES} bytes.")
    if any(unicodedata.category(character) == "Cc" for character in password):
        raise Problem(
            422, "password-not-printable", "Leave out tabs, line ends and other control characters; spaces are fine."
        )


def check_length(password: str, *, two_factors: bool = False) -> None:
    """Raise Problem(422) for a password of fewer than 15 characters, or 8 beside a second factor."""
    least = MIN_CHARACTERS_OF_TWO if two_factors else MIN_CHARACTERS
    if len(unicodedata.normalize("NFC", password)) < least:
        raise Problem(422, "password-too-short", f"Take a password of at least {least} characters; a sentence is good.")
