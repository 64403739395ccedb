"""Batches too large for a message: they lie in the object store until they are stored here."""

import hashlib
from dataclasses import dataclass

import msgspec

from services.ingest.samples import CheckedBatch, check, decode
from shared.errors import Rejected
from shared.events.gateway import BatchSubmitted
from shared.objects import Objects


@dataclass(frozen=True)
class Referred:
    """Reads and drops batches by reference. Raises `Unavailable("objects")` from everything."""

    objects: Objects

    async def read(self, batch: BatchSubmitted) -> CheckedBatch | None:
        """The batch that `batch.object` names, checked; None when it is not there.

        Raises:
            Rejected: it is not what was sent.
        """
        if batch.object is None:
            return check(batch)
        data = await self.objects.get(batch.object.key)
        if data is None:
            return None
        if hashlib.sha256(data).hexdigest() != batch.object.sha256:
            raise Rejected("object-corrupt", "the batch in the object store is not the one that was accepted")
        whole = decode(data)
        # Who sent it stands in the message; the object brings records alone.
        return check(
            msgspec.structs.replace(
                batch, series=whole.series, sessions=whole.sessions, deletions=whole.deletions, object=None
            )
        )

    async def drop(self, batch: BatchSubmitted) -> None:
        """Delete the object of a batch that is stored."""
        if batch.object is not None:
            await self.objects.delete(batch.object.key)
