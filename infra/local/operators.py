"""Operators' commands that work on services and Kafka wherever they are: on this machine, or from a container."""

import typer

from infra.local import audit_command, dlq, partners_command, republish, secret_keys, signing_keys, users_command

COMMANDS = {
    "audit": audit_command.app,
    "dlq": dlq.app,
    "keys": signing_keys.app,
    "partners": partners_command.app,
    "republish": republish.app,
    "secrets": secret_keys.app,
    "users": users_command.app,
}


def register(app: typer.Typer) -> None:
    """Add them."""
    for name, commands in COMMANDS.items():
        app.add_typer(commands, name=name)
