"""Key material: Ed25519 keys as JWK files, JWK sets, partners' API keys, and the files a fresh system needs."""

import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from shared.ids import derived_id

ALGORITHM = "EdDSA"  # the name that other libraries know: ADR 20
API_KEY_PREFIX = "mmt_"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def load_private_jwk(path: Path) -> OKPKey:
    """The Ed25519 private key in a JWK file, its `kid` being the RFC 7638 thumbprint.

    Raises:
        ValueError: the file is no such key.
    """
    try:
        key = OKPKey.import_key(json.loads(path.read_text()))
    except (JoseError, ValueError, TypeError, AttributeError) as error:  # joserfc takes anything for a dict
        raise ValueError(f"{path} is not an Ed25519 private key") from error
    if not key.is_private or key.curve_name != "Ed25519":
        raise ValueError(f"{path} is not an Ed25519 private key")
    return _with_thumbprint(key)


def public_jwks(keys: Iterable[OKPKey]) -> dict[str, Any]:
    """The public halves as a JWK set document."""
    documents = [{**key.as_dict(private=False), "alg": ALGORITHM, "use": "sig"} for key in keys]
    return {"keys": documents}


def load_jwks(document: dict[str, Any]) -> KeySet:
    """The Ed25519 keys of a JWK set document; others are left out.

    Raises:
        ValueError: the document is no JWK set.
    """
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ValueError("not a JWK set")
    keys: list[Any] = []
    for entry in cast(list[dict[str, Any]], entries):
        if entry.get("kty") == "OKP" and entry.get("crv") == "Ed25519":
            keys.append(OKPKey.import_key({name: entry[name] for name in ("kty", "crv", "x", "kid") if name in entry}))
    return KeySet(keys)


def new_api_key() -> str:
    """A fresh partner key: `mmt_`, 30 random base62 characters (178 bits), 6 of CRC32."""
    return new_credential(API_KEY_PREFIX)


def new_credential(prefix: str) -> str:
    """A fresh secret of a partner's under the prefix that names its kind, which secret scanners look for."""
    body = "".join(secrets.choice(BASE62) for _ in range(30))
    return prefix + body + checksum(body)


def is_api_key(text: str) -> bool:
    """Whether `text` has the form and checksum of a partner key; junk is refused without a look-up."""
    body = text.removeprefix(API_KEY_PREFIX)
    if body == text or len(body) != 36 or not all(character in BASE62 for character in body):
        return False
    return checksum(body[:30]) == body[30:]


def api_key_id(key: str) -> str:
    """What a partner calls its key, and gateways know it by: nothing of the key can be told from it."""
    return derived_id("partner-key", hashlib.sha256(key.encode()).hexdigest())


def generate_key_files(folder: Path) -> None:
    """Make the key files that are missing in `folder`, readable by the owner alone; existing ones stay."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("internal.jwk", "auth.jwk"):
        write_once(folder / name, lambda: json.dumps(new_private_jwk()))
    internal = load_private_jwk(folder / "internal.jwk")
    write_once(folder / "internal-jwks.json", lambda: json.dumps(public_jwks([internal])))
    for name in ("receipts.key", "auth-pepper.key", "secrets.key"):
        write_once(folder / name, lambda: secrets.token_hex(32))
    write_once(folder / "demo-partner.key", new_api_key)


def write_once(path: Path, content: Callable[[], str]) -> None:
    """Write a file that the owner alone can read, unless it exists; seen by others whole or not at all."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content() + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link, not a rename: of two makers at once the first wins, and no key ever changes.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def new_private_jwk() -> dict[str, Any]:
    """A fresh Ed25519 key as a JWK, its `kid` being the RFC 7638 thumbprint."""
    return dict(_with_thumbprint(OKPKey.generate_key("Ed25519")).as_dict(private=True))


def _with_thumbprint(key: OKPKey) -> OKPKey:
    document = {name: value for name, value in key.as_dict(private=True).items() if name in ("kty", "crv", "x", "d")}
    return OKPKey.import_key({**document, "kid": key.thumbprint()})


def checksum(body: str) -> str:
    """The CRC32 of `body` as 6 base62 characters."""
    value = zlib.crc32(body.encode())
    digits = ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        digits = BASE62[digit] + digits
    return digits
