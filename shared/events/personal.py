"""What every service says that keeps something of users."""

from typing import Literal

from pydantic import BaseModel

from shared.events.event import Event, ObjectRef, UtcTime


class UserDataErased(Event, frozen=True):
    """`service` keeps nothing of a user any more: so many documents and objects are gone."""

    type: Literal["user_data.erased"] = "user_data.erased"
    user_id: str
    service: str
    documents: int
    objects: int
    finished_at: UtcTime


class ExportedFile(BaseModel, frozen=True):
    """A file of an export, or a folder with a `/` behind its name: so many `rows`, or files; `about` in words."""

    name: str
    rows: int
    about: str


class ExportPartReady(Event, frozen=True):
    """What a service holds of a user lies in the object store, and is auth's to delete.

    The object's first `data_bytes` are members of a ZIP archive, the rest is their list: see `shared.export`.
    """

    type: Literal["export.part_ready"] = "export.part_ready"
    user_id: str
    export_id: str
    service: str
    object: ObjectRef
    data_bytes: int
    files: tuple[ExportedFile, ...]
