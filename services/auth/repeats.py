"""Requests that come again under their Idempotency-Key."""

import hashlib
import json

from shared.errors import Problem


def body_hash(*parts: object) -> str:
    """What two requests under one key must have in common; `parts` are JSON values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_same(known: str, asked: str) -> None:
    """Compare the hashes of two requests under one key; "" stands for one of which none was kept.

    Raises:
        Problem: 422, they differ.
    """
    if known not in ("", asked):
        raise key_reused()


def key_reused() -> Problem:
    """Another request was sent under the same Idempotency-Key."""
    return Problem(422, "idempotency-key-reused", "This Idempotency-Key was used with another body. Take a fresh key.")
