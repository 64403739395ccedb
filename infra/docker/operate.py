"""What operators do in containers: `docker compose run --rm operator users --help`, and so on."""

import typer

from infra.local import operators

app = typer.Typer(no_args_is_help=True)
operators.register(app)

if __name__ == "__main__":
    app()
