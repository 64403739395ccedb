"""What `/v1/event-types` says: each type's scope, JSON Schemas and worked examples, out of the models themselves."""

from typing import Any

from pydantic import BaseModel, Field

from services.webhooks.examples import EXAMPLES, MESSAGE_ID
from services.webhooks.public import (
    ENDPOINT_DISABLED,
    ENDPOINT_TEST,
    TYPES,
    USER_ERASED,
    Body,
    EndpointDisabledData,
    EndpointTestData,
    ThinData,
    UserErasedData,
    thin,
)
from services.webhooks.public_data import Public

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OPERATIONAL_MODELS: dict[str, type[Public]] = {
    USER_ERASED: UserErasedData,
    ENDPOINT_TEST: EndpointTestData,
    ENDPOINT_DISABLED: EndpointDisabledData,
}


class Payloads(BaseModel):
    """By payload; null where the type has no thin form, because it says nothing of a user's data."""

    thin: dict[str, Any] | None
    full: dict[str, Any]


class EventTypeView(BaseModel):
    """One type. `scope` is what a user grants; null: it comes to every endpoint that it concerns."""

    type: str = Field(examples=["day.updated"])
    description: str
    scope: str | None
    schemas: Payloads = Field(description="JSON Schemas (2020-12) of the whole body")
    examples: Payloads = Field(description="A body that the schema describes")


class EventTypes(BaseModel):
    """Every type of message, those that endpoints can ask for first."""

    event_types: list[EventTypeView]


def event_types() -> EventTypes:
    """All of them."""
    asked_for = [_view(name, one.data, one.scope) for name, one in TYPES.items()]
    return EventTypes(event_types=asked_for + [_view(name, model, None) for name, model in OPERATIONAL_MODELS.items()])


def _view(name: str, model: type[Public], scope: str | None) -> EventTypeView:
    body = EXAMPLES[name].model_dump(mode="json")
    has_thin = name in TYPES
    return EventTypeView(
        type=name,
        description=" ".join((model.__doc__ or "").split()),
        scope=scope,
        schemas=Payloads(thin=_schema(name, ThinData) if has_thin else None, full=_schema(name, model)),
        examples=Payloads(thin=body | {"data": thin(MESSAGE_ID, body["data"])} if has_thin else None, full=body),
    )


def _schema(name: str, model: type[Public]) -> dict[str, Any]:
    """Of the body: what `Body` says, with the type's name and its own `data`."""
    schema = Body.model_json_schema(mode="serialization")
    data = model.model_json_schema(mode="serialization")
    shared = data.pop("$defs", {})
    schema["properties"] |= {
        "type": {"const": name, "type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "data": data,
    }
    described = {"$schema": DIALECT, "title": name, "description": data.get("description", ""), "$defs": shared}
    return described | {key: schema[key] for key in ("type", "properties", "required")}
