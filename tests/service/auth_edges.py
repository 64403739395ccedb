"""Auth on the real app, as all of its tests run it."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from services.auth.app import create_app
from services.auth.settings import Settings
from shared.clock import Clock, utc_now
from shared.kafka import make_broker
from shared.topics import Topic
from tests.service.running import Running, common_settings, running


def auth_in(
    folder: Path, *, clock: Clock = utc_now, listen: Sequence[Topic] = (), **changed: Any
) -> AbstractAsyncContextManager[Running]:
    """The service on what lies in `folder`; `changed` are settings."""
    values = common_settings(folder) | {
        "auth_signing_key_path": folder / "auth.jwk",
        "auth_pepper_path": folder / "auth-pepper.key",
        "auth_mail_folder": folder / "mail",
    }
    settings = Settings(**values | changed)
    broker = make_broker(settings, "auth")
    app = create_app(settings, broker=broker, clock=clock)
    return running(app, broker, "auth", folder, listen=[topic.name for topic in listen])


def problem(answer: Any) -> tuple[int, str]:
    """Status and last part of the type."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["detail"]
    assert document["status"] == answer.status_code
    return answer.status_code, document["type"].rsplit("/", 1)[1]
