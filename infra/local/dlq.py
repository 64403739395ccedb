"""`./mymacro dlq`: what services could not handle, and what operators do about it.

Works on the brokers of KAFKA_BOOTSTRAP_SERVERS, else on this machine's stack.
"""

from pathlib import Path
from typing import Annotated

import typer

# What the commands do is imported when one runs: Kafka's client takes 0.3 s that ./mymacro up need not wait for.
app = typer.Typer(no_args_is_help=True, help="Show, replay or drop what services could not handle.")
# A table of more rows is no help to a person; `--limit` asks for them.
LISTED = 50

Topic = Annotated[str | None, typer.Option(help="The topic they came from, such as gateway.batches.v1.")]
Service = Annotated[str | None, typer.Option(help="Who could not handle them, such as ingest.")]
Type = Annotated[str | None, typer.Option(help="Type of the event, such as batch.submitted; ? for unreadable ones.")]
Id = Annotated[
    str | None, typer.Option(help="Event id, receipt id, or topic/partition/offset (its own or the origin's).")
]
Since = Annotated[
    str | None, typer.Option(help="Died at or after: a date, an RFC 3339 time, or how long ago (2h, 3d).")
]
Until = Annotated[str | None, typer.Option(help="Died before; written as --since.")]
Reason = Annotated[str | None, typer.Option(help="Why, such as undecodable or failed.")]
All = Annotated[bool, typer.Option("--all", help="Mean every unresolved dead letter there is.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which would be meant.")]
Rate = Annotated[float | None, typer.Option(min=0.1, help="At most so many a second.")]


@app.command("list")
def list_(
    topic: Topic = None,
    service: Service = None,
    type: Type = None,
    id: Id = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="Show so many at most, oldest first.")] = LISTED,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Show what operators did instead: the audit log.")
    ] = False,
) -> None:
    """Show unresolved dead letters, oldest first; never what is in them."""
    from infra.local import dlq_actions as actions

    if resolved and type is not None:
        raise typer.BadParameter("the audit log keeps no types; leave --type out with --resolved")
    wanted = actions.filter_of(topic, service, type, id, since, until, reason)
    actions.run(actions.show_resolutions(wanted, limit) if resolved else actions.show_letters(wanted, limit))


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="topic/partition/offset as listed, an event id or a receipt id.")],
    raw: Annotated[Path | None, typer.Option(help="Write the original bytes to this file.")] = None,
) -> None:
    """Show one dead letter with its cause and its payload; a batch is summarised, without its values."""
    from infra.local import dlq_actions as actions

    actions.run(actions.show_one(id, raw))


@app.command()
def replay(
    topic: Topic = None,
    service: Service = None,
    type: Type = None,
    id: Id = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    everything: All = False,
    dry_run: DryRun = False,
    rate: Rate = None,
    note: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
) -> None:
    """Send the original records to their topics again, and mark them as resolved.

    Every reader of a topic gets them; handlers are idempotent, so those that had handled them change nothing. What
    fails again is a new dead letter.
    """
    from infra.local import dlq_actions as actions

    wanted = actions.meant(actions.filter_of(topic, service, type, id, since, until, reason), everything)
    actions.run(actions.resolve(wanted, "replayed", note, rate, dry_run))


@app.command()
def drop(
    note: Annotated[str, typer.Option(help="Why nobody needs them, for the audit log.")],
    topic: Topic = None,
    service: Service = None,
    type: Type = None,
    id: Id = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    everything: All = False,
    dry_run: DryRun = False,
    rate: Rate = None,
) -> None:
    """Mark dead letters as resolved without handling them; their bytes stay until they expire."""
    from infra.local import dlq_actions as actions

    wanted = actions.meant(actions.filter_of(topic, service, type, id, since, until, reason), everything)
    actions.run(actions.resolve(wanted, "dropped", note, rate, dry_run))
