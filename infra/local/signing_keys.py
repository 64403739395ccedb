"""`./mymacro keys`: the keys that access tokens are signed with.

Works beside the file of AUTH_SIGNING_KEY_PATH, else on this machine's stack.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.console import Console

from infra.local.instance import from_environment

app = typer.Typer(no_args_is_help=True, help="Add or list the keys that access tokens are signed with.")
console = Console()
errors = Console(stderr=True)


@app.command()
def rotate() -> None:
    """Add a key that signs access tokens ten minutes from now; nobody is signed out and nothing restarts.

    Until then it is only published, so that every gateway knows it in time. The old key stays published until the last
    token that it signed is over. With several auth processes on several machines, copy the new file to each at once.
    """
    # Not for every command: it takes FastAPI along, which takes half a second to import.
    from services.auth.signing import PUBLISHED_AHEAD, add_key

    try:
        path, signs_from = add_key(_path(), datetime.now(UTC))
    except OSError as error:
        errors.print(f"[red]No key was added: {error}[/red]", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    console.print(
        f"{path} signs from {signs_from:%Y-%m-%d %H:%M:%S} UTC, in {PUBLISHED_AHEAD.seconds // 60} minutes. Keep the "
        "older files; back this one up.",
        highlight=False,
        soft_wrap=True,
    )


@app.command("list")
def list_() -> None:
    """Show the ids of the keys that are published, and which one signs; never the keys."""
    from services.auth.signing import SigningKeys

    now = datetime.now(UTC)
    try:
        keys = SigningKeys(_path())
    except (OSError, ValueError) as error:
        errors.print(f"[red]{error}[/red]", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    signing = keys.signing(now).kid
    for key in keys.jwks(now)["keys"]:
        console.print(f"{key['kid']}  {'signs' if key['kid'] == signing else 'published'}", highlight=False)


def _path() -> Path:
    return Path(os.environ.get("AUTH_SIGNING_KEY_PATH") or from_environment().keys / "auth.jwk")
