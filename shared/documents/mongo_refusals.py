"""What MongoDB answers to an ordered run of writes: all done, or the first that it refused, and why."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, OperationFailure, WTimeoutError
from pymongo.results import BulkWriteResult

from shared.documents.mongo_layout import Write

TAKEN = 11000  # DuplicateKey
# An update that would have inserted over a version above 0: PathNotViable, ImmutableField.
GONE = (28, 66)
INDEX = re.compile(r" index: (\S+) dup key")


@dataclass(frozen=True)
class Refusal:
    """The document that was not stored: its version was another one, or a unique index (`index`) refused it."""

    id: str
    index: str | None


async def first_refusal(
    collection: AsyncCollection[RawBSONDocument], writes: Sequence[Write], error: BulkWriteError
) -> Refusal:
    """The write that ended the run. A known id counts before a unique index, whichever the server looked at first.

    Raises:
        OperationFailure: the run ended for another reason, such as too few servers that confirm it.
    """
    details = cast(dict[str, Any], error.details)
    if not details.get("writeErrors"):
        raise WTimeoutError("not confirmed by a majority", 64, details) from error
    refused: dict[str, Any] = details["writeErrors"][0]
    place, code = cast(int, refused["index"]), cast(int, refused["code"])
    write = writes[place]
    if code in GONE and write.expected:
        return Refusal(write.id, None)
    if code != TAKEN:
        raise OperationFailure(str(refused.get("codeName", "")), code, refused) from error
    found = INDEX.search(refused["errmsg"])
    index = found.group(1) if found else "_id_"
    if index == "_id_" or await _version(collection, write.id) != write.expected:
        return Refusal(write.id, None)
    return Refusal(write.id, index)


async def _version(collection: AsyncCollection[RawBSONDocument], id: str) -> int:
    raw = await collection.find_one({"_id": id}, {"version": True})
    return 0 if raw is None else raw["version"]


def check_done(writes: Sequence[Write], done: BulkWriteResult) -> None:
    """Raises RuntimeError when the server stored in another way than asked, as an imitation of MongoDB might."""
    new = {place for place, write in enumerate(writes) if not write.expected}
    if set(done.upserted_ids or {}) != new or done.matched_count != len(writes) - len(new):
        raise RuntimeError("the database does not keep to MongoDB's rules for ordered upserts")
