"""Endpoints' signing secrets: sealed in the database, plain only to be shown once and to sign."""

from typing import Any

from shared.secrets import Secrets

COLLECTION, FIELD = "webhooks.endpoints", "secret"
# Before a secret that an earlier release stored as it was. A sealed one begins with its format's version, 1 or more.
PLAIN = b"\x00"


def marked_plain(raw: dict[str, Any]) -> dict[str, Any]:
    """Upgrades an endpoint of model version 1, whose secret is not sealed."""
    return raw | {FIELD: PLAIN + raw[FIELD]}


class EndpointKeys:
    """Seals an endpoint's secret for this endpoint of this partner."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def seal(self, secret: bytes, endpoint_id: str, partner_id: str) -> bytes:
        """What is stored of `secret`."""
        return self._secrets.seal(
            secret, collection=COLLECTION, field=FIELD, document_id=endpoint_id, user_id=partner_id
        )

    def open(self, stored: bytes, endpoint_id: str, partner_id: str) -> bytes:
        """The secret itself. Raises CannotOpen: damaged, another endpoint's, or its key is gone."""
        if stored.startswith(PLAIN):
            return stored.removeprefix(PLAIN)
        return self._secrets.open(
            stored, collection=COLLECTION, field=FIELD, document_id=endpoint_id, user_id=partner_id
        )

    def is_stale(self, stored: bytes) -> bool:
        """Whether it is to be sealed anew: it is plain, or an older key sealed it. Raises CannotOpen."""
        return stored.startswith(PLAIN) or self._secrets.is_stale(stored)
