"""What users are given of inference's documents and pictures when they ask for everything."""

from collections.abc import AsyncGenerator, AsyncIterator

from services.inference.api import photo_of
from services.inference.store import JOBS
from shared.documents import Documents
from shared.export import OWN_PARTS
from shared.exported import PAGE, Contents, File, Folder, rows
from shared.objects import Objects

ENDINGS = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}


async def _pictures(
    documents: Documents, objects: Objects, user_id: str
) -> AsyncGenerator[tuple[str, AsyncIterator[bytes]]]:
    """Those that are still there; most are deleted once they are read."""
    cursor: str | None = None
    while True:
        page = await documents.find(JOBS, "user", (user_id,), limit=PAGE, cursor=cursor)
        for job in page.documents:
            # At most 10 MiB, and read whole here as everywhere: it may be deleted at any moment.
            picture = await objects.get(job.object_key)
            if picture is not None:
                yield f"{job.id}.{_ending(picture)}", _whole(picture)
        if (cursor := page.cursor) is None:
            return


def _ending(picture: bytes) -> str:
    return next((ending for magic, ending in ENDINGS.items() if picture.startswith(magic)), "bin")


async def _whole(picture: bytes) -> AsyncGenerator[bytes]:
    yield picture


CONTENTS: Contents = (
    File(
        "photos.jsonl",
        "Your photos of labels: what was read of each, or why nothing was",
        (JOBS,),
        rows(JOBS, photo_of, "user"),
    ),
    Folder("photos/", "The photos that wait to be read, as you sent them; others are deleted", (JOBS,), _pictures),
    OWN_PARTS,
)
