"""Indexes of a collection in MongoDB, made and changed while documents are there."""

from typing import Any

import pymongo
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from shared.documents.codec import encode
from shared.documents.mongo_layout import Layout

# What the documents of each collection have in their part `i`: model version, and fields and kind of each index.
KNOWN = "_collections"
AT_ONCE = 200
# Building an index over many documents takes longer than other commands.
BUILD_SECONDS = 3600.0
INDEX_NOT_FOUND = 27


async def prepare(
    database: AsyncDatabase[dict[str, Any]], collection: AsyncCollection[RawBSONDocument], layout: Layout
) -> None:
    """Make what is missing, harmlessly beside others who do; new and changed indexes cover the documents there.

    An index that is no longer declared stays: an older process beside us may need it.
    """
    name, v = layout.collection.name, layout.collection.v
    wanted = {index.name: {"fields": list(index.fields), "unique": index.unique} for index in layout.collection.indexes}
    known = await database[KNOWN].find_one({"_id": name}) or {"v": 0, "indexes": {}}
    changed = {index for index, made_of in wanted.items() if known["indexes"].get(index) != made_of}
    for index in changed & set(known["indexes"]):
        await _drop(collection, index)
    if changed or known["v"] < v:
        await _fill(collection, layout)
    with pymongo.timeout(BUILD_SECONDS):
        await _create(collection, layout)
    if changed or known["v"] < v:
        said = {"v": max(v, known["v"]), "indexes": known["indexes"] | wanted}
        await database[KNOWN].replace_one({"_id": name}, said, upsert=True)


async def _create(collection: AsyncCollection[RawBSONDocument], layout: Layout) -> None:
    for model in layout.indexes():
        await collection.create_indexes([model])


async def _drop(collection: AsyncCollection[RawBSONDocument], index: str) -> None:
    try:
        await collection.drop_index(index)
    except OperationFailure as error:
        if error.code != INDEX_NOT_FOUND:  # another process was first
            raise


async def _fill(collection: AsyncCollection[RawBSONDocument], layout: Layout) -> None:
    """Write the part `i` of all documents anew; one that changes meanwhile gets it from whoever changes it."""
    last: Any = None
    while True:
        query: dict[str, Any] = {} if last is None else {"_id": {"$gt": last}}
        raws = await collection.find(query, sort=[("_id", 1)], limit=AT_ONCE).to_list()
        if not raws:
            return
        last = raws[-1]["_id"]
        writes: list[UpdateOne] = []
        for raw in raws:
            document = layout.document(raw)
            keys = layout.keys(encode(document, document.version))
            writes.append(UpdateOne({"_id": document.id, "version": document.version}, {"$set": {"i": keys}}))
        await collection.bulk_write(writes, ordered=False)
