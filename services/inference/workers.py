"""What the workers do with a photo: clean, read, understand; then delete the original."""

from dataclasses import dataclass

from msgspec.structs import replace

from services.inference.images import clean_picture, rejected
from services.inference.outcomes import found_of, read_job, rejected_job
from services.inference.readings import read_label
from services.inference.store import JOBS, Found, PhotoJob, Store
from services.inference.triton import MODEL, Ocr
from shared.clock import Clock, utc_now
from shared.documents import Documents
from shared.errors import Rejected
from shared.jobs import Workers
from shared.objects import Objects
from shared.outbox import Relay
from shared.telemetry import bind, span

# Outages count as attempts too, so this is generous: with back-off it lasts some minutes.
MAX_ATTEMPTS = 20
GAVE_UP = "The picture can't be read; photograph the label again."


@dataclass(frozen=True)
class Reader:
    """The work on a photo and what it needs."""

    store: Store
    objects: Objects
    ocr: Ocr
    clock: Clock = utc_now

    async def work(self, job: PhotoJob) -> PhotoJob:
        """One claim: read a queued photo, or tidy up behind one that has ended.

        Raises:
            Unavailable: Triton, the objects or the database; the job waits.
            Rejected: the picture is to blame.
        """
        bind(user_id=job.user_id, photo_id=job.id)
        if job.state != "queued":
            return await self._tidy(job)
        original = await self.objects.get(job.object_key)
        if original is None:
            return await self._like_its_twin(job)
        return read_job(job, await self._read(original), self.clock())

    async def reject(self, job: PhotoJob, refusal: Rejected) -> PhotoJob:
        """The job as rejected; one that had ended already just stays so."""
        if job.state != "queued":
            return replace(job, due_at=None)
        if refusal.reason == "attempts-exhausted":
            refusal = Rejected("unreadable-picture", GAVE_UP)
        return rejected_job(job, refusal, self.clock())

    async def _read(self, original: bytes) -> Found:
        with span("clean picture"):
            picture = await clean_picture(original)
        with span("triton infer", kind="client"):
            result = await self.ocr.read(picture)
        reading = read_label(result.lines)
        if reading is None:
            raise rejected("no-label-found")
        return found_of(reading, MODEL, result.weights_sha256)

    async def _like_its_twin(self, job: PhotoJob) -> PhotoJob:
        """The same bytes sent twice share one object, which goes with the first: the second ends like it."""
        twin = await self.store.twin(job)
        if twin is not None and twin.found is not None:
            return read_job(job, twin.found, self.clock())
        if twin is not None and twin.refusal is not None:
            raise Rejected(twin.refusal.reason, twin.refusal.detail)
        raise rejected("picture-missing")

    async def _tidy(self, job: PhotoJob) -> PhotoJob:
        """Delete the original, which is done only after the reading is stored: a crash in between loses nothing."""
        if not await self.store.wanted(job):
            await self.objects.delete(job.object_key)
        return replace(job, due_at=None)


def make_workers(documents: Documents, reader: Reader, relay: Relay, *, concurrency: int) -> Workers[PhotoJob]:
    """The workers over the photo jobs; the relay is nudged after each result."""

    def stored(job: PhotoJob) -> None:
        if job.outbox:
            relay.nudge(JOBS, job.id)

    return Workers(
        documents,
        JOBS,
        reader.work,
        concurrency=concurrency,
        on_rejected=reader.reject,
        on_stored=stored,
        max_attempts=MAX_ATTEMPTS,
    )
