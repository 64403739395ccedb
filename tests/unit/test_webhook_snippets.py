"""The code in docs/webhooks.md, run as it stands there against what we sign."""

import base64
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.local.environment import ROOT
from services.webhooks.endpoint_models import NewEndpoint
from services.webhooks.public import OPERATIONAL, TYPES
from services.webhooks.signing import ED25519, HMAC, SigningKey, shown, signed_headers
from tests.service.webhook_npm import NODE

GUIDE = (ROOT / "docs" / "webhooks.md").read_text()
STAMP = 1772353800
BODY = '{"type":"day.updated","timestamp":"2026-03-01T08:30:00.000Z","data":{"note":"Gr\u00fc\u00dfe \u2615"}}'.encode()
SECRET, OTHER = bytes(range(32)), bytes(32)
PRIVATE = Ed25519PrivateKey.from_private_bytes(SECRET)
STRANGER = Ed25519PrivateKey.from_private_bytes(OTHER)
KEYS = [shown(SECRET), shown(PRIVATE.public_key())]
# Reads cases from its input, says for each whether it was let through.
HARNESS = """
import { verifyWebhook } from "./verify-webhook.mjs";
const cases = JSON.parse(await new Promise((told) => {
  let text = "";
  process.stdin.on("data", (part) => (text += part)).on("end", () => told(text));
}));
const answers = cases.map(({ keys, headers, body, now_s }) => {
  try {
    return JSON.stringify(verifyWebhook(keys, headers, Buffer.from(body, "base64"), now_s));
  } catch (error) {
    return error.constructor.name;
  }
});
console.log(JSON.stringify(answers));
"""


@dataclass(frozen=True)
class Case:
    """A delivery, what the partner holds, and when it comes."""

    name: str
    headers: dict[str, str]
    good: bool
    keys: tuple[str, ...] = tuple(KEYS)
    body: bytes = BODY
    now_s: float = STAMP

    def __str__(self) -> str:
        return self.name


def signed(*keys: SigningKey, **changed: str | None) -> dict[str, str]:
    headers: dict[str, str | None] = dict(signed_headers(keys, "msg_1", STAMP, BODY))
    headers |= {f"webhook-{name}": value for name, value in changed.items()}
    return {name: value for name, value in headers.items() if value is not None}


HMAC_ONE = signed(SECRET)["webhook-signature"]
ED_ONE = signed(PRIVATE)["webhook-signature"]
CASES = [
    Case("hmac", signed(SECRET), True),
    Case("ed25519", signed(PRIVATE), True),
    Case("both kinds during a rotation", signed(PRIVATE, SECRET), True, tuple(KEYS[:1])),
    Case("an old and a new secret", signed(OTHER, SECRET), True, tuple(KEYS[:1])),
    Case("one of a list fits", signed(SECRET, signature=f"v1,AAAA v2,{HMAC_ONE[3:]} v1a,AAAA {HMAC_ONE}"), True),
    Case("five minutes early", signed(SECRET), True, now_s=STAMP - 300),
    Case("five minutes late", signed(PRIVATE), True, now_s=STAMP + 300),
    Case("later still", signed(SECRET), False, now_s=STAMP + 301),
    Case("earlier still", signed(PRIVATE), False, now_s=STAMP - 301),
    Case("another body", signed(SECRET), False, body=BODY + b" "),
    Case("another body, ed25519", signed(PRIVATE), False, body=BODY + b" "),
    Case("another id", signed(SECRET, id="msg_2"), False),
    Case("no id", signed(SECRET, id=None), False),
    Case("no timestamp", signed(SECRET, timestamp=None), False),
    Case("no signature", signed(SECRET, signature=None), False),
    Case("an empty signature", signed(SECRET, signature=""), False),
    Case("a timestamp that is none", signed(SECRET, timestamp="hello"), False),
    Case("a timestamp with a sign", signed(SECRET, timestamp=f"+{STAMP}"), False),
    Case("a timestamp with a fraction", signed(SECRET, timestamp=f"{STAMP}.0"), False),
    Case("a stranger's secret", signed(OTHER), False),
    Case("a stranger's key", signed(STRANGER), False),
    Case("the public key as if it were a secret", signed(PRIVATE.public_key().public_bytes_raw()), False),
    Case("an unknown version", signed(SECRET, signature=HMAC_ONE.replace(HMAC, "v2")), False),
    Case("hmac called ed25519", signed(SECRET, signature=HMAC_ONE.replace(HMAC, ED25519)), False),
    Case("ed25519 called hmac", signed(PRIVATE, signature=ED_ONE.replace(ED25519, HMAC)), False),
    Case("garbage", signed(SECRET, signature="garbage"), False),
    Case("commas", signed(SECRET, signature="v1,a,b v1a,,"), False),
    Case("no base64", signed(SECRET, signature="v1,\u00ff v1a,***"), False),
    Case("one too short", signed(PRIVATE, signature=ED_ONE[:-8]), False),
    Case("no keys", signed(SECRET), False, ()),
]


def block(language: str, name: str) -> str:
    """The guide's code block whose first line names the file."""
    (found,) = [one for one in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.S) if name in one.partition("\n")[0]]
    return found


@pytest.fixture(scope="module")
def verify_webhook() -> Callable[..., Any]:
    space: dict[str, Any] = {}
    exec(compile(block("python", "verify_webhook.py"), "docs/webhooks.md", "exec"), space)  # noqa: S102 - our own guide
    return space["verify_webhook"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_python_snippet(verify_webhook: Callable[..., Any], case: Case):
    if case.good:
        assert verify_webhook(list(case.keys), case.headers, case.body, case.now_s) == json.loads(BODY)
        return
    with pytest.raises(ValueError, match=r"missing|not of now|no signature fits"):
        verify_webhook(list(case.keys), case.headers, case.body, case.now_s)


def without_types(typescript: str) -> str:
    """The snippet as JavaScript: its types stand in `type` lines and behind the names of two constants alone."""
    return re.sub(r": (Verify|Fits) =", " =", re.sub(r"^type .*\n", "", typescript, flags=re.M))


@pytest.mark.skipif(NODE is None, reason="node is not on this machine")
def test_the_typescript_snippet(tmp_path: Path):
    (tmp_path / "verify-webhook.mjs").write_text(without_types(block("typescript", "verify-webhook.ts")))
    (tmp_path / "harness.mjs").write_text(HARNESS)
    asked = [
        {
            "keys": case.keys,
            "headers": case.headers,
            "body": base64.b64encode(case.body).decode(),
            "now_s": case.now_s,
        }
        for case in CASES
    ]
    ran = subprocess.run(
        [str(NODE), "harness.mjs"],
        cwd=tmp_path,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for case, answer in zip(CASES, json.loads(ran.stdout), strict=True):
        assert json.loads(answer) == json.loads(BODY) if case.good else answer == "Error", f"{case}: {answer}"


def test_the_guide_names_every_type_and_field():
    assert all(f"`{name}`" in GUIDE for name in (*TYPES, *OPERATIONAL, *NewEndpoint.model_fields))


def test_the_library_snippet_is_what_the_library_takes():
    (library,) = [one for one in re.findall(r"```python\n(.*?)```", GUIDE, re.S) if "standardwebhooks" in one]
    now = int(datetime.now(UTC).timestamp())
    space: dict[str, Any] = {"secret": KEYS[0], "request_body": BODY}
    space["request_headers"] = signed_headers([PRIVATE, SECRET], "msg_1", now, BODY)
    exec(compile(library, "docs/webhooks.md", "exec"), space)  # noqa: S102 - our own guide
    assert space["message"] == json.loads(BODY)
