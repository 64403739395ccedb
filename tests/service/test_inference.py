"""The inference service with its real database, objects and front door; only Triton is a stand-in."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from infra.local.labels import render_label
from services.inference.app import create_app
from services.inference.settings import Settings
from services.inference.table import Line
from services.inference.triton import OcrResult
from shared import topics
from shared.errors import Unavailable
from shared.events.event import ObjectRef
from shared.events.gateway import PhotoSubmitted
from shared.events.inference import PhotoRead, PhotoRejected
from shared.kafka import make_broker
from shared.objects import Objects
from tests.labels import LABELS
from tests.polling import eventually
from tests.service.running import Running, common_settings, running
from tests.unit.test_readings import recorded

USER = "user-1"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEAD = topics.PHOTOS.dead_letters("inference")
PICTURE = render_label()


@dataclass
class FakeTriton:
    """Answers with a recording; `away` makes it unavailable, `hold` keeps it busy."""

    lines: list[Line] = field(default_factory=lambda: recorded("demo"))
    away: bool = False
    defect: bool = False
    hold: asyncio.Event | None = None
    pictures: list[bytes] = field(default_factory=list)

    async def read(self, picture: bytes) -> OcrResult:
        self.pictures.append(picture)
        if self.hold is not None:
            await self.hold.wait()
        if self.away:
            raise Unavailable("triton")
        if self.defect:
            raise KeyError("a defect")
        return OcrResult(self.lines, "ab" * 32)

    async def answers(self) -> bool:
        return not self.away

    async def close(self) -> None:
        return


@dataclass
class Inference:
    """The running service, its stand-in and its object store."""

    running: Running
    triton: FakeTriton
    objects: Objects

    async def submit(self, photo_id: str, picture: bytes = PICTURE, *, put: bool = True, **more: Any) -> PhotoSubmitted:
        digest = sha256(picture).hexdigest()
        key = f"inference/{USER}/{digest}"
        if put:
            await self.objects.put(key, picture)
        event = PhotoSubmitted(
            event_id=f"submitted-{photo_id}",
            occurred_at=datetime(2026, 3, 1, 8, tzinfo=UTC),
            user_id=USER,
            photo_id=photo_id,
            object=ObjectRef(key=key, sha256=digest, size_bytes=len(picture), content_type="image/png"),
            **more,
        )
        await self.running.send(topics.PHOTOS, event, traceparent=TRACEPARENT)
        return event

    async def photo(self, photo_id: str, user_id: str = USER) -> dict[str, Any]:
        answer = await self.running.get(f"/v1/photos/{photo_id}", user_id=user_id, scopes=("photos:read",))
        return answer.json() | {"status": answer.status_code}

    async def ended(self, photo_id: str) -> dict[str, Any]:
        async def known() -> dict[str, Any] | None:
            photo = await self.photo(photo_id)
            return photo if photo.get("state") in ("read", "rejected") else None

        return await eventually(known)

    def readings(self) -> list[PhotoRead | PhotoRejected]:
        models: dict[str, Any] = {"photo.read": PhotoRead, "photo.rejected": PhotoRejected}
        values = self.running.published[topics.READINGS.name]
        return [models[json.loads(value)["type"]].model_validate_json(value) for value in values]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Inference]:
    settings = Settings(**common_settings(tmp_path))
    broker, triton = make_broker(settings, "inference"), FakeTriton()
    app = create_app(settings, broker=broker, ocr=triton)
    async with running(app, broker, "inference", tmp_path, listen=(topics.READINGS.name, DEAD)) as one:
        yield Inference(one, triton, Objects(settings.objects_url))


async def test_a_photo_is_read_and_its_original_deleted(service: Inference) -> None:
    eaten_at = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    event = await service.submit("p1", grams=Decimal("80"), eaten_at=eaten_at)
    photo = await service.ended("p1")
    assert (photo["status"], photo["state"], photo["name"]) == (200, "read", "Crunchy Oat Muesli")
    assert {name: Decimal(one["amount"]) for name, one in photo["reading"].items()} == LABELS[0].expected
    assert photo["mode"] == {"model": "label_ocr", "weights_sha256": "ab" * 32, "fallback": False}
    (read,) = await eventually(service.readings)
    assert isinstance(read, PhotoRead)
    assert (read.photo_id, read.grams, read.eaten_at) == ("p1", Decimal("80"), eaten_at)
    assert await eventually(lambda: _gone(service, event))


async def _gone(service: Inference, event: PhotoSubmitted) -> bool:
    return await service.objects.get(event.object.key) is None


async def test_triton_gets_clean_pixels_only(service: Inference) -> None:
    await service.submit("p1", PICTURE + b"SECRET-TRAILER")
    await service.ended("p1")
    (picture,) = service.triton.pictures
    assert picture.startswith(b"\xff\xd8\xff")
    assert b"SECRET" not in picture


async def test_the_same_submission_twice_is_read_once(service: Inference) -> None:
    await service.submit("p1")
    await service.ended("p1")
    await service.submit("p1", put=False)
    assert (await service.photo("p1"))["state"] == "read"
    assert len(service.triton.pictures) == 1
    assert len({one.event_id for one in await eventually(service.readings)}) == 1


async def test_a_late_repeat_leaves_no_original_behind(service: Inference) -> None:
    event = await service.submit("p1")
    await service.ended("p1")
    assert await eventually(lambda: _gone(service, event))
    await service.submit("p1")
    assert await eventually(lambda: _gone(service, event))
    assert len(service.triton.pictures) == 1


async def test_the_same_bytes_under_another_id_read_alike(service: Inference) -> None:
    first = await service.submit("p1")
    await service.ended("p1")
    assert await eventually(lambda: _gone(service, first))
    await service.submit("p2", put=False)
    assert (await service.ended("p2"))["reading"] == (await service.photo("p1"))["reading"]
    assert len(service.triton.pictures) == 1


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (PICTURE[: len(PICTURE) // 2], "truncated-picture"),
        (b"GIF89a" + bytes(100), "unsupported-picture"),
        (render_label(image_format="GIF"), "unsupported-picture"),
    ],
)
async def test_a_bad_picture_ends_as_rejected(service: Inference, picture: bytes, reason: str) -> None:
    event = await service.submit("p1", picture)
    photo = await service.ended("p1")
    assert (photo["state"], photo["reason"], photo["reading"]) == ("rejected", reason, None)
    (told,) = await eventually(service.readings)
    assert isinstance(told, PhotoRejected)
    assert (told.reason, told.detail) == (reason, photo["detail"])
    assert await eventually(lambda: _gone(service, event))
    assert service.triton.pictures == []


async def test_no_label_in_the_picture(service: Inference) -> None:
    service.triton.lines = recorded("demo")[:3]
    await service.submit("p1")
    assert (await service.ended("p1"))["reason"] == "no-label-found"


async def test_an_original_that_is_gone(service: Inference) -> None:
    await service.submit("p1", put=False)
    assert (await service.ended("p1"))["reason"] == "picture-missing"


async def test_triton_away_makes_photos_wait_and_readiness_says_so(
    service: Inference, caplog: pytest.LogCaptureFixture
) -> None:
    service.triton.away = True
    await service.submit("p1")
    await eventually(lambda: service.triton.pictures)
    assert (await service.photo("p1"))["state"] == "queued"
    ready = await service.running.http.get("/readyz")
    assert ready.json()["parts"]["triton"] == "not ready"
    assert ready.json()["parts"]["database"] == "ok"
    service.triton.away = False
    assert (await service.ended("p1"))["state"] == "read"
    assert service.running.published[DEAD] == []


async def test_a_defect_is_tried_again(service: Inference, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    service.triton.defect = True
    await service.submit("p1")
    await eventually(lambda: service.triton.pictures)
    service.triton.defect = False
    assert (await service.ended("p1"))["state"] == "read"


async def test_bad_messages_are_dead_letters_and_the_next_is_read(
    service: Inference, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await service.running.send_bytes(topics.PHOTOS, b"{")
    await service.running.send_bytes(topics.PHOTOS, b'{"type": "photo.submitted"}')
    await service.submit("p1")
    assert (await service.ended("p1"))["state"] == "read"
    assert len(service.running.published[DEAD]) == 2


async def test_strangers_see_nothing(service: Inference) -> None:
    await service.submit("p1")
    await service.ended("p1")
    foreign, unknown = await service.photo("p1", "user-2"), await service.photo("p9")
    assert foreign["status"] == 404
    assert foreign | {"instance": ""} == unknown | {"instance": ""}
    answer = await service.running.get("/v1/photos/p1", user_id=USER, scopes=("days:read",))
    assert answer.status_code == 403


async def test_the_trace_goes_on(service: Inference) -> None:
    await service.submit("p1")
    await service.ended("p1")
    job = await service.running.app.state.store.job("p1")
    assert job.traceparent is None or job.traceparent.split("-")[1] == TRACEPARENT.split("-")[1]


def test_events_fit_their_topic() -> None:
    assert topics.READINGS.events == (PhotoRead, PhotoRejected)
