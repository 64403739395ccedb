"""`./mymacro`: the command line of the project."""

import errno
import os
import subprocess
import sys
from typing import Annotated, Literal, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from infra.local import (
    control,
    development,
    env_file,
    operators,
    private,
    redis,
    setup,
    state_shown,
    webhooks_command,
    webhooks_replay_command,
)
from infra.local.control import State
from infra.local.environment import ROOT, SetupError
from infra.local.instance import (
    Instance,
    cluster_from_environment,
    embedded_from_environment,
    from_environment,
    kind_of,
)
from infra.local.settings import wrong
from infra.local.stack import StackError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console()
errors = Console(stderr=True)
operators.register(app)
webhooks_replay_command.register(webhooks_command.app)
app.add_typer(webhooks_command.app, name="webhooks")
development.register(app)
# They start stacks of their own, or none: what stands in .env is not for those.
WITHOUT_ENV_FILE = ("bench", "check", "docs", "faults", "lock", "test")


def fail(message: str, code: int = 1) -> NoReturn:
    """End with one sentence."""
    errors.print(f"[red]{message}[/red]", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@app.command()
def up(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and stop everything on Ctrl-C.")] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Three brokers and several of each service; needs redis-server.")
    ] = False,
) -> None:
    """Start the whole stack and return when it is ready; harmless when it runs already."""
    instance = _to_start(cluster)
    supervisor: subprocess.Popen[bytes] | None = None
    try:
        setup.tools(instance.tools, errors)
        private.close(instance.data)
        if not control.running(instance):
            supervisor = control.launch(instance, attached=foreground)
        with errors.status("Starting") as shown:
            state = control.wait_ready(instance, supervisor, lambda now: shown.update(state_shown.progress(now)))
        _welcome(instance, state, started=supervisor is not None)
        if foreground and supervisor is not None:
            supervisor.wait()
    except (SetupError, StackError, private.SharedFolder) as error:
        if supervisor is not None:
            control.stop(instance, supervisor)
        fail(str(error))
    except KeyboardInterrupt:
        if supervisor is not None:
            errors.print("Stopping")
            control.stop(instance, supervisor)
        raise typer.Exit(0 if foreground else 130) from None


def _to_start(cluster: bool) -> Instance:
    """The stack that `up` means: a cluster where asked for, else the one that runs, else the embedded one."""
    instance = cluster_from_environment() if cluster else from_environment()
    if instance.settings.cluster:
        if control.running(embedded_from_environment()):
            fail("The stack runs already, one of each; stop it first with ./mymacro down.")
        if missing := redis.problem():
            fail(missing)
    return instance


def _welcome(instance: Instance, state: State, *, started: bool) -> None:
    for note in state.notes:
        console.print(f"[yellow]{note}[/yellow]")
    after = f" after {state.ready_after_s} s" if started and state.ready_after_s else ""
    what = state_shown.where(state, instance.url)
    console.print(f"[green]ready[/green]{after}: {what}", highlight=False, soft_wrap=True)
    if "gateway" in state.kinds:
        from infra.local import account

        console.print(account.what_to_try(instance), highlight=False, soft_wrap=True)


@app.command()
def down() -> None:
    """Stop the whole stack; its data stays."""
    console.print("stopped" if control.stop(from_environment()) else "nothing was running")


@app.command()
def status() -> None:
    """Show each process: pid, port, state, memory, restarts. Exit code 1 unless all is ready."""
    instance = from_environment()
    state = control.state(instance)
    if state is None or not control.running(instance):
        fail("The stack is not running; start it with ./mymacro up.")
    readers, silent = _readers(instance) if instance.settings.cluster else ({}, "")
    state_shown.show(console, state, readers)
    if silent:
        console.print(Text(silent, "yellow"), soft_wrap=True)
    for note in state.notes:
        console.print(f"[yellow]{note}[/yellow]", soft_wrap=True)
    if not silent and any(one["state"] == "ready" for name, one in state.processes.items() if kind_of(name) == "kafka"):
        from infra.local import dlq_actions

        console.print(Text(dlq_actions.warning(instance.bootstrap_servers), "yellow"), soft_wrap=True, end="")
    if any(process["state"] != "ready" for process in state.processes.values()):
        raise typer.Exit(1)


def _readers(instance: Instance) -> tuple[dict[str, str], str]:
    """What each process reads, or why that is not known."""
    import asyncio

    from infra.local import brokers

    try:
        return asyncio.run(brokers.readers(instance.bootstrap_servers)), ""
    except brokers.NoAnswer as error:
        return {}, f"Who reads which partitions is not known: {error}"


@app.command()
def restart(
    names: Annotated[
        list[str] | None, typer.Argument(help="Processes (ingest-2) or kinds (ingest); none: all there are several of.")
    ] = None,
    one_by_one: Annotated[bool, typer.Option("--rolling", help="Each in turn, the next when it is back.")] = False,
) -> None:
    """End each process as a deployment would, and wait until it is back; in a cluster no request is lost by it."""
    from infra.local import rolling

    if not one_by_one:
        fail("Say --rolling to restart one after the other; for all at once there are ./mymacro down and up.")
    instance = from_environment()
    state = control.state(instance)
    if state is None or not control.running(instance):
        fail("The stack is not running; start it with ./mymacro up.")
    try:
        meant = rolling.named(state, names or ())
        took = rolling.restart(instance, meant, lambda text: console.print(text, highlight=False, soft_wrap=True))
    except StackError as error:
        fail(str(error))
    console.print(f"{len(meant)} restarted in {took:.0f} s", highlight=False)


@app.command()
def demo(
    story: Annotated[
        Literal["all", "partner", "webhooks"],
        typer.Argument(help="partner: consent in a browser, and its end; webhooks: down, back again, replayed."),
    ] = "all",
    kill: Annotated[str | None, typer.Option(help="Kill this process (-9) in the middle of the story.")] = None,
) -> None:
    """Tell the two stories on the running stack: a day of samples, and a photo of a label. Or one of partners'."""
    from infra.local import account, browser
    from infra.local.demo import victim_unknown
    from infra.local.phone import Refused

    instance = from_environment()
    if not control.running(instance):
        fail("The stack is not running; start it with ./mymacro up.")
    if kill is not None and (unknown := victim_unknown(kill, control.state(instance))):
        fail(unknown)
    if story != "all" and kill is not None:
        fail(f"Nobody is killed in the story of {story}; leave --kill out.")
    if story == "partner" and browser.CHROMIUM is None:
        fail("The partner's story needs Chromium: apt-get install chromium.")
    try:
        if story == "all":
            code = account.tell_demo(instance, kill, console)
        else:
            code = (account.tell_partner if story == "partner" else account.tell_webhooks)(instance, console)
    except (StackError, Refused, RuntimeError, OSError) as error:  # the story says what broke; a timeout says nothing
        fail(str(error) or "The story did not go on in time; see ./mymacro status and the logs.")
    raise typer.Exit(code)


@app.command()
def trace(trace_id: Annotated[str, typer.Argument(help="A trace id, as in the answer's trace-id header.")]) -> None:
    """Draw a request as a tree: service, span, milliseconds."""
    from infra.local import trace_tree

    store = from_environment().traces
    if not trace_tree.spans(store, trace_id):
        fail(f"No spans of trace {trace_id} (yet, or any more: they are kept for 24 hours).")
    console.print(trace_tree.draw(store, trace_id))


@app.command()
def rewind(
    service: Annotated[str, typer.Argument(help="A service that is stopped, such as insights.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much it would read.")] = False,
) -> None:
    """Let a stopped service read its topics from the beginning again, after its database was lost."""
    import asyncio

    from infra.local import dlq_actions
    from infra.local.rewind import rewind as put_back

    try:
        found = asyncio.run(put_back(dlq_actions.servers(), service, dry_run=dry_run))
    except dlq_actions.NoAnswer as error:
        fail(str(error))
    for topic, count in found.items():
        console.print(f"{topic}: {count:,} records {'would be' if dry_run else 'to be'} read again", highlight=False)


def main() -> None:
    """Run the command; a full or read-only disk or a wrong setting is one sentence, not a trace."""
    command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    try:
        if command in WITHOUT_ENV_FILE:
            os.environ[env_file.NAMED] = ""
        warnings = env_file.load(ROOT / ".env")
        if command == "up":
            for warning in warnings:
                errors.print(Text(warning, "yellow"), soft_wrap=True)
        app(prog_name="./mymacro")
    except ValidationError as error:
        sys.exit(f"mymacro: {wrong(error)}")
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES):
            sys.exit(f"mymacro: {error.filename or ROOT} can't be written: {error.strerror}.")
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"mymacro: the disk of {ROOT} is full.")


if __name__ == "__main__":
    main()
