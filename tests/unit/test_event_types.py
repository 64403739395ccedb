"""What is published about messages is what is sent."""

from typing import Any

import jsonschema_rs
import msgspec
import pytest

from services.webhooks.event_types import OPERATIONAL_MODELS, EventTypeView, event_types
from services.webhooks.mapping import public_message
from services.webhooks.public import OPERATIONAL, TYPES, Body, ThinData, thin
from shared.callers import SCOPES
from tests.unit.test_public_messages import AT, EVENTS

PUBLISHED = {one.type: one for one in event_types().event_types}
WITH_DATA = [pytest.param(PUBLISHED[name], id=name) for name in TYPES]


def check(schema: dict[str, Any], body: Any) -> None:
    """Raises jsonschema_rs.ValidationError where the schema is not of this body, or is no schema."""
    jsonschema_rs.meta.validate(schema)
    jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(body)


def sent(data: dict[str, Any], name: str) -> Any:
    return msgspec.json.decode(Body(type=name, timestamp=AT, data=data).model_dump_json())


def test_every_type_is_published_with_its_scope():
    assert list(PUBLISHED) == [*TYPES, *OPERATIONAL_MODELS]
    assert set(OPERATIONAL_MODELS) == OPERATIONAL
    assert [one.scope for one in PUBLISHED.values()] == [*(one.scope for one in TYPES.values()), None, None, None]
    assert {one.scope for one in PUBLISHED.values()} <= {*SCOPES, None}
    assert all(one.description for one in PUBLISHED.values())


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_what_is_sent_fits_its_schemas(event: Any):
    message = public_message(event)
    data, published = message.numbered(7, "0" * 32), PUBLISHED[message.type]
    check(published.schemas.full, sent(data, message.type))
    assert published.schemas.thin is not None
    check(published.schemas.thin, sent(thin(message.message_id, data), message.type))


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_examples_fit_their_schemas_and_no_other_types(published: EventTypeView):
    check(published.schemas.full, published.examples.full)
    for other in PUBLISHED.values():
        if other.type != published.type:
            with pytest.raises(jsonschema_rs.ValidationError):
                check(other.schemas.full, published.examples.full)


@pytest.mark.parametrize("published", WITH_DATA)
def test_examples_show_every_field(published: EventTypeView):
    assert set(published.examples.full["data"]) == set(TYPES[published.type].data.model_fields)


@pytest.mark.parametrize("published", WITH_DATA)
def test_thin_messages_say_where_and_nothing_of_the_data(published: EventTypeView):
    schema, example = published.schemas.thin, published.examples.thin
    assert schema is not None
    assert example is not None
    check(schema, example)
    assert set(example["data"]) == set(ThinData.model_fields)
    with pytest.raises(jsonschema_rs.ValidationError):
        check(schema, published.examples.full)
    assert example["data"]["link"].startswith("/v1/")


def test_a_schema_refuses_a_field_too_many():
    published = PUBLISHED["photo.rejected"]
    body = published.examples.full
    with pytest.raises(jsonschema_rs.ValidationError, match="weight"):
        check(published.schemas.full, body | {"data": body["data"] | {"weight": 1}})
