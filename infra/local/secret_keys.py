"""`./mymacro secrets`: the key-encryption keys of stored secrets.

Works on the file of SECRETS_KEY_PATH, else on this machine's stack. See docs/secrets.md.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from infra.local.instance import from_environment
from shared.secrets import KEY_BYTES, KeysRefused, read_keys

app = typer.Typer(no_args_is_help=True, help="Add or list the keys that stored secrets are encrypted under.")
console = Console()
errors = Console(stderr=True)
BY_VARIABLE = (
    "SECRETS_KEYS is set, so services read no file: write a new key (openssl rand -hex 32) before the others in it, "
    "and restart the services that use it."
)


@app.command()
def rotate() -> None:
    """Add a new key, which seals from now on; the older ones go on opening what they sealed.

    Services notice by themselves, and seal a secret anew when they next use it. Back the file up afterwards.
    """
    path = _path()
    try:
        added = add_key(path, datetime.now(UTC))
    except (KeysRefused, OSError) as error:
        _fail(str(error))
    console.print(f"Key {added} seals from now on. No service needs a restart. Back up {path} now.", soft_wrap=True)


@app.command("list")
def list_() -> None:
    """Show the keys' ids, the newest first; never the keys."""
    try:
        keys = read_keys(_path())
    except KeysRefused as error:
        _fail(str(error))
    for identity in keys.by_id:
        console.print(f"{identity.hex()}  {'seals and opens' if identity == keys.newest else 'opens'}", highlight=False)


def add_key(path: Path, now: datetime) -> str:
    """Put a fresh key before those in the file, in one step that no reader sees half done; returns its id.

    Raises:
        KeysRefused: the file is not there or not in order; it is left as it is.
        OSError: it cannot be written.
    """
    path = path.resolve()
    with _alone(path.parent):
        read_keys(path)
        found, before = path.stat(), path.read_text(encoding="ascii")
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                # Root may rotate for the account that runs the services.
                os.fchown(descriptor, found.st_uid, found.st_gid)
                file.write(f"{secrets.token_hex(KEY_BYTES)}  # since {now:%Y-%m-%dT%H:%M:%SZ}\n{before}")
                file.flush()
                os.fsync(descriptor)
            added = read_keys(draft).newest
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    return added.hex()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One at a time in `folder`; what was renamed in it is on disk at the end."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _path() -> Path:
    if os.environ.get("SECRETS_KEYS"):
        _fail(BY_VARIABLE)
    return Path(os.environ.get("SECRETS_KEY_PATH") or from_environment().keys / "secrets.key")


def _fail(message: str) -> NoReturn:
    errors.print(f"[red]{message}[/red]", highlight=False, soft_wrap=True)
    raise typer.Exit(1)
