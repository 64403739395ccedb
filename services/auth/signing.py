"""The keys of access tokens: one signs, the next is published before it does, the last until its tokens are over.

They lie beside each other: `auth.jwk` is the first, `auth-<seconds>.jwk` signs from that moment on (seconds since
1970). Which key does what follows from the names and the clock, so several processes agree without a word, and no
file ever changes.
"""

import json
import logging
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from joserfc.jwk import OKPKey

from shared.access_tokens import ACCESS_LIFETIME_S
from shared.keys import load_private_jwk, new_private_jwk, public_jwks, write_once

# A gateway reads the key set again after 300 s, and auth its folder after 10 s.
PUBLISHED_AHEAD = timedelta(minutes=10)
# Of the last token that a key signed, with a minute for the clocks of several machines.
TOKENS_LAST = timedelta(seconds=ACCESS_LIFETIME_S + 60)
READ_AGAIN_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """A key, and from when on it signs, in seconds since 1970."""

    key: OKPKey
    signs_from: int


class SigningKeys:
    """The keys beside `first`, read again when more of them lie there.

    Raises:
        ValueError: one of them is no Ed25519 private key.
        OSError: the first one cannot be read.
    """

    def __init__(self, first: Path) -> None:
        self._first = first
        self._paths = _paths(first)
        self._keys = [_read(first, path) for path in self._paths]
        self._read_at = 0.0

    def signing(self, now: datetime) -> OKPKey:
        """The key that signs at `now`: the newest one whose time has come."""
        due = [key for key in self._known(now) if key.signs_from <= now.timestamp()]
        return due[-1].key

    def jwks(self, now: datetime) -> dict[str, Any]:
        """The public keys of all tokens that are good at `now`, and of those soon to be signed, as a JWK set."""
        keys = self._known(now)
        ended = now.timestamp() - TOKENS_LAST.total_seconds()
        kept = [key for key, after in pairwise(keys) if after.signs_from > ended]
        return public_jwks(key.key for key in (*kept, keys[-1]))

    def _known(self, now: datetime) -> list[Key]:
        if abs(now.timestamp() - self._read_at) >= READ_AGAIN_S:
            self._read_at = now.timestamp()
            try:
                paths = _paths(self._first)
                if paths != self._paths:
                    self._keys = [_read(self._first, path) for path in paths]
                    self._paths = paths
            except (OSError, ValueError) as error:
                # Those that are known go on; a key signs minutes after it was put there, which is time to mend it.
                log.error("the signing keys cannot be read again: %s", type(error).__name__)
        return self._keys


def add_key(first: Path, now: datetime) -> tuple[Path, datetime]:
    """Put a fresh key beside `first`: its file, and from when on it signs.

    Raises:
        OSError: there is no `first`, or the key cannot be written.
    """
    signs_from = int((now + PUBLISHED_AHEAD).timestamp())
    path = first.with_name(f"{first.stem}-{signs_from}{first.suffix}")
    owner = first.stat()
    write_once(path, lambda: json.dumps(new_private_jwk()))
    # Root may rotate for the account that runs auth; until then auth tries again every 10 s.
    os.chown(path, owner.st_uid, owner.st_gid)
    return path, datetime.fromtimestamp(signs_from, now.tzinfo)


def _paths(first: Path) -> list[Path]:
    """The key files, the one that signs last at the end."""
    later = [path for path in first.parent.glob(f"{first.stem}-*{first.suffix}") if _signs_from(first, path) > 0]
    return [first, *sorted(later, key=lambda path: _signs_from(first, path))]


def _signs_from(first: Path, path: Path) -> int:
    """When a file's key starts to sign; 0 for the first one and for files that only look alike."""
    seconds = path.stem.removeprefix(f"{first.stem}-")
    return int(seconds) if seconds.isascii() and seconds.isdigit() else 0


def _read(first: Path, path: Path) -> Key:
    return Key(load_private_jwk(path), _signs_from(first, path))
