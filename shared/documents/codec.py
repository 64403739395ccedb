"""Documents to BSON and back, the values that indexes hold, and cursors; the same for both engines."""

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

import bson
import msgspec
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from msgspec.structs import replace

from shared.clock import truncated
from shared.documents.port import Collection, Document

D = TypeVar("D", bound=Document)
IndexValue = str | int | float | bytes

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NATIVE = (bytes, datetime)
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
# MongoDB takes documents up to 16 MiB, with id, version and index values.
MAX_BYTES = 15_000_000
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Encoded(Generic[D]):
    """A document ready to be stored: `body` is BSON without id and version, `stored` what a reader will see."""

    stored: D
    body: bytes
    fields: dict[str, Any]


def encode(document: D, version: int) -> Encoded[D]:
    """`document` as it will be stored under `version`.

    Raises:
        ValueError: a time without a zone, a value that BSON cannot hold, or more than 15 MB.
    """
    raw: dict[str, Any] = msgspec.to_builtins(document, builtin_types=NATIVE, str_keys=True)
    del raw["id"], raw["version"]
    rounded = False
    for name in _fields_with_times(type(document)):
        raw[name], changed = _in_utc(raw.get(name))
        rounded = rounded or changed
    try:
        body = bson.encode(raw)
    except (BSONError, OverflowError) as error:
        raise ValueError(f"{type(document).__name__} {document.id} cannot be stored: {error}") from error
    if len(body) > MAX_BYTES:
        raise ValueError(f"{type(document).__name__} {document.id} has {len(body)} bytes; a document may have 15 MB")
    if rounded:
        stored = _convert({**raw, "id": document.id, "version": version}, type(document))
    else:
        stored = replace(document, version=version)
    return Encoded(stored, body, raw)


def decode(collection: Collection[D], id: str, version: int, v: int, body: bytes) -> D:
    """The document in `body`, brought from model version `v` to the collection's.

    Raises:
        msgspec.ValidationError: the body does not fit the model.
    """
    # bson leaves the codec's type open.
    raw: dict[str, Any] = bson.decode(body, CODEC)  # pyright: ignore[reportUnknownMemberType]
    for step in range(v, collection.v):
        raw = collection.upgrades[step](raw)
    return _convert(raw | {"id": id, "version": version}, collection.model)


def index_value(value: Any) -> IndexValue | None:
    """How an index holds `value` (equal values compare equal at the document's precision).

    Raises:
        ValueError: a kind of value whose order would not be that of the original, such as Decimal.
    """
    if isinstance(value, datetime):
        return micros(truncated(value))
    return bound_value(value)


def bound_value(value: Any) -> IndexValue | None:
    """How a range's border compares with what the index holds; times keep their microseconds.

    Raises:
        ValueError: as in `index_value`.
    """
    if isinstance(value, Enum):
        value = value.value
    match value:
        case None | str() | bytes():
            return value
        case bool() | int():
            if value not in INT64:
                raise ValueError("an index field holds integers of 64 bits")
            return int(value)
        case float():
            if math.isnan(value):
                raise ValueError("NaN has no place in an index")
            return value
        case datetime():
            return micros(value)
        case date():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            raise ValueError(f"an index field cannot hold {type(value).__name__}")


def micros(moment: datetime) -> int:
    """Microseconds since 1970 UTC. Raises ValueError for a time without a zone."""
    if moment.tzinfo is None:
        raise ValueError("a time needs a zone or an offset")
    return (moment - EPOCH) // MICROSECOND


def check_indexes(collection: Collection[Any]) -> None:
    """Raises ValueError for an index over unknown fields, or over Decimals, whose text does not sort by value."""
    types = {field.encode_name: field.type for field in _fields(collection.model)}
    for index in collection.indexes:
        for name in index.fields:
            if name not in types:
                raise ValueError(f"{collection.name}.{index.name}: the model has no field {name}")
            if Decimal in _scalars(types[name]):
                raise ValueError(f"{collection.name}.{index.name}: {name} is a Decimal, which has no place in an index")


def encode_cursor(place: str, values: Sequence[IndexValue]) -> str:
    """An opaque cursor for the position `values` in `place` (collection and index)."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((place, values))).decode().rstrip("=")


def decode_cursor(place: str, cursor: str, length: int) -> list[IndexValue]:
    """The position in a cursor of `encode_cursor`.

    Raises:
        ValueError: the cursor is not one of ours, or belongs to another place.
    """
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found, values = msgspec.msgpack.decode(packed, type=tuple[str, list[Any]])
        if found == place and len(values) == length and all(map(_is_index_value, values)):
            return values
    except (binascii.Error, msgspec.MsgspecError, ValueError, RecursionError):
        pass
    raise ValueError("this cursor is not one of ours; start without one")


def _is_index_value(value: Any) -> bool:
    if isinstance(value, int):
        return value in INT64
    return isinstance(value, str | bytes) or (isinstance(value, float) and not math.isnan(value))


def _convert(raw: dict[str, Any], model: type[D]) -> D:
    return msgspec.convert(raw, model, builtin_types=NATIVE, str_keys=True)


def _in_utc(value: Any) -> tuple[Any, bool]:
    """`value` with every time in it truncated to milliseconds UTC, and whether that changed any."""
    if isinstance(value, datetime):
        if value.tzinfo is UTC and not value.microsecond % 1000:
            return value, False
        moment = truncated(value)
        return moment, moment.microsecond != value.microsecond or value.tzinfo is not UTC
    if isinstance(value, dict):
        mapping = cast(dict[str, Any], value)
        pairs = {key: _in_utc(item) for key, item in mapping.items()}
        return {key: item for key, (item, _) in pairs.items()}, any(changed for _, changed in pairs.values())
    if isinstance(value, list | tuple):
        items = [_in_utc(item) for item in cast(Sequence[Any], value)]
        return [item for item, _ in items], any(changed for _, changed in items)
    return value, False


@cache
def _fields_with_times(model: type[Document]) -> tuple[str, ...]:
    """The encoded names of the top-level fields that may hold a time; the others need no walk."""
    return tuple(field.encode_name for field in _fields(model) if _scalars(field.type) & {datetime, Any})


def _fields(model: type[Document]) -> tuple[msgspec.inspect.Field, ...]:
    kind = msgspec.inspect.type_info(model)
    return kind.fields if isinstance(kind, msgspec.inspect.StructType) else ()


def _scalars(kind: Any, seen: frozenset[type] = frozenset()) -> set[Any]:
    """Which of datetime, Decimal and Any occur anywhere in a msgspec type."""
    if isinstance(kind, msgspec.inspect.DateTimeType):
        return {datetime}
    if isinstance(kind, msgspec.inspect.DecimalType):
        return {Decimal}
    if isinstance(kind, msgspec.inspect.AnyType | msgspec.inspect.CustomType):
        return {Any}
    parts: list[Any] = []
    for name in ("item_type", "item_types", "types", "key_type", "value_type"):
        part = getattr(kind, name, ())
        parts.extend(cast(tuple[Any, ...], part) if isinstance(part, tuple) else (part,))
    if hasattr(kind, "fields"):
        if kind.cls in seen:
            return set()
        seen |= {kind.cls}
        parts.extend(field.type for field in kind.fields)
    return set[Any]().union(*(_scalars(part, seen) for part in parts))
