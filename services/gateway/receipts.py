"""Receipt and photo ids that need no state: the same request gives the same id, and only its user's id is valid.

An id is a prefix and base32 of a 16-byte MAC over (user, route, Idempotency-Key, SHA-256 of the body) and an 8-byte
tag over (user, MAC). So another body under the same key is another id, and a foreign or made-up one is seen at once.
"""

import base64
import binascii
import hashlib
import hmac
import re
from urllib.parse import parse_qsl

from shared.errors import Problem

RECEIPT_PREFIX = "rcp_"
PHOTO_PREFIX = "pho_"
MAC_BYTES = 16
TAG_BYTES = 8
ID_CHARACTERS = 39
WAIT = re.compile(r"(\d{1,5}(?:\.\d{1,3})?)(s|ms)?", re.ASCII)
LONGEST_WAIT_S = 10


class Ids:
    """Makes and checks ids under one secret of 32 bytes, which every gateway shares."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("the receipt secret needs 32 bytes")
        self._secret = secret

    def make(self, prefix: str, user_id: str, route: str, key: str, body: bytes) -> str:
        """The id of this request."""
        mac = self._mac(MAC_BYTES, b"id", user_id.encode(), route.encode(), key.encode(), hashlib.sha256(body).digest())
        raw = mac + self._tag(user_id, mac)
        return prefix + base64.b32encode(raw).decode().rstrip("=").lower()

    def belongs(self, prefix: str, user_id: str, given: str) -> bool:
        """Whether `given` is an id that `make` gave this user."""
        body = given.removeprefix(prefix)
        if body == given or len(body) != ID_CHARACTERS or body != body.lower():
            return False
        try:
            raw = base64.b32decode(body.upper() + "=")
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(raw[MAC_BYTES:], self._tag(user_id, raw[:MAC_BYTES]))

    def _tag(self, user_id: str, mac: bytes) -> bytes:
        return self._mac(TAG_BYTES, b"tag", user_id.encode(), mac)

    def _mac(self, size: int, *parts: bytes) -> bytes:
        """Each part goes in with its length, so no two lists of parts look alike."""
        message = b"".join([len(part).to_bytes(4, "big") + part for part in parts])
        return hmac.digest(self._secret, message, "sha256")[:size]


def wait_s(query: bytes) -> float:
    """How long the query's `wait` (`2`, `2s`, `500ms`) says that the answer may take, 0 where there is none.

    Raises:
        Problem: 422, it is something else, or longer than 10 s.
    """
    if b"wait" not in query:
        return 0
    given = [value for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if name == "wait"]
    if not given:
        return 0
    found = WAIT.fullmatch(given[0])
    seconds = -1.0 if found is None else float(found[1]) / (1000 if found[2] == "ms" else 1)
    if len(given) > 1 or not 0 <= seconds <= LONGEST_WAIT_S:
        raise Problem(422, "invalid-wait", f"Write wait once, as 2s or 500ms, at most {LONGEST_WAIT_S}s.")
    return seconds
