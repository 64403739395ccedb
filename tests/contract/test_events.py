"""Every event has a worked example that today's models read and write back unchanged."""

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError

from shared import topics
from shared.events.gateway import BatchSubmitted, RefusedRecord, SeriesColumns
from shared.events.ingest import DayUpdated
from shared.ids import derived_id, new_event_id

EXAMPLES = {path.stem: path for path in (Path(__file__).parent / "events").glob("*.json")}
DECLARED = {model.model_fields["type"].default: model for topic in topics.TOPICS for model in topic.events}


def test_every_declared_event_has_an_example():
    assert set(EXAMPLES) == set(DECLARED)


@pytest.mark.parametrize("type", sorted(EXAMPLES))
def test_example_reads_and_writes_back_unchanged(type: str):
    example = json.loads(EXAMPLES[type].read_text())
    assert DECLARED[type].model_validate(example).model_dump(mode="json") == example


@pytest.mark.parametrize("type", sorted(EXAMPLES))
def test_readers_ignore_fields_they_do_not_know(type: str):
    example = json.loads(EXAMPLES[type].read_text()) | {"added_later": 1}
    assert DECLARED[type].model_validate_json(json.dumps(example)).type == type


def test_every_event_carries_the_key_of_its_topic():
    for topic in topics.TOPICS:
        for model in topic.events:
            assert topic.key in model.model_fields, (topic.name, model)


def test_a_time_without_a_zone_is_refused():
    example = json.loads(EXAMPLES["day.updated"].read_text()) | {"occurred_at": "2026-03-01T08:30:00"}
    with pytest.raises(ValidationError, match="zone"):
        DayUpdated.model_validate(example)


def test_a_batch_travels_as_messagepack_columns():
    batch = BatchSubmitted(
        event_id=new_event_id(),
        occurred_at=datetime(2026, 3, 1, tzinfo=UTC),
        user_id="u",
        receipt_id="rcp_a",
        device_id="watch",
        device_kind="watch",
        app="demo/1.0",
        zone="Europe/Berlin",
        received=3,
        series=(
            SeriesColumns(
                metric="steps",
                start_us=np.array([1, 2], "<i8").tobytes(),
                end_us=np.array([2, 3], "<i8").tobytes(),
                value=np.array([10.0, 11.0], "<f8").tobytes(),
                offset_minutes=np.array([60, 60], "<i2").tobytes(),
                index=np.array([0, 1], "<u4").tobytes(),
                identity=bytes(32),
                version=np.array([0, 0], "<i8").tobytes(),
            ),
        ),
        refused=(RefusedRecord(2, "invalid-record"),),
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=BatchSubmitted) == batch


def test_derived_ids_depend_on_every_part_and_its_border():
    assert derived_id("a", "b") == derived_id("a", "b")
    assert derived_id("ab", "") != derived_id("a", "b")
