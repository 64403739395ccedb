"""`./mymacro`: the command line of the project."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from infra.local import (
    audit_command,
    control,
    dlq,
    env_file,
    partners_command,
    private,
    republish,
    secret_keys,
    setup,
    signing_keys,
    state_shown,
    tables,
    testing,
    users_command,
    webhooks_command,
    webhooks_replay_command,
)
from infra.local.control import State
from infra.local.environment import ROOT, SetupError
from infra.local.instance import Instance, from_environment
from infra.local.settings import wrong
from infra.local.stack import StackError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console()
errors = Console(stderr=True)
app.add_typer(audit_command.app, name="audit")
app.add_typer(dlq.app, name="dlq")
app.add_typer(partners_command.app, name="partners")
app.add_typer(republish.app, name="republish")
app.add_typer(secret_keys.app, name="secrets")
app.add_typer(signing_keys.app, name="keys")
app.add_typer(users_command.app, name="users")
webhooks_replay_command.register(webhooks_command.app)
app.add_typer(webhooks_command.app, name="webhooks")
# They start stacks of their own, or none: what stands in .env is not for those.
WITHOUT_ENV_FILE = ("bench", "check", "docs", "faults", "lock", "test")
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def fail(message: str, code: int = 1) -> NoReturn:
    """End with one sentence."""
    errors.print(f"[red]{message}[/red]", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@app.command()
def up(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and stop everything on Ctrl-C.")] = False,
) -> None:
    """Start the whole stack and return when it is ready; harmless when it runs already."""
    instance = from_environment()
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


def _welcome(instance: Instance, state: State, *, started: bool) -> None:
    for note in state.notes:
        console.print(f"[yellow]{note}[/yellow]")
    after = f" after {state.ready_after_s} s" if started and state.ready_after_s else ""
    what = state_shown.where(state, instance.url)
    console.print(f"[green]ready[/green]{after}: {what}", highlight=False, soft_wrap=True)
    if "gateway" in state.processes:
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
    titles = ("process", "pid", "port", "state", "memory", "restarts", "last end")
    tables.listed(console, titles, state_shown.rows(state), right={"pid", "port", "memory", "restarts"})
    for note in state.notes:
        console.print(f"[yellow]{note}[/yellow]", soft_wrap=True)
    if state.processes.get("kafka", {}).get("state") == "ready":
        from infra.local import dlq_actions

        console.print(Text(dlq_actions.warning(instance.bootstrap_servers), "yellow"), soft_wrap=True, end="")
    if any(process["state"] != "ready" for process in state.processes.values()):
        raise typer.Exit(1)


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
    from infra.local.demo import VICTIMS
    from infra.local.phone import Refused

    instance = from_environment()
    if not control.running(instance):
        fail("The stack is not running; start it with ./mymacro up.")
    if kill is not None and kill not in VICTIMS:
        fail(f"There is no process {kill!r}; there are {', '.join(VICTIMS)}.")
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


@app.command(context_settings=PASS_ON)
def test(context: typer.Context) -> None:
    """Run the tests, beside a running stack; --all includes the slow ones, the rest goes to pytest."""
    arguments = list(context.args)
    everything = "--all" in arguments
    arguments = [argument for argument in arguments if argument != "--all"]
    try:
        setup.test_tools(from_environment().tools, errors)
    except SetupError as error:
        fail(str(error))
    os.environ["MYMACRO_TEST_ALL"] = "1" if everything else ""
    raise typer.Exit(testing.run(arguments))


@app.command()
def check() -> None:
    """Format, lint, types, dependency rule and drift of generated files."""
    tools = Path(sys.executable).parent
    steps = {
        "format": [str(tools / "ruff"), "format", "--check", "."],
        "lint": [str(tools / "ruff"), "check", "."],
        "types": [str(tools / "pyright")],
        "imports": [str(tools / "lint-imports"), "--no-cache"],
    }
    failed: list[str] = []
    for name, command in steps.items():
        started = time.monotonic()
        if subprocess.call(command, cwd=ROOT):
            failed.append(name)
        errors.print(f"{name}: {'failed' if name in failed else 'ok'} in {time.monotonic() - started:.1f} s")
    from infra.local.docs import drift

    if old := drift():
        failed.append("drift")
        errors.print(f"drift: {', '.join(old)} no longer match the code; run ./mymacro docs")
    if failed:
        fail(f"Failed: {', '.join(failed)}.")


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


@app.command()
def docs() -> None:
    """Write the files that are made from the code anew: .env.example, OpenAPI, AsyncAPI, the page of metrics."""
    from infra.local.docs import write

    console.print(f"Written: {', '.join(write()) or 'nothing, all were current'}.")


@app.command(context_settings=PASS_ON)
def bench(context: typer.Context, name: Annotated[str, typer.Argument(help="One of those listed.")] = "") -> None:
    """Run one benchmark of benchmarks/; without a name, list them."""
    there = {
        path.stem: path for path in sorted((ROOT / "benchmarks").glob("[a-z]*.py")) if "def main" in path.read_text()
    }
    if not name:
        for known, path in there.items():
            console.print(f"{known:19}{path.read_text().splitlines()[0].strip(chr(34))}", soft_wrap=True)
        return
    if name not in there:
        fail(f"There is no benchmark {name!r}; there are {', '.join(there)}.")
    try:
        setup.tools(from_environment().tools, errors)
    except SetupError as error:
        fail(str(error))
    raise typer.Exit(subprocess.call([sys.executable, "-m", f"benchmarks.{name}", *context.args], cwd=ROOT))


@app.command(context_settings=PASS_ON)
def faults(context: typer.Context) -> None:
    """Kill, stop, lock and fill a stack of its own under load, and count what was lost; --help lists the options."""
    try:
        setup.tools(from_environment().tools, errors)
    except SetupError as error:
        fail(str(error))
    raise typer.Exit(subprocess.call([sys.executable, "-m", "tests.faults.suite", *context.args], cwd=ROOT))


@app.command()
def lock() -> None:
    """Compile every lock anew from the wanted packages."""
    try:
        setup.lock(errors)
    except SetupError as error:
        fail(str(error))


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
