"""`./mymacro webhooks replay` and `attempts`: send messages once more, and see what became of each delivery."""

import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NoReturn
from urllib.parse import quote, urlencode
from uuid import uuid4

import typer
from rich.console import Console
from rich.text import Text

from infra.local import tables
from infra.local.as_partner import asked
from infra.local.operating import NoAnswer

console = Console()
errors = Console(stderr=True)
PATH = "/v1/webhook-endpoints"
LOOK_EVERY_S = 0.5
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def register(app: typer.Typer) -> None:
    """Add both commands to `webhooks`."""
    app.command()(replay)
    app.command()(attempts)


def replay(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's id.")],
    message: Annotated[str | None, typer.Option(help="This message alone, by its webhook-id.")] = None,
    failed: Annotated[str | None, typer.Option(help="All that failed in this time, such as 90m or 2d.")] = None,
    last: Annotated[str | None, typer.Option(help="All messages of this time, such as 60s or 12h.")] = None,
    user: Annotated[str | None, typer.Option(help="Of this user alone.")] = None,
    rate: Annotated[int, typer.Option(min=1, max=1000, help="Messages a second.")] = 10,
) -> None:
    """Send messages once more, with their ids, and wait until that is done; Ctrl-C leaves it going on."""
    if sum(one is not None for one in (message, failed, last)) != 1:
        _fail("Say one of --message, --failed and --last.")
    wanted: dict[str, Any] = {"rate_per_s": rate}
    if message is not None:
        wanted["message_id"] = message
    else:
        wanted["since" if last is not None else "failed_since"] = _ago(last or failed or "")
    if user is not None:
        wanted["user"] = user
    try:
        found = asked("POST", f"{PATH}/{quote(endpoint)}/replays", wanted, str(uuid4()))
        console.print(Text(f"replay {found['replay_id']}: {found['since']} to {found['until']}"), soft_wrap=True)
        while found["state"] in ("running", "paused"):
            time.sleep(LOOK_EVERY_S)
            found = asked("GET", f"{PATH}/{quote(endpoint)}/replays/{found['replay_id']}")
    except NoAnswer as error:
        _fail(str(error))
    console.print(Text(f"{found['state']}: {found['made']} messages sent again {found['reason'] or ''}".rstrip()))
    if found["state"] != "done":
        raise typer.Exit(1)


def attempts(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's id.")],
    state: Annotated[str | None, typer.Option(help="pending, delivered, failed or cancelled.")] = None,
    user: Annotated[str | None, typer.Option(help="Of this user alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="So many deliveries, the newest first.")] = 20,
) -> None:
    """Show what became of an endpoint's deliveries, attempt by attempt."""
    query = {"limit": limit, "state": state, "user": user}
    said = urlencode({name: value for name, value in query.items() if value is not None})
    rows: list[tuple[str, ...]] = []
    try:
        for one in asked("GET", f"{PATH}/{quote(endpoint)}/deliveries?{said}")["deliveries"]:
            detail = asked("GET", f"/v1/deliveries/{one['delivery_id']}")
            whose = (one["message_id"], one["type"], one["state"])
            if not detail["attempts"]:
                rows.append((*whose, "", "", "", one["reason"] or ""))
            for tried in detail["attempts"]:
                outcome = (tried["at"], str(tried["status"] or "-"), str(tried["ms"]), tried["error"] or "")
                rows.append((*whose, *outcome))
    except NoAnswer as error:
        _fail(str(error))
    tables.listed(console, ("message", "type", "state", "at", "status", "ms", "error"), rows, right={"status", "ms"})


def _ago(text: str) -> str:
    """The moment that lies so long back, such as 90m."""
    number, unit = text[:-1], UNITS.get(text[-1:])
    if unit is None or not (number.isascii() and number.isdigit()) or len(number) > 6:
        _fail(f"{text!r} is no time; say 60s, 90m, 12h or 2d.")
    return (datetime.now(UTC) - timedelta(**{unit: int(number)})).isoformat()


def _fail(message: str) -> NoReturn:
    errors.print(Text(message, "red"), soft_wrap=True)
    raise typer.Exit(1)
