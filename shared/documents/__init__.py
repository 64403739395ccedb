"""Documents: one small port, two engines."""

from pathlib import Path

from shared.documents.port import (
    Claimable,
    Collection,
    Conflict,
    Document,
    Documents,
    Duplicate,
    Index,
    Page,
    Put,
)
from shared.documents.sqlite import SqliteDocuments

__all__ = [
    "Claimable",
    "Collection",
    "Conflict",
    "Document",
    "Documents",
    "Duplicate",
    "Index",
    "Page",
    "Put",
    "open_documents",
]


def open_documents(database_url: str, service: str) -> Documents:
    """The documents of `service`, to be opened with its collections.

    `sqlite:///folder` means `folder/<service>.sqlite` (`sqlite:////folder` is absolute, as in SQLAlchemy);
    `mongodb://host/name` means the database `name_<service>` there.

    Raises:
        ValueError: no engine for this address.
    """
    scheme, _, rest = database_url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return SqliteDocuments(Path(rest[1:]) / f"{service}.sqlite")
    if scheme == "mongodb":
        # Here, since PyMongo's client costs a process that is on SQLite 0.1 s and 17 MiB.
        from shared.documents.mongo import MongoDocuments

        return MongoDocuments(database_url, service)
    raise ValueError("DATABASE_URL must be sqlite:///<folder> or mongodb://<host>/<database>")
