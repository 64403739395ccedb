"""uvicorn's HTTP with what it lacks: a bound on a request's head, problems for what is no HTTP, and an end at once.

httptools keeps all headers of a request, however many come, before anybody has been asked who the caller is.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.errors import Problem
from shared.leaving import State
from shared.problems import problem_response

MAX_HEAD_BYTES = 64 * 1024
ABORT = "mymacrotracker.abort"


def abort_of(scope: Scope) -> Callable[[], None]:
    """What ends the request's connection at once, without what was not sent yet; a client that reads nothing holds it.

    An application can do so by no message of ASGI; under another server than ours it ends nothing.
    """
    extensions = cast(dict[str, dict[str, Callable[[], None]]], scope.get("extensions") or {})
    return extensions.get(ABORT, {}).get(ABORT, _nothing)


def _nothing() -> None:
    """There is nothing to end it by."""


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    # Bytes since the last request's end; below zero while its body is under way, which the app itself bounds.
    _head = 0.0

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD_BYTES and not self.transport.is_closing():
            detail = f"Send a request line and headers of at most {MAX_HEAD_BYTES} bytes together."
            self._refuse(Problem(431, "headers-too-large", detail))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {ABORT: self.transport.abort}}

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head = float("-inf")
        super().on_headers_complete()
        if isinstance(self.server_state, State) and self.server_state.leaving:
            self.leave()  # its answer says so

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._head = 0.0
        super().on_message_complete()

    def leave(self) -> None:
        """Close with the answer that is under way; a connection that waits for a request lives until its next one."""
        # One that begins with a WebSocket's handshake has none.
        if (cycle := getattr(self, "cycle", None)) is not None:
            cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gives up."""
        self._refuse(Problem(400, "not-http", "This is no HTTP request that can be read; check its lines and headers."))

    def _refuse(self, problem: Problem) -> None:
        answer = problem_response(problem)
        answer.headers["connection"] = "close"
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in answer.raw_headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(answer.body))
        self.transport.close()
