"""How partners' commands ask the gateway: at MYMACRO_API_URL with MYMACRO_PARTNER_KEY, else this machine's stack."""

import os
from typing import Any

from infra.local.instance import from_environment
from infra.local.operating import NoAnswer, answered


def asked(method: str, path: str, body: dict[str, Any] | None = None, key: str = "") -> dict[str, Any]:
    """The gateway's answer; empty where it has no body. `key` is the Idempotency-Key.

    Raises:
        operating.Silent: there is none.
        NoAnswer: it refuses, or there is no key.
    """
    stack = from_environment()
    url = (os.environ.get("MYMACRO_API_URL") or stack.url).rstrip("/")
    token = os.environ.get("MYMACRO_PARTNER_KEY")
    try:
        token = token or (stack.keys / "demo-partner.key").read_text().strip()
    except OSError as error:
        raise NoAnswer("There is no partner's key: set MYMACRO_PARTNER_KEY, or run ./mymacro up once.") from error
    return answered("gateway", url, method, path, token, body, key)
