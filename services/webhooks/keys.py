"""Endpoints' signing keys: sealed in the database, plain only to be shown once and to sign."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.webhooks.signing import SigningKey, new_secret, shown
from shared.secrets import Secrets

COLLECTION = "webhooks.endpoints"
KeyKind = Literal["hmac", "ed25519"]
# Another place for another kind, so that no secret can be passed off as a seed.
FIELDS: dict[KeyKind, str] = {"hmac": "secret", "ed25519": "ed25519"}
# Before a secret that an earlier release stored as it was. A sealed one begins with its format's version, 1 or more.
PLAIN = b"\x00"


class EndpointKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of an endpoint: `sealed` holds the HMAC secret, or the seed of an ed25519 key.

    `public` is what partners verify with (`whpk_…`), None for HMAC. It signs until `expires_at`; None is for ever.
    `request_id`, `asked` and `overlap_s` recognise a repeat of the rotation that made it.
    """

    kind: KeyKind
    sealed: bytes
    created_at: datetime
    public: str | None = None
    expires_at: datetime | None = None
    request_id: str = ""
    asked: KeyKind | None = None
    overlap_s: int = 0

    def signs(self, now: datetime) -> bool:
        """Is it good at `now`?"""
        return self.expires_at is None or now < self.expires_at


def marked_plain(raw: dict[str, Any]) -> dict[str, Any]:
    """Upgrades an endpoint of model version 1, whose secret is not sealed."""
    return raw | {"secret": PLAIN + raw["secret"]}


def with_keys(raw: dict[str, Any]) -> dict[str, Any]:
    """Upgrades an endpoint of model version 2, which had one secret for ever and got full payloads."""
    secret = raw.pop("secret")
    return raw | {
        "keys": [{"kind": "hmac", "sealed": secret, "created_at": raw["created_at"]}],
        "payload": "full",
    }


class EndpointKeys:
    """Makes, seals and opens keys for one endpoint of one partner each."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def new(self, kind: KeyKind, endpoint_id: str, partner_id: str, at: datetime) -> EndpointKey:
        """A fresh key that signs from now on."""
        secret = new_secret()
        public = None if kind == "hmac" else shown(Ed25519PrivateKey.from_private_bytes(secret).public_key())
        sealed = self._seal(secret, kind, endpoint_id, partner_id)
        return EndpointKey(kind=kind, sealed=sealed, created_at=at, public=public)

    def open(self, key: EndpointKey, endpoint_id: str, partner_id: str) -> SigningKey:
        """The key itself. Raises CannotOpen: damaged, another endpoint's, or the key that sealed it is gone."""
        secret = self._plain(key, endpoint_id, partner_id)
        return secret if key.kind == "hmac" else Ed25519PrivateKey.from_private_bytes(secret)

    def shown(self, key: EndpointKey, endpoint_id: str, partner_id: str) -> str:
        """What the partner verifies with: `whsec_…` or `whpk_…`. Raises CannotOpen."""
        return key.public or shown(self._plain(key, endpoint_id, partner_id))

    def renewed(self, keys: Sequence[EndpointKey], endpoint_id: str, partner_id: str) -> tuple[EndpointKey, ...] | None:
        """All of them sealed anew where one is plain or an older key sealed it, else None. Raises CannotOpen."""
        if not any(key.sealed.startswith(PLAIN) or self._secrets.is_stale(key.sealed) for key in keys):
            return None
        plain = [self._plain(key, endpoint_id, partner_id) for key in keys]
        return tuple(
            msgspec.structs.replace(key, sealed=self._seal(secret, key.kind, endpoint_id, partner_id))
            for key, secret in zip(keys, plain, strict=True)
        )

    def _seal(self, secret: bytes, kind: KeyKind, endpoint_id: str, partner_id: str) -> bytes:
        return self._secrets.seal(
            secret, collection=COLLECTION, field=FIELDS[kind], document_id=endpoint_id, user_id=partner_id
        )

    def _plain(self, key: EndpointKey, endpoint_id: str, partner_id: str) -> bytes:
        if key.sealed.startswith(PLAIN):
            return key.sealed.removeprefix(PLAIN)
        return self._secrets.open(
            key.sealed, collection=COLLECTION, field=FIELDS[key.kind], document_id=endpoint_id, user_id=partner_id
        )
