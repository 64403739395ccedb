"""The demo user of an instance, and what a newcomer can try with it."""

import asyncio
import json
import os
import secrets
import shlex
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console

from infra.local import control
from infra.local.instance import Instance
from infra.local.stack import StackError

if TYPE_CHECKING:
    from infra.local.demo import DemoTarget

EMAIL = "demo@example.com"
FILE = "demo-user.json"
PATIENCE_S = 20.0
REPEAT_AFTER_S = 0.3
KILL_PATIENCE_S = 15.0


@dataclass(frozen=True)
class Account:
    """A signed-in user."""

    email: str
    password: str
    user_id: str
    token: str


def sign_in(stack: Instance) -> Account:
    """The demo user, made on the first call, with a fresh token. Its password is kept among the instance's keys.

    Raises:
        StackError: the gateway refuses, or does not answer within 20 s.
    """
    path = stack.keys / FILE
    if path.exists():
        kept = json.loads(path.read_text())
    else:
        kept = {"email": EMAIL, "password": secrets.token_urlsafe(24), "key": secrets.token_hex(16)}
        draft = path.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(kept))
        draft.replace(path)
    credentials = {"email": kept["email"], "password": kept["password"]}
    user = _post(stack, "/v1/users", credentials, {"Idempotency-Key": kept["key"]})
    token = _post(stack, "/v1/tokens", credentials, {})
    return Account(kept["email"], kept["password"], user["user_id"], token["access_token"])


def _post(stack: Instance, path: str, body: dict[str, str], headers: dict[str, str]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 - the scheme is ours
        stack.url + path, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    # A proxy from the environment has no business on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with opener.open(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            if error.code not in (429, 503) or time.monotonic() > deadline:
                raise StackError(f"POST {path} for the demo user: {error.code} {said}") from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise StackError(f"POST {path} for the demo user: no answer ({error})") from error
        time.sleep(REPEAT_AFTER_S)


def what_to_try(stack: Instance) -> str:
    """The demo user, its token and three commands, as text.

    Raises:
        StackError: the demo user could not sign in.
    """
    account = sign_in(stack)
    now = datetime.now(UTC).replace(microsecond=0)
    sample = {"metric": "heart_rate", "start": now.isoformat(), "value": 61}
    batch = {"device": {"id": "watch-1", "kind": "watch"}, "app": "demo/1.0", "samples": [sample]}
    bearer = '-H "Authorization: Bearer $TOKEN"'
    return "\n".join(
        (
            f"API documents: {stack.url}/docs",
            f"Demo user {account.email}, password in {os.path.relpath(stack.keys / FILE, stack.root)}; its token:",
            "",
            f"export TOKEN={account.token}",
            "",
            "Send a sample, read its day, and listen to what happens (Ctrl-C ends that):",
            "",
            f"curl -s {bearer} -H 'Idempotency-Key: {secrets.token_hex(8)}' "
            f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(batch))} {stack.url}/v1/batches",
            f"curl -s {bearer} {stack.url}/v1/days/{now.date()}",
            f"curl -sN {bearer} {stack.url}/v1/live",
            "",
            "Or ./mymacro demo, ./mymacro status, ./mymacro down.",
        )
    )


def tell_demo(stack: Instance, victim: str | None, console: Console) -> int:
    """Run the demo against this instance; returns the exit code. `victim` is a kind, or in a cluster one process."""
    from infra.local import demo

    return _told(demo.run(_target(stack), console, victim), console)


def tell_partner(stack: Instance, console: Console) -> int:
    """Run the partner's story against this instance; returns the exit code."""
    from infra.local import demo_partner

    return _told(demo_partner.run(_target(stack), console, stack.data / "demo"), console)


def tell_webhooks(stack: Instance, console: Console) -> int:
    """Run the webhooks' story against this instance; returns the exit code."""
    from infra.local import demo_webhooks

    return _told(demo_webhooks.run(_target(stack), console), console)


def _told(story: Coroutine[Any, Any, None], console: Console) -> int:
    from infra.local.demo import StoryBroke
    from infra.local.phone import Refused

    try:
        asyncio.run(story)
    except (StoryBroke, Refused, TimeoutError) as error:
        console.print(f"[red]The story did not end well:[/red] {error or 'it took too long'}", soft_wrap=True)
        return 1
    return 0


def _target(stack: Instance) -> "DemoTarget":
    from infra.local.demo import DemoTarget

    return DemoTarget(
        gateway_url=stack.url,
        partner_key=(stack.keys / "demo-partner.key").read_text().strip(),
        span_store=stack.traces,
        otlp_endpoint=f"http://127.0.0.1:{stack.settings.otlp_port}",
        receiver_port=stack.settings.demo_receiver_port,
        kill=lambda name: kill(stack, name),
        photos_off=_photos_off(stack),
    )


def _photos_off(stack: Instance) -> str:
    state = control.state(stack)
    if state is None or "triton" in state.processes:
        return ""
    return " ".join(state.notes) or "Photos are off: Triton is not among the processes that MYMACRO_ONLY names."


def kill(stack: Instance, name: str) -> int:
    """SIGKILL a process of the stack by its name; returns its pid.

    Raises:
        StackError: there is no such process.
    """
    deadline = time.monotonic() + KILL_PATIENCE_S
    while True:
        state = control.state(stack)
        if state is None:
            raise StackError("The stack is not running; start it with ./mymacro up.")
        try:
            pid = state.pid(name)
        except StackError:
            if time.monotonic() > deadline:
                raise
        else:
            os.kill(pid, signal.SIGKILL)
            return pid
        time.sleep(REPEAT_AFTER_S)
