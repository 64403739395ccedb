"""Partners' API keys as auth keeps them: by hash, never the key.

A key has 178 random bits, so a fast hash is enough; its form and checksum are in `shared.identity`, which the
gateway uses to refuse junk without asking.
"""

import hashlib
from pathlib import Path

from shared.identity import is_api_key


def key_id(key: str) -> str:
    """What is stored of a key: its SHA-256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_key_file(path: Path) -> str:
    """The key in a file.

    Raises:
        ValueError: it is not a key of ours.
    """
    key = path.read_text().strip()
    if not is_api_key(key):
        raise ValueError(f"{path} holds no partner key")
    return key
