"""`./mymacro users`: whose accounts there are, and signing somebody out everywhere."""

from typing import Annotated, Any, NoReturn
from urllib.parse import quote, urlencode

import typer
from rich.console import Console
from rich.text import Text

from infra.local import tables
from infra.local.instance import operator
from infra.local.operating import NoAnswer, asked

app = typer.Typer(no_args_is_help=True, help="See users, and sign them out.")
console = Console()
errors = Console(stderr=True)
PATH = "/internal/users"
PAGE = 200
Id = Annotated[str, typer.Argument(help="The user's id, as users list says.")]


@app.command(name="list")
def list_users(
    most: Annotated[int, typer.Option("--most", min=1, max=100_000, help="At most so many.")] = 50,
) -> None:
    """List users, the latest first, without their addresses."""
    try:
        users = _pages(most)
    except NoAnswer as error:
        _fail(str(error))
    if not users:
        console.print("There are no users.")
        return
    rows = [
        (one["user_id"], _day(one["created_at"]), one["managed_by"] or "", _yes(one["second_factor"])) for one in users
    ]
    tables.listed(console, ("user", "since", "managed by", "second factor"), rows)


@app.command()
def show(user: Id) -> None:
    """Show a user with address, sessions and grants. That you looked is in the audit log."""
    try:
        one = asked("auth", "GET", f"{PATH}/{quote(user, safe='')}?{urlencode({'by': operator()})}")
    except NoAnswer as error:
        _fail(str(error))
    rows = [
        ("user", one["user_id"]),
        ("address", one["email"] or "none"),
        ("since", _day(one["created_at"])),
        ("managed by", one["managed_by"] or "nobody"),
        ("second factor", _yes(one["second_factor"])),
        ("sessions", str(one["sessions"])),
        *(("grant to", partner) for partner in one["grants"]),
    ]
    tables.facts(console, rows)


@app.command()
def erasure(user: Id) -> None:
    """Show the proof of a user's erasure: what each service deleted, and when the last copy is gone."""
    try:
        one = asked("auth", "GET", f"{PATH}/{quote(user, safe='')}/erasure")
    except NoAnswer as error:
        _fail(str(error))
    rows = [
        ("user", one["user_id"]),
        ("asked", f"{one['asked_at']} by {one['asked_by']}"),
        *((each["service"], _deleted(each)) for each in one["services"]),
        ("waiting for", ", ".join(one["waiting_for"]) or "nobody"),
        ("erased", one["finished_at"] or "not yet"),
        ("topics forget", f"by {one['topics_expire_at']}" if one["topics_expire_at"] else "not known yet"),
    ]
    tables.facts(console, rows)


def _deleted(said: dict[str, Any]) -> str:
    return f"{said['documents']} documents and {said['objects']} objects, {said['finished_at']}"


@app.command(name="end-sessions")
def end_sessions(user: Id) -> None:
    """Sign a user out everywhere, within seconds; partners' sessions for the user end, too."""
    try:
        answer = asked("auth", "POST", f"{PATH}/{quote(user, safe='')}/session-ends", {"by": operator()})
    except NoAnswer as error:
        _fail(str(error))
    console.print(f"Sessions ended: {answer['ended']}")


def _pages(most: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(found) < most:
        query = {"limit": str(min(PAGE, most - len(found)))} | ({"cursor": cursor} if cursor else {})
        page = asked("auth", "GET", f"{PATH}?{urlencode(query)}")
        found += page["users"]
        cursor = page["cursor"]
        if cursor is None:
            break
    return found


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _day(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _fail(message: str) -> NoReturn:
    errors.print(Text(message, "red"), soft_wrap=True)
    raise typer.Exit(1)
