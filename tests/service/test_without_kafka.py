"""A service that starts while Kafka is away serves its reads, and starts on Kafka beside them."""

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from services.inference.app import create_app as inference
from services.inference.settings import Settings as InferenceSettings
from services.ingest.app import create_app as ingest
from services.ingest.settings import Settings as IngestSettings
from services.insights.app import create_app as insights
from services.insights.settings import Settings as InsightsSettings
from services.nutrition.app import create_app as nutrition
from services.nutrition.settings import Settings as NutritionSettings
from services.webhooks.app import create_app as webhooks
from services.webhooks.settings import Settings as WebhooksSettings
from shared.callers import SCOPES, Caller
from shared.internal_tokens import InternalTokenSigner
from shared.kafka import make_broker
from shared.settings import ServiceSettings
from shared.start import starting
from tests.polling import eventually
from tests.service.running import common_settings


@pytest.mark.parametrize(
    ("name", "settings", "create_app", "path", "status"),
    [
        ("ingest", IngestSettings, ingest, "/v1/days/2026-03-01", 404),
        ("inference", InferenceSettings, inference, "/v1/photos/none", 404),
        ("insights", InsightsSettings, insights, "/v1/insights", 200),
        ("nutrition", NutritionSettings, nutrition, "/v1/diary/2026-03-01", 200),
        ("webhooks", WebhooksSettings, webhooks, "/v1/events", 200),
    ],
)
async def test_reads_are_served_while_kafka_is_away(
    name: str,
    settings: Callable[..., Any],
    create_app: Callable[[Any], FastAPI],
    path: str,
    status: int,
    tmp_path: Path,
) -> None:
    common = common_settings(tmp_path)
    servers = f"127.0.0.1:{closed_port()}"
    app = create_app(settings(**common, kafka_bootstrap_servers=servers))
    token = InternalTokenSigner(tmp_path / "internal.jwk").token(Caller("u1", None, frozenset(SCOPES)), name)
    async with (
        asyncio.timeout(20),
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as http,
    ):
        answer = await http.get(path, headers={"Authorization": f"Bearer {token}"})
        live, ready = await http.get("/livez"), await http.get("/readyz")
    assert (answer.status_code, live.status_code, ready.status_code) == (status, 200, 503)
    parts = ready.json()["parts"]
    assert (parts["kafka"] != "ok", parts["database"]) == (True, "ok")


async def test_a_defect_in_the_start_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    # No settings that were looked at hold such an address.
    settings = ServiceSettings().model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:ada@example.org"})
    broker = make_broker(settings, "nutrition")

    def told() -> list[str]:
        return [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]

    async with starting(broker, pause_s=0.01):
        await eventually(lambda: len(told()) >= 2)
    assert all(text.startswith("the start on Kafka failed: ValueError at ") for text in told())
    assert "ada@example.org" not in caplog.text


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
