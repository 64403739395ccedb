"""What `./mymacro dlq` does and prints."""

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from infra.local import tables
from infra.local.dead_letter_topics import Action, DeadLetterTopics, Held, NoAnswer, Resolver, opened
from infra.local.dead_letters import Filter, Letter, parsed_time, payload_shown, printable
from infra.local.instance import from_environment, operator
from shared import spans
from shared.clock import utc_now

console = Console()
errors = Console(stderr=True)
# Below it a bar only flickers.
BAR_FROM = 2_000
STATUS_S = 5.0


def warning(brokers: str) -> str:
    """What `status` says when there are unresolved dead letters; "" when there are none, or Kafka does not answer."""

    async def held() -> list[Held]:
        async with asyncio.timeout(STATUS_S), opened(brokers) as topics:
            return topics.held()

    try:
        found = [one for one in asyncio.run(held()) if one.unresolved]
    except (NoAnswer, TimeoutError):
        return ""
    if not found:
        return ""
    most = ", ".join(f"{one.unresolved:,} in {one.topic}" for one in sorted(found, key=_most)[:3])
    total = sum(one.unresolved for one in found)
    letters = "dead letter waits" if total == 1 else "dead letters wait"
    return f"{total:,} {letters} for an operator: {most}. See ./mymacro dlq list, then dlq show, replay or drop.\n"


def _most(held: Held) -> int:
    return -held.unresolved


def servers() -> str:
    """Where Kafka is: KAFKA_BOOTSTRAP_SERVERS, else this machine's stack."""
    return os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or from_environment().bootstrap_servers


def _fail(message: str) -> NoReturn:
    errors.print(Text(message, "red"), soft_wrap=True)
    raise typer.Exit(1)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Do it; Kafka's silence is one sentence."""
    try:
        asyncio.run(work)
    except NoAnswer as error:
        _fail(str(error))


def filter_of(
    topic: str | None,
    service: str | None,
    type: str | None,
    id: str | None,
    since: str | None,
    until: str | None,
    reason: str | None,
) -> Filter:
    """What the options mean."""
    now = utc_now()
    try:
        times = [None if text is None else parsed_time(text, now) for text in (since, until)]
    except (ValueError, OverflowError):
        _fail("--since and --until take a date (2026-03-01), a time (2026-03-01T08:00Z) or how long ago (90s, 2h, 3d).")
    return Filter(topic, service, type, id, reason, *times)


def meant(wanted: Filter, everything: bool) -> Filter:
    """`wanted`, unless it means everything and nobody said so."""
    if wanted.empty and not everything:
        _fail(
            "Say which dead letters are meant (--topic, --service, --type, --id, --since, --until, --reason) or --all."
        )
    return wanted


async def _read(topics: DeadLetterTopics, wanted: Filter) -> AsyncGenerator[Letter]:
    """The letters, with a bar on a terminal when there are many records to read."""
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as shown:
        bar = shown.add_task("", visible=False)

        def progress(done: int, total: int) -> None:
            shown.update(bar, completed=done, total=total, visible=total >= BAR_FROM)

        async for letter in topics.letters(wanted, progress):
            yield letter


async def show_letters(wanted: Filter, limit: int) -> None:
    """A table of the oldest."""
    rows: list[Letter] = []
    more = 0
    async with opened(servers()) as topics:
        async for letter in _read(topics, wanted):
            if len(rows) < limit:
                rows.append(letter)
            else:
                more += 1
    if not rows:
        console.print("No unresolved dead letters" + (" of these." if not wanted.empty else "."))
        return
    titles = ("position", "died at", "service", "type", "reason", "tries", "bytes")
    tables.listed(console, titles, [_cells(one) for one in rows], right={"tries", "bytes"})
    if more:
        console.print(f"and {more:,} more (--limit)")


async def show_resolutions(wanted: Filter, limit: int) -> None:
    """A table of what operators did, the newest of it."""
    rows: list[tuple[str, ...]] = []
    async with opened(servers()) as topics:
        async for one in topics.resolutions():
            times = (wanted.since is None or one.occurred_at >= wanted.since) and (
                wanted.until is None or one.occurred_at < wanted.until
            )
            named = wanted.topic in (None, one.source) and wanted.service in (None, one.service)
            if times and named and wanted.reason in (None, one.reason) and wanted.id in (None, one.position):
                when = f"{one.occurred_at:%Y-%m-%d %H:%M:%S}Z"
                rows.append((when, one.by, one.action, one.position, one.service, one.reason, one.note))
                # The newest are asked for.
                del rows[:-limit]
    if not rows:
        console.print("Nothing was replayed or dropped.")
        return
    tables.listed(console, ("when", "by", "did", "position", "service", "reason", "note"), rows)


async def show_one(id: str, raw: Path | None) -> None:
    """Everything about it: several, when several services could not handle the same event."""
    async with opened(servers()) as topics:
        found = [letter async for letter in _read(topics, Filter(id=id))]
    if not found:
        _fail("There is no unresolved dead letter of that position or id; see ./mymacro dlq list.")
    for letter in found:
        _show(letter)
    if raw is not None:
        if len(found) > 1:
            _fail("Several services have this one; name one by its position to write its bytes.")
        await asyncio.to_thread(_keep, raw, found[0].value)
        console.print(Text(f"{len(found[0].value):,} bytes written to {raw}"))


def _keep(path: Path, value: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(value)


def _show(letter: Letter) -> None:
    trace = spans.trace_id_of(letter.traceparent)
    facts = {
        "position": str(letter.place),
        "died at": _time(letter),
        "service": letter.service,
        "came from": str(letter.origin or letter.source),
        "reason": letter.reason,
        "error": f"{letter.error}: {letter.text}",
        "tries": "" if letter.attempts is None else str(letter.attempts),
        "key": printable((letter.key or b"").decode(errors="replace")),
        "type": letter.type,
        "event": letter.event_id,
        "user": letter.user_id,
        "receipt": letter.receipt_id,
        "trace": f"./mymacro trace {trace}" if trace else "",
        "bytes": f"{len(letter.value):,}",
    }
    tables.facts(console, [(name, value) for name, value in facts.items() if value])
    console.print(Text(payload_shown(letter.value)), soft_wrap=True)


async def resolve(wanted: Filter, action: Action, note: str, rate: float | None, dry_run: bool) -> None:
    """Replay or drop what is meant."""
    done, failed = 0, 0
    async with opened(servers()) as topics, topics.resolver(operator(), note, rate) as resolver:
        portion: list[Letter] = []
        async for letter in _read(topics, wanted):
            portion.append(letter)
            if len(portion) >= resolver.portion:
                failed += await _resolve_portion(resolver, portion, action, dry_run)
                done += len(portion)
                portion = []
        failed += await _resolve_portion(resolver, portion, action, dry_run)
        done += len(portion)
    if dry_run:
        verb = "would be replayed" if action == "replayed" else "would be dropped"
        console.print(f"{done:,} {verb}; nothing was changed.")
    elif not done:
        console.print("No unresolved dead letters of these.")
    else:
        console.print(f"{done - failed:,} {action}, as ./mymacro dlq list --resolved shows.")
    if failed:
        _fail(f"{failed:,} could not be sent and stay; repeat the command.")


async def _resolve_portion(resolver: Resolver, letters: list[Letter], action: Action, dry_run: bool) -> int:
    """How many of these could not be resolved."""
    if dry_run:
        for letter in letters:
            console.print(Text(f"{letter.place} {letter.type} {letter.reason} -> {letter.source}"), soft_wrap=True)
        return 0
    if action == "dropped":
        await resolver.drop(letters)
        return 0
    failed = await resolver.replay(letters)
    for letter, error in failed:
        errors.print(Text(f"{letter.place} was not sent to {letter.source}: {error}", "red"), soft_wrap=True)
    return len(failed)


def _time(letter: Letter) -> str:
    return f"{letter.died_at:%Y-%m-%d %H:%M:%S}Z"


def _cells(letter: Letter) -> tuple[str, ...]:
    tries = "" if letter.attempts is None else str(letter.attempts)
    size = f"{len(letter.value):,}"
    return (str(letter.place), _time(letter), letter.service, letter.type, letter.reason, tries, size)
