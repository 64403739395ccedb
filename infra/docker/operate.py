"""What operators do in containers: `docker compose run --rm operator users --help`, and so on.

These are the commands of `./mymacro` that work on services and Kafka wherever they are.
"""

import typer

from infra.local import audit_command, dlq, partners_command, republish, secret_keys, signing_keys, users_command

app = typer.Typer(no_args_is_help=True)
app.add_typer(audit_command.app, name="audit")
app.add_typer(dlq.app, name="dlq")
app.add_typer(partners_command.app, name="partners")
app.add_typer(republish.app, name="republish")
app.add_typer(secret_keys.app, name="secrets")
app.add_typer(signing_keys.app, name="keys")
app.add_typer(users_command.app, name="users")

if __name__ == "__main__":
    app()
