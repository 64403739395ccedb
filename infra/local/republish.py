"""`./mymacro republish`: has ingest tell stored days again, so that readers that lost them rebuild what follows.

It asks ingest itself; `operating.py` says where.
"""

import time
import uuid
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from infra.local.instance import operator
from infra.local.operating import NoAnswer, Silent, asked

app = typer.Typer(no_args_is_help=True, help="Have stored days told again, for readers that lost them.")
console = Console()
errors = Console(stderr=True)
PATH = "/internal/days/republish"
POLL_S = 0.5
# A POST without an answer is repeated under the same key, and means the same job.
TRIES = 5


@app.command()
def days(
    user: Annotated[str | None, typer.Option(help="Days of this user alone.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Days told at or after: a date, an RFC 3339 time, or how long ago (2h, 3d).")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every day of every user.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    rate: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many a second.")] = 500,
    note: Annotated[str, typer.Option(help="Why, kept with the job.")] = "",
    wait: Annotated[bool, typer.Option(help="Stay until it is done; without, it goes on all the same.")] = True,
) -> None:
    """Send the current revision of days again, with the event ids they had.

    Readers that know them change nothing; a reader with an empty database rebuilds. The job survives a restart of
    ingest; Ctrl-C stops waiting, not the job.
    """
    if (user is None and since is None) is not everything:
        _fail("Name the days with --user or --since or both, or say --all.")
    body = {"user_id": user, "since": _time(since), "everything": everything, "dry_run": dry_run}
    try:
        job = _begun({**body, "rate_per_s": rate, "note": note, "by": operator()})
        if not wait:
            _say(job)
        else:
            _waited(job)
    except NoAnswer as error:
        _fail(str(error))


@app.command()
def status(id: Annotated[str, typer.Argument(help="The job's id, as republish days said.")]) -> None:
    """Say how far a job is."""
    try:
        _say(_asked("GET", f"{PATH}/{id}"))
    except NoAnswer as error:
        _fail(str(error))


def _begun(body: dict[str, Any]) -> dict[str, Any]:
    key = str(uuid.uuid4())
    for _ in range(TRIES - 1):
        try:
            return _asked("POST", PATH, body, key)
        except Silent:
            time.sleep(POLL_S)
    return _asked("POST", PATH, body, key)


def _waited(job: dict[str, Any]) -> None:
    try:
        with errors.status(_said(job)) as shown:
            while job["ended_at"] is None:
                time.sleep(POLL_S)
                try:
                    job = _asked("GET", f"{PATH}/{job['id']}")
                except Silent as error:
                    # It goes on when ingest is back.
                    shown.update(Text(f"{error} Still waiting."))
                    continue
                shown.update(Text(_said(job)))
    except KeyboardInterrupt:
        console.print(f"The job goes on; see ./mymacro republish status {job['id']}")
        raise typer.Exit(130) from None
    _say(job)


def _say(job: dict[str, Any]) -> None:
    console.print(Text(_said(job)), soft_wrap=True)
    if job["ended_at"] is None:
        console.print(f"./mymacro republish status {job['id']}", soft_wrap=True)
    if job["skipped"]:
        _fail(f"{job['skipped']:,} days were too large to tell; ingest's log names them.")


def _said(job: dict[str, Any]) -> str:
    verb = "would be told again" if job["dry_run"] else "told again"
    state = "done" if job["ended_at"] else "under way"
    trouble = f"; it waits: {job['last_error']}" if job["last_error"] and not job["ended_at"] else ""
    return f"{state}: {job['sent']:,} of {job['seen']:,} days looked at {verb}{trouble}"


def _asked(method: str, path: str, body: dict[str, Any] | None = None, key: str = "") -> dict[str, Any]:
    return asked("ingest", method, path, body, key)


def _time(text: str | None) -> str | None:
    from infra.local.dead_letters import parsed_time
    from shared.clock import utc_now

    try:
        return None if text is None else parsed_time(text, utc_now()).isoformat()
    except (ValueError, OverflowError):
        _fail("--since takes a date (2026-03-01), a time (2026-03-01T08:00Z) or how long ago (90s, 2h, 3d).")


def _fail(message: str) -> NoReturn:
    errors.print(Text(message, "red"), soft_wrap=True)
    raise typer.Exit(1)
