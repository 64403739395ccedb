"""What all events share."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel

from shared.clock import truncated

UtcTime = Annotated[datetime, AfterValidator(truncated)]


class Event(BaseModel, frozen=True):
    """What all events share. `event_id` is the de-duplication key for readers."""

    event_id: str
    type: str
    occurred_at: UtcTime


class ObjectRef(BaseModel, frozen=True):
    """A picture or file in the object store, held by reference."""

    key: str
    sha256: str
    size_bytes: int
    content_type: str
