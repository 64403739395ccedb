"""`./mymacro partners`: which apps registered, which of them may work, and how often they may ask."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NoReturn, TypeVar
from urllib.parse import quote, urlencode

import typer
from rich.console import Console
from rich.text import Text

from infra.local import tables
from infra.local.dead_letters import printable
from infra.local.instance import operator
from infra.local.operating import NoAnswer, asked

app = typer.Typer(no_args_is_help=True, help="See and decide which partners may work.")
console = Console()
errors = Console(stderr=True)
PATH = "/internal/partners"
PAGE = 200
T = TypeVar("T")
State = Literal["pending", "active", "suspended"]
Id = Annotated[str, typer.Argument(help="The partner's id, as partners list says.")]


@app.command(name="list")
def list_partners(
    state: Annotated[State | None, typer.Option(help="Partners in this state alone.")] = None,
    most: Annotated[int, typer.Option("--most", min=1, max=100_000, help="At most so many.")] = 200,
) -> None:
    """List partners by state and name."""
    which = {} if state is None else {"state": state}
    partners = _ask(lambda: _pages(which, most))
    if not partners:
        console.print("There are no such partners.")
        return
    rows = [(one["partner_id"], one["name"], one["state"], _day(one["created_at"]), _quota(one)) for one in partners]
    titles = ("partner", "name", "state", "registered", "requests a minute")
    tables.listed(console, titles, rows, right={"requests a minute"})


@app.command()
def show(partner: Id) -> None:
    """Show a partner with its contact address, scopes, redirect URIs and keys. That you looked is in the audit log."""
    path = f"{PATH}/{quote(partner, safe='')}?{urlencode({'by': operator()})}"
    _say(_ask(lambda: asked("auth", "GET", path)))


@app.command()
def approve(partner: Id) -> None:
    """Let a partner work that registered, or that was suspended."""
    _decide(partner, "approvals", "active")


@app.command()
def suspend(partner: Id) -> None:
    """Take everything from a partner, within seconds, until it is approved again. What it registered stays."""
    _decide(partner, "suspensions", "suspended")


@app.command()
def quota(
    partner: Id,
    per_minute: Annotated[int | None, typer.Argument(min=1, max=10_000_000, help="Requests a minute.")] = None,
    default: Annotated[bool, typer.Option("--default", help="As many as the setting says.")] = False,
) -> None:
    """Say how many requests a minute a partner may make."""
    if (per_minute is None) is not default:
        _fail("Say how many requests a minute, or --default.")
    body = {"requests_per_min": per_minute, "by": operator()}
    path = f"{PATH}/{quote(partner, safe='')}/quota"
    answer = _ask(lambda: asked("auth", "PUT", path, body))
    often = "as often as the setting says" if default else f"{_quota(answer)} times a minute"
    console.print(Text(f"{printable(answer['name'])} may ask {often}."), soft_wrap=True)


def _decide(partner: str, decision: str, state: str) -> None:
    path = f"{PATH}/{quote(partner, safe='')}/{decision}"
    answer = _ask(lambda: asked("auth", "POST", path, {"by": operator()}))
    console.print(Text(f"{printable(answer['name'])} is {state}."), soft_wrap=True)


def _pages(which: dict[str, str], most: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(found) < most:
        query = which | {"limit": str(min(PAGE, most - len(found)))} | ({"cursor": cursor} if cursor else {})
        page = asked("auth", "GET", f"{PATH}?{urlencode(query)}")
        found += page["partners"]
        cursor = page["cursor"]
        if cursor is None:
            break
    return found


def _say(partner: dict[str, Any]) -> None:
    rows = [
        ("partner", partner["partner_id"]),
        ("name", partner["name"]),
        ("state", partner["state"]),
        ("registered", _day(partner["created_at"])),
        ("contact", partner["contact"]),
        ("requests a minute", _quota(partner)),
        ("scopes", " ".join(partner["scopes"])),
        *(("redirect URI", uri) for uri in partner["redirect_uris"]),
        *(("key", _key(key)) for key in partner["keys"]),
    ]
    tables.facts(console, rows)


def _key(key: dict[str, Any]) -> str:
    until = f", until {_day(key['expires_at'])}" if key["expires_at"] else ""
    used = f"last used {_day(key['last_used_at'])}" if key["last_used_at"] else "never used"
    return f"{key['hint'] or '?'}… {key['name'] or 'without a name'}: {' '.join(key['scopes'])}; {used}{until}"


def _quota(partner: dict[str, Any]) -> str:
    return "default" if partner["requests_per_min"] is None else f"{partner['requests_per_min']:,}"


def _day(moment: str | None) -> str:
    return "before that was kept" if moment is None else moment[:16].replace("T", " ")


def _ask(question: Callable[[], T]) -> T:
    try:
        return question()
    except NoAnswer as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    errors.print(Text(message, "red"), soft_wrap=True)
    raise typer.Exit(1)
