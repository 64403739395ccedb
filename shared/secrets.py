"""Secrets at rest: each is sealed under a data key of its own, which the operator's key-encryption key (KEK) wraps.

A sealed secret is 77 bytes longer than the plain one:

| offset | bytes  | what                                                                        |
|--------|--------|-----------------------------------------------------------------------------|
| 0      | 1      | version of this format, 1                                                   |
| 1      | 8      | id of the KEK: HMAC-SHA256 of `mymacrotracker kek id` under the KEK, cut     |
| 9      | 40     | the data key (AES-256), wrapped by the KEK: AES-KW, RFC 3394                |
| 49     | 12     | random nonce                                                                |
| 61     | n + 16 | the secret under AES-256-GCM, then the tag                                  |

The tag also covers everything before the nonce and the place: collection, field, document id and user id, each as the
length of its UTF-8 (4 bytes, big-endian) and the UTF-8 itself. So what was sealed in one place opens in no other.
"""

import hmac
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from shared.settings import ServiceSettings

KEY_BYTES = 32
VERSION = 1
KEY_ID = slice(1, 9)
WRAPPED = slice(9, 49)
NONCE = slice(49, 61)
SEALED = slice(61, None)
SHORTEST = 61 + 16
log = logging.getLogger(__name__)


class KeysRefused(ValueError):
    """The key-encryption keys cannot be read or are none; the text says which file and why, and shows no key."""


class CannotOpen(Exception):
    """This is no sealed secret of this place: damaged, or sealed for another document, field or user."""


class UnknownKey(CannotOpen):
    """It was sealed under a key-encryption key that we do not have (any more); the text names the key's id."""


@dataclass(frozen=True, repr=False)
class Keys:
    """The key-encryption keys by their ids, the newest first: that one seals, all of them open."""

    by_id: dict[bytes, bytes]

    @property
    def newest(self) -> bytes:
        """The id of the key that seals."""
        return next(iter(self.by_id))


class Secrets:
    """Seals and opens small secrets. `keys` is asked every time, so that a key added to the file counts at once."""

    def __init__(self, keys: Callable[[], Keys]) -> None:
        self._keys = keys

    def seal(self, plain: bytes, *, collection: str, field: str, document_id: str, user_id: str = "") -> bytes:
        """`plain`, readable only with our keys and only in this place; never twice the same bytes."""
        keys = self._keys()
        data_key, nonce = token_bytes(KEY_BYTES), token_bytes(12)
        header = bytes((VERSION,)) + keys.newest + aes_key_wrap(keys.by_id[keys.newest], data_key)
        place = _encoded(collection, field, document_id, user_id)
        return header + nonce + AESGCM(data_key).encrypt(nonce, plain, header + place)

    def open(self, sealed: bytes, *, collection: str, field: str, document_id: str, user_id: str = "") -> bytes:
        """The plain secret that was sealed for this place.

        Raises:
            UnknownKey: we do not have its key-encryption key.
            CannotOpen: it is damaged, or was sealed for another place.
        """
        kek = self._keys().by_id.get(key_id(sealed))
        if kek is None:
            raise UnknownKey(f"the key-encryption key {key_id(sealed).hex()} is not among ours")
        header, place = sealed[: NONCE.start], _encoded(collection, field, document_id, user_id)
        try:
            data_key = aes_key_unwrap(kek, sealed[WRAPPED])
            return AESGCM(data_key).decrypt(sealed[NONCE], sealed[SEALED], header + place)
        except (InvalidUnwrap, InvalidTag):
            # Without the cause: it has nothing to add, and traces of it are best left out of logs.
            raise CannotOpen("the sealed secret is damaged, or was sealed for another place") from None

    def is_stale(self, sealed: bytes) -> bool:
        """Whether a newer key would seal it today: seal it anew with the next write.

        Raises:
            CannotOpen: these bytes are no sealed secret.
        """
        return key_id(sealed) != self._keys().newest


class KeyFile:
    """The keys of a file, read again whenever the file has changed."""

    def __init__(self, path: Path, called: str = "") -> None:
        """`called`: as in `read_keys`."""
        self._path = path
        self._called = called
        self._seen = _signature(path)
        self._keys = read_keys(path, called)

    def keys(self) -> Keys:
        """What the file holds now; while it cannot be read, what it held before."""
        seen = _signature(self._path)
        if seen != self._seen:
            self._seen = seen
            try:
                self._keys = read_keys(self._path, self._called)
            except KeysRefused as error:
                log.error("the changed keys are not taken over: %s", error)
            else:
                log.info("%d key-encryption keys, the newest is %s", len(self._keys.by_id), self._keys.newest.hex())
        return self._keys


def open_secrets(settings: ServiceSettings) -> Secrets:
    """With the keys of SECRETS_KEYS, else of the file at SECRETS_KEY_PATH.

    Raises:
        KeysRefused: there are none, they are malformed, or others may read the file.
    """
    text = settings.secrets_keys.get_secret_value()
    if text:
        keys = parse_keys(text, "SECRETS_KEYS")
        return Secrets(lambda: keys)
    return Secrets(KeyFile(settings.secrets_key_path, "the key file of SECRETS_KEY_PATH").keys)


def secrets_from_file(path: Path) -> Secrets:
    """With the keys of this file, which may change while we run. Raises KeysRefused."""
    return Secrets(KeyFile(path).keys)


def key_id(sealed: bytes) -> bytes:
    """The id (8 bytes) of the key-encryption key. Raises CannotOpen: these bytes are no sealed secret."""
    if len(sealed) < SHORTEST or sealed[0] != VERSION:
        raise CannotOpen("this is no sealed secret of a format we know")
    return sealed[KEY_ID]


def parse_keys(text: str, source: str) -> Keys:
    """Keys of 64 hex digits, the newest first, between them spaces, commas or line ends; `#` starts a comment.

    Raises:
        KeysRefused: there is none, one is malformed, or one comes twice; `source` is named.
    """
    by_id: dict[bytes, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for word in line.partition("#")[0].replace(",", " ").split():
            key = _key(word, f"{source}, line {number}")
            identity = hmac.digest(key, b"mymacrotracker kek id", "sha256")[:8]
            if identity in by_id:
                raise KeysRefused(f"{source}, line {number}: this key is there twice")
            by_id[identity] = key
    if not by_id:
        raise KeysRefused(f"{source} holds no key; one is 64 hex digits, such as `openssl rand -hex 32` makes")
    return Keys(by_id)


def read_keys(path: Path, called: str = "") -> Keys:
    """The keys in a file that only its owner may read. `called`: what errors say in place of its path.

    Raises:
        KeysRefused: it is not there, is not ours alone, or holds no keys.
    """
    file_name = called or f"the key file {path}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, encoding="ascii") as file:
            _check_owner(file_name, os.fstat(descriptor))
            return parse_keys(file.read(), called or str(path))
    except FileNotFoundError:
        raise KeysRefused(
            f"{file_name} is not there; put it back from your backup or, on a new system, make one: "
            "docs/secrets.md says how"
        ) from None
    except OSError as error:
        raise KeysRefused(f"{file_name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeysRefused(f"{file_name} is not a text of hex digits") from None


def _check_owner(file_name: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise KeysRefused(f"{file_name} is not a file")
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise KeysRefused(f"others may use {file_name} (mode {mode:04o}); run chmod 600 on it")
    if found.st_uid not in (0, os.geteuid()):
        raise KeysRefused(f"{file_name} belongs to another account; chown it to the one that runs the service")


def _key(word: str, place: str) -> bytes:
    try:
        key = bytes.fromhex(word)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeysRefused(f"{place}: a key is {2 * KEY_BYTES} hex digits")
    return key


def _signature(path: Path) -> tuple[int, ...]:
    """Differs when the file was written or replaced; empty while it is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _encoded(*parts: str) -> bytes:
    """One spelling per list of texts: each behind its length, so that ("ab", "c") is not ("a", "bc")."""
    encoded = (part.encode() for part in parts)
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
