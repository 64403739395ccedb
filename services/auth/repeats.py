"""Requests that come again under their Idempotency-Key."""

from shared.errors import Problem


def key_reused() -> Problem:
    """Another request was sent under the same Idempotency-Key."""
    return Problem(422, "idempotency-key-reused", "This Idempotency-Key was used with another body. Take a fresh key.")
