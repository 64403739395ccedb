"""Commands for who works on the project: its tests, checks, benchmarks, faults, generated files and locks."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from infra.local import setup, testing
from infra.local.environment import ROOT, SetupError
from infra.local.instance import from_environment

console = Console()
errors = Console(stderr=True)


def register(app: typer.Typer) -> None:
    """Add them; what follows the name of a test, a benchmark or the faults is theirs."""
    pass_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": list[str]()}
    for command in (test, bench, faults):
        app.command(context_settings=pass_on)(command)
    for command in (check, docs, lock):
        app.command()(command)


def _fail(message: str) -> NoReturn:
    errors.print(f"[red]{message}[/red]", highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def test(context: typer.Context) -> None:
    """Run the tests, beside a running stack; --all includes the slow ones, the rest goes to pytest."""
    arguments = list(context.args)
    everything = "--all" in arguments
    arguments = [argument for argument in arguments if argument != "--all"]
    try:
        setup.test_tools(from_environment().tools, errors)
    except SetupError as error:
        _fail(str(error))
    os.environ["MYMACRO_TEST_ALL"] = "1" if everything else ""
    raise typer.Exit(testing.run(arguments))


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
        _fail(f"Failed: {', '.join(failed)}.")


def docs() -> None:
    """Write the files that are made from the code anew: .env.example, OpenAPI, AsyncAPI, pages, the dashboard."""
    from infra.local.docs import write

    console.print(f"Written: {', '.join(write()) or 'nothing, all were current'}.")


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
        _fail(f"There is no benchmark {name!r}; there are {', '.join(there)}.")
    try:
        setup.tools(from_environment().tools, errors)
    except SetupError as error:
        _fail(str(error))
    raise typer.Exit(subprocess.call([sys.executable, "-m", f"benchmarks.{name}", *context.args], cwd=ROOT))


def faults(context: typer.Context) -> None:
    """Kill, stop, lock and fill a stack of its own under load, and count what was lost; --help lists the options."""
    try:
        setup.tools(from_environment().tools, errors)
    except SetupError as error:
        _fail(str(error))
    raise typer.Exit(subprocess.call([sys.executable, "-m", "tests.faults.suite", *context.args], cwd=ROOT))


def lock() -> None:
    """Compile every lock anew from the wanted packages."""
    try:
        setup.lock(errors)
    except SetupError as error:
        _fail(str(error))
