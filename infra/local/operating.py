"""How operators' commands ask a service itself: at GATEWAY_<SERVICE>_URL with the key of GATEWAY_INTERNAL_KEY_PATH,
else on this machine's stack. The gateway has no route to what they ask.
"""

import json
import os
import urllib.error
import urllib.request
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from infra.local.instance import from_environment

ANSWER_S = 10.0
# Longer than any sentence of ours: the longest lists the kinds of the audit log.
DETAIL_CHARS = 4_000


class NoAnswer(Exception):
    """The service is away, or refuses; the message is a sentence for people."""


class Silent(NoAnswer):
    """It is away; it may or may not have heard."""


class Closed(Silent):
    """Nobody listens there, so nobody heard."""


def asked(service: str, method: str, path: str, body: dict[str, Any] | None = None, key: str = "") -> dict[str, Any]:
    """The answer of `service`, such as auth: of the first of its processes that listens. `key` is the Idempotency-Key.

    Raises:
        Silent: there is none.
        NoAnswer: it refuses, or our key is not there.
    """
    from shared.internal_tokens import InternalTokenSigner

    stack = from_environment()
    said = os.environ.get(f"GATEWAY_{service.upper()}_URL", "")
    urls = [url.strip().rstrip("/") for url in said.split(",") if url.strip()] or stack.urls(service)
    key_path = Path(os.environ.get("GATEWAY_INTERNAL_KEY_PATH") or stack.keys / "internal.jwk")
    try:
        token = InternalTokenSigner(key_path).operator_token(service)
    except (OSError, ValueError) as error:
        raise NoAnswer(f"The gateway's key {key_path} can't be read; GATEWAY_INTERNAL_KEY_PATH names it.") from error
    for url in urls[:-1]:
        with suppress(Closed):
            return answered(service, url, method, path, token, body, key)
    return answered(service, urls[-1], method, path, token, body, key)


def answered(
    service: str, url: str, method: str, path: str, token: str, body: dict[str, Any] | None = None, key: str = ""
) -> dict[str, Any]:
    """The answer of `service` at `url` to whoever holds `token`; empty where it has no body. Raises as `asked`."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Idempotency-Key": key or "-"}
    request = urllib.request.Request(  # noqa: S310 - the operator's own address
        url + path, None if body is None else json.dumps(body).encode(), headers, method=method
    )
    # A proxy from the environment has no business between our own parts.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_S) as answer:
            return {} if answer.status == HTTPStatus.NO_CONTENT else json.load(answer)
    except urllib.error.HTTPError as error:
        detail = _detail(error.read())
        raise NoAnswer(f"{service.capitalize()} at {url} answers {error.code}: {detail}") from error
    except (OSError, ValueError) as error:
        refused = isinstance(getattr(error, "reason", None), ConnectionRefusedError)
        raise (Closed if refused else Silent)(
            f"{service.capitalize()} at {url} does not answer; see ./mymacro status."
        ) from error


def _detail(answer: bytes) -> str:
    from infra.local.dead_letters import printable

    try:
        return printable(str(json.loads(answer)["detail"]), DETAIL_CHARS)
    except (ValueError, KeyError, TypeError):
        return printable(answer.decode(errors="replace"))
