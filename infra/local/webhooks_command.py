"""`./mymacro webhooks`: see on this machine what partners' servers get."""

import asyncio
import os
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

import typer
from rich.console import Console
from rich.text import Text

from infra.local.as_partner import asked
from infra.local.operating import NoAnswer

if TYPE_CHECKING:
    from services.webhooks.signing import VerifyingKey

    # An endpoint as the API shows it, what verifies its deliveries, and where they come.
    Prepared = tuple[dict[str, Any], list[VerifyingKey], socket.socket]

app = typer.Typer(no_args_is_help=True, help="Receive, verify and look at webhooks as a partner.")
console = Console()
errors = Console(stderr=True)
PATH = "/v1/webhook-endpoints"
LOOPBACK = ("127.0.0.1", "localhost")
T = TypeVar("T")


@app.callback()
def of_partners() -> None:
    """Receive, verify and look at webhooks as a partner."""


@app.command()
def listen(
    endpoint: Annotated[str | None, typer.Option(help="An endpoint whose URL is on this machine.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Or make one here, as long as this runs.")] = None,
    payload: Annotated[Literal["thin", "full"], typer.Option(help="What the one made here gets.")] = "thin",
    answer: Annotated[int, typer.Option(min=200, max=599, help="Answer this status.")] = 204,
    hang: Annotated[float, typer.Option(min=0, max=3600, help="Answer so many seconds late.")] = 0,
    times: Annotated[int | None, typer.Option(min=1, help="Only the first so many times, then 204 at once.")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="End after so many deliveries.")] = None,
) -> None:
    """Receive deliveries, verify them and print them, until Ctrl-C; fail on demand.

    An endpoint's HMAC secret comes from MYMACRO_WEBHOOK_SECRET, or is asked for.
    """
    if (endpoint is None) is (port is None):
        _fail("Say --endpoint ID or --port N.")
    with _new(port, payload) if port is not None else _known(str(endpoint)) as (known, keys, bound):
        from infra.local.listener import Listener

        listener = Listener(keys, _say, status=answer, times=times, hang_s=hang, most=most)
        ready = f"listening at {known['url']} for endpoint {known['endpoint_id']}; Ctrl-C ends it"
        with suppress(KeyboardInterrupt):
            asyncio.run(listener.listen(bound, lambda: _say(ready)))
    _say(f"{listener.came} deliveries of {len(listener.seen)} messages")


@contextmanager
def _new(port: int, payload: str) -> "Generator[Prepared]":
    """An endpoint for this port as long as this lasts, also one that an earlier run left behind."""
    with _bound(port) as bound:
        made = _ask(lambda: asked("POST", PATH, {"url": f"http://127.0.0.1:{port}/"}, f"listen-{port}"))
        path = f"{PATH}/{made['endpoint_id']}"
        try:
            _ask(lambda: asked("PATCH", path, {"payload": payload, "state": "enabled"}))
            yield made, _keys(made), bound
        finally:
            _ask(lambda: asked("DELETE", path))


@contextmanager
def _known(endpoint_id: str) -> "Generator[Prepared]":
    """The endpoint of that id, which stays."""
    known = _ask(lambda: asked("GET", f"{PATH}/{quote(endpoint_id)}"))
    address, keys = _port(known["url"]), _keys(known)
    with _bound(address) as bound:
        yield known, keys, bound


def _bound(port: int) -> socket.socket:
    """A socket that listens: from now on deliveries wait in it, and none is lost before the first is answered."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        _fail(f"Port {port} can't be listened at: {error.strerror}. Say another --port, or PATCH the endpoint's URL.")


def _port(url: str) -> int:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in LOOPBACK:
        _fail(f"The endpoint's URL {url} is not on this machine; PATCH it to http://127.0.0.1:9000/ first.")
    return parts.port or 80


def _keys(known: dict[str, Any]) -> "list[VerifyingKey]":
    """What verifies: the endpoint's public keys, and its secrets where it has any."""
    from services.webhooks.signing import parsed_key

    shown = [key["public_key"] for key in known["keys"] if key["public_key"]]
    if any(key["signature"] == "hmac" for key in known["keys"]):
        secret = known.get("secret") or os.environ.get("MYMACRO_WEBHOOK_SECRET")
        shown += (secret or typer.prompt("The endpoint's secret (whsec_…)", hide_input=True, err=True)).split()
    try:
        return [parsed_key(key) for key in shown]
    except ValueError as error:
        _fail(f"This is no key: {error}. Give what the API showed: whsec_… of an HMAC key.")


def _ask(question: Callable[[], T]) -> T:
    try:
        return question()
    except NoAnswer as error:
        _fail(str(error))


def _say(text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def _fail(message: str) -> NoReturn:
    errors.print(Text(message, "red"), soft_wrap=True)
    raise typer.Exit(1)
