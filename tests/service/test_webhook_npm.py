"""The npm library of Standard Webhooks verifies our deliveries, by the lines that docs/webhooks.md gives for it."""

import asyncio
import base64
import json
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra.local.environment import ROOT
from tests.polling import eventually
from tests.service import webhook_npm
from tests.service.receiver import Received, Receiver
from tests.service.webhook_endpoints import created, tell, tried, webhooks
from tests.service.webhook_events import PARTNER

# Reads deliveries from its input; says of each what the guide's lines make of it.
HARNESS = """
%(imports)s
let text = "";
for await (const part of process.stdin) text += part;
const told = JSON.parse(text).map(({ secret, headers: requestHeaders, body }) => {
  const requestBody = Buffer.from(body, "base64");
  try {
    %(lines)s
    return message;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
});
console.log(JSON.stringify(told));
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where Node finds the library and the guide's lines."""
    (tmp_path / "node_modules").symlink_to(webhook_npm.modules())
    guide = (ROOT / "docs" / "webhooks.md").read_text()
    block, server = re.findall(r"```javascript\n(.*?)```", guide, re.S)
    imports, _, lines = block.partition("\n\n")
    (tmp_path / "receive.mjs").write_text(server)
    (tmp_path / "harness.mjs").write_text(HARNESS % {"imports": imports, "lines": lines.strip()})
    return tmp_path


async def verified(folder: Path, *deliveries: tuple[str, Received, bytes]) -> list[Any]:
    """What the library says of each secret, request and body: the message, or its error."""
    cases = [
        {"secret": secret, "headers": dict(one.headers), "body": base64.b64encode(body).decode()}
        for secret, one, body in deliveries
    ]
    ran = await asyncio.to_thread(
        subprocess.run,
        [str(webhook_npm.NODE), "harness.mjs"],
        cwd=folder,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


async def test_the_npm_library_verifies_what_we_deliver(folder: Path, tmp_path: Path, receiver: Receiver):
    async with webhooks(tmp_path) as service:
        made = await created(service, receiver.url)
        await tell(service, 1, text="Gr\u00fc\u00dfe \u2615")
        await eventually(lambda: len(receiver.received) == 1)
        headers = service.headers(partner_id=PARTNER, scopes=("webhooks:write",), key="r")
        path = f"/v1/webhook-endpoints/{made['endpoint_id']}/secrets"
        assert (await service.http.post(path, json={"signature": "ed25519"}, headers=headers)).status_code == 201
        await tell(service, 2)
        await eventually(lambda: len(receiver.received) == 2)
        await created(service, f"{receiver.url}/new", key="new", signature="ed25519")
        await tell(service, 3)
        await eventually(lambda: len(receiver.received) == 4)
    first, both, *third = receiver.received
    (alone,) = [one for one in third if len(one.headers["webhook-signature"].split()) == 1]
    secret = made["secret"]
    told = await verified(
        folder,
        (secret, first, first.body),
        (secret, both, both.body),
        (secret, first, first.body.replace(b"11", b"12") + b" "),
        (secret, alone, alone.body),
    )
    assert told[:2] == [json.loads(first.body), json.loads(both.body)]
    # Another body; and ed25519 alone, which the library passes over.
    assert told[2:] == ["WebhookVerificationError: No matching signature found"] * 2
    assert [one.split(",")[0] for one in both.headers["webhook-signature"].split()] == ["v1a", "v1"]


async def test_the_guides_server_takes_what_verifies_alone(folder: Path, tmp_path: Path, unused_tcp_port: int):
    """With the secret of one of two endpoints at its address."""
    async with webhooks(tmp_path) as service:
        made = [await created(service, f"http://127.0.0.1:{unused_tcp_port}/hook", key=key) for key in ("own", "other")]
        environment = {"WEBHOOK_SECRET": made[0]["secret"], "PORT": str(unused_tcp_port)}
        server = await asyncio.create_subprocess_exec(
            str(webhook_npm.NODE), "receive.mjs", cwd=folder, env=environment, stdout=subprocess.PIPE
        )
        try:
            await eventually(lambda: _listens(unused_tcp_port))
            await tell(service)
            tries = [(await tried(service, one["endpoint_id"])).history[0].status for one in made]
        finally:
            server.terminate()
            said, _ = await server.communicate()
    assert tries == [204, 401]
    assert sorted(line.split()[0] for line in said.decode().splitlines()) == ["refused:", "verified"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
