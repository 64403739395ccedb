"""`./mymacro audit`: what happened to accounts, partners and keys, as auth wrote it down."""

import json
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from infra.local import tables
from infra.local.dead_letters import parsed_time
from infra.local.instance import operator
from infra.local.operating import NoAnswer, asked
from shared.clock import utc_now

app = typer.Typer(no_args_is_help=True, help="See what happened to accounts, partners and keys.")
console = Console()
errors = Console(stderr=True)
PATH = "/internal/audit"
PAGE = 500
COLUMNS = ("time", "kind", "actor", "user", "partner", "about", "details", "network", "count", "trace")


@app.callback()
def audit() -> None:
    """See what happened to accounts, partners and keys."""


@app.command(name="list")
def list_lines(
    user: Annotated[str | None, typer.Option(help="Lines about this user alone.")] = None,
    kind: Annotated[str | None, typer.Option(help="Lines of this kind alone, such as wrong-password.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Lines of that time or later: a date, an RFC 3339 time, or how long ago (2h, 3d)."),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, max=100_000, help="At most so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for other programs.")] = False,
) -> None:
    """List lines of the audit log, the latest first. That you looked is a line of the log, too."""
    which = {"user_id": user, "kind": kind, "since": _time(since), "by": operator()}
    try:
        lines = _lines(which, most)
    except NoAnswer as error:
        _fail(str(error))
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line))
        return
    if not lines:
        console.print("There are no such lines.")
        return
    tables.listed(console, COLUMNS, [_cells(line) for line in lines], right={"count"})


def _lines(which: dict[str, Any], most: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(lines) < most:
        page = asked("auth", "POST", PATH, which | {"limit": min(PAGE, most - len(lines)), "cursor": cursor})
        lines += page["lines"]
        cursor = page["cursor"]
        if cursor is None:
            break
    return lines


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    actor = f"{line['actor']} {line['by']}".strip()
    until = "" if line["count"] == 1 else f" to {line['last_at'][11:19]}"
    return (
        line["at"][:19].replace("T", " ") + until,
        line["kind"],
        actor,
        line["user_id"] or "",
        line["partner_id"] or "",
        line["about"],
        " ".join(line["details"]),
        line["network"],
        str(line["count"]),
        line["trace_id"],
    )


def _time(text: str | None) -> str | None:
    try:
        return None if text is None else parsed_time(text, utc_now()).isoformat()
    except (ValueError, OverflowError):
        _fail("--since takes a date (2026-03-01), a time (2026-03-01T08:00Z) or how long ago (90s, 2h, 3d).")


def _fail(message: str) -> NoReturn:
    errors.print(Text(message, "red"), soft_wrap=True)
    raise typer.Exit(1)
