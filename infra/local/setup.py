"""What the stack needs besides its Python environment: Kafka's jars and Triton's environment. And the locks."""

import fcntl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TaskID, TextColumn

from infra.local import fake_mongo, jars, triton
from infra.local.environment import ROOT, SetupError, tool_environment, uv_command

LOCKED = (
    ("infra/local/uv.in", "infra/local/uv-requirements.lock", ()),
    ("requirements.in", "requirements.lock", ()),
    ("requirements-dev.in", "requirements-dev.lock", ()),
    ("infra/triton/pytriton.in", "infra/triton/pytriton.lock", ("--no-deps",)),
    ("infra/triton/requirements.in", "infra/triton/requirements.lock", ()),
    ("infra/docker/triton-gpu.in", "infra/docker/triton-gpu.lock", ()),
)


def tools(folder: Path, console: Console) -> None:
    """Fetch and check what is missing, with bars for downloads; quick when nothing is.

    Raises:
        SetupError: a download, a hash or the disk failed.
    """
    with (folder / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.complete(folder):
            _jars(folder, console)
        if triton.problem() is None:
            _triton(folder, console)


def test_tools(folder: Path, console: Console) -> None:
    """Fetch what the tests need besides the stack: the server that stands in for MongoDB; quick when it is there.

    Raises:
        SetupError: a download, a hash or the disk failed.
    """
    tools(folder, console)
    if not fake_mongo.complete(folder):
        with _downloads(console, "The tests' document server") as progress:
            fake_mongo.install(folder, progress)


def _triton(folder: Path, console: Console) -> None:
    with console.status("Triton") as shown:
        try:
            triton.install(folder, shown.update, uv=Path(uv_command()))
        except triton.TritonSetupError as error:
            raise SetupError(str(error)) from error


def _jars(folder: Path, console: Console) -> None:
    with _downloads(console, "Kafka's jars") as progress:
        jars.install(folder, progress)


@contextmanager
def _downloads(console: Console, what: str) -> Iterator[jars.Progress]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as progress:
        yield _counted(progress, progress.add_task(what, total=0))


def _counted(progress: Progress, task: TaskID) -> jars.Progress:
    @contextmanager
    def one_file(_name: str, total: int) -> Iterator[Callable[[int], None]]:
        known = progress.tasks[0].total or 0
        progress.update(task, total=known + total)
        yield lambda count: progress.advance(task, count)

    return one_file


def lock(console: Console) -> None:
    """Compile every lock from its `.in` file, and those of the jars from their jgo.toml.

    Raises:
        SetupError: nothing satisfies the wanted versions, or the network failed.
    """
    compile_ = [uv_command(), "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header"]
    for wanted, locked, more in LOCKED:
        console.print(f"{wanted} → {locked}")
        command = [*compile_, "--python-version", "3.11", *more, wanted, "-o", locked]
        if subprocess.run(command, cwd=ROOT, env=tool_environment(), check=False).returncode:
            raise SetupError(f"{wanted} could not be resolved (see above).")
    for source in (jars.KAFKA, jars.FAKE_MONGO):
        count = jars.compile_lock(ROOT / ".mymacro" / "tools", source)
        console.print(f"{(source / jars.SPEC.name).relative_to(ROOT)} → {count} jars")
