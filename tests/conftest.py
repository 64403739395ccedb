"""What holds for every test: no setting of this shell, no address but loopback, no error that nobody saw."""

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from infra.local import fake_mongo as mongo_server
from shared import telemetry
from shared.settings import DEFAULT_PORTS, ServiceSettings
from tests import dialled

OURS = (*(f"{service.upper()}_" for service in DEFAULT_PORTS), "TOKEN_", "OTEL_")
SHARED = {name.upper() for name in ServiceSettings.model_fields}


class NetworkBlocked(RuntimeError):
    """A test wanted to leave this machine."""


def pytest_configure(config: pytest.Config) -> None:
    for name in list(os.environ):
        if name.upper() in SHARED or name.upper().startswith(OURS):
            del os.environ[name]
    sys.addaudithook(_stay_here)


def _stay_here(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        dialled.note(arguments[0], arguments[1])
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and not dialled.is_here(str(address[0])):
            raise NetworkBlocked(f"tests may not connect to {address[0]}")
    elif event == "socket.getaddrinfo" and arguments[0]:
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else str(arguments[0])
        if not dialled.is_here(host):
            raise NetworkBlocked(f"tests may not look up {host}")


class _Seen(logging.Filter):
    """Remembers what asyncio reports because nobody waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage())
        return True


@pytest.fixture(autouse=True)
def quiet_background() -> Iterator[None]:
    """Fail on a task's lost exception or an unclosed session; leave logging and traces as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    seen = _Seen()
    logging.getLogger("asyncio").addFilter(seen)
    yield
    logging.getLogger("asyncio").removeFilter(seen)
    telemetry.shutdown()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    assert not seen.errors, f"in the background: {seen.errors}"


@pytest.fixture(scope="session")
def fake_mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that speaks MongoDB's protocol; add the name of a database of your own."""
    with mongo_server.serving(tmp_path_factory.mktemp("mongo"), mongo_server.install()) as address:
        yield address
