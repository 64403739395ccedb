"""A user's exports: asked of every service, put together from their parts, kept for a day.

The parts lie in the object store, each the members of a ZIP archive. Nothing joins them before somebody downloads: an
archive is the parts one after the other, and a list of their members.
"""

import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.auth import audit, erasure
from services.auth.enrolment import Deps
from services.auth.export_documents import EXPORTS, FORGET_INDEX, OWN, USER_INDEX, Export, Part, PartFile
from shared import topics
from shared.clock import truncated
from shared.documents import Conflict, Documents, Duplicate, Put
from shared.errors import Problem, Unavailable
from shared.events.auth import ExportRequested
from shared.events.event import ObjectRef
from shared.events.personal import ExportedFile, ExportPartReady
from shared.export import KEPT
from shared.exported import Contents, Written, members_of, write
from shared.ids import derived_id
from shared.objects import Objects
from shared.outbox import outbox_event, with_events
from shared.telemetry import bind, current_traceparent
from shared.zipped import Member, directory, moved

A_DAY, MOST_A_DAY = timedelta(days=1), 3
# What became of an export is told for so long.
REMEMBERED = timedelta(days=30)
LOOKED_AT = 20
ATTEMPTS = 10
README = "README.txt"
LATE = "did not answer within a day. Ask for a new export."
LOST = "is no longer in the object store. Ask for a new export."


@dataclass(frozen=True)
class Archive:
    """An archive of `size_bytes`, made as it is taken."""

    size_bytes: int
    parts: AsyncGenerator[bytes]


@dataclass(frozen=True)
class Exports:
    """All exports. `contents` are auth's own files; `readme` tells of all services'."""

    deps: Deps
    objects: Objects
    contents: Contents
    readme: Callable[[str, datetime, Sequence[PartFile]], bytes]

    async def ask(self, user_id: str, session_id: str | None) -> Export:
        """A new export, or the one that is being made.

        Raises:
            Problem: 403 the sign-in is too long ago, 429 it is the fourth within a day.
        """
        await erasure.check_fresh(self.deps, session_id, "An export holds all your data.")
        for _ in range(ATTEMPTS):
            known = await self._of(user_id, LOOKED_AT)
            if known and known[0].state == "running":
                return known[0]
            now = truncated(self.deps.clock())
            _check_count(known, now)
            export = _new(user_id, known[0].number + 1 if known else 1, now)
            line = audit.line("export-asked", now, user_id=user_id, about=export.id)
            try:
                await self._documents.put_many([Put(EXPORTS, export), line])
            except (Conflict, Duplicate):
                continue  # somebody was faster
            self.deps.relay.nudge(EXPORTS, export.id)
            return export
        raise Unavailable("database")

    async def newest(self, user_id: str) -> Export | None:
        """The user's newest export."""
        return next(iter(await self._of(user_id, 1)), None)

    async def found(self, export_id: str, user_id: str) -> Export | None:
        """The user's export of that id; None for somebody else's."""
        export = await self._documents.get(EXPORTS, export_id)
        return export if export is not None and export.user_id == user_id else None

    async def report(self, event: ExportPartReady) -> bool:
        """Take a part, whose first word counts; whether the workers should be woken for it.

        What nobody waits for any more is deleted.
        """
        for _ in range(ATTEMPTS):
            export = await self.found(event.export_id, event.user_id)
            known = export.parts.get(event.service) if export is not None else None
            if known is not None and known.key == event.object.key:
                return False
            if export is None or known is not None or export.state != "running":
                await self.objects.delete(event.object.key)
                return False
            parts = export.parts | {event.service: _part(event.object, event.data_bytes, event.files)}
            # Claimed or not, it is to be worked again.
            due = replace(export, parts=parts, due_at=truncated(self.deps.clock()), attempts=0)
            try:
                await self._documents.put(EXPORTS, due)
            except Conflict:
                continue
            return not export.attempts
        raise Unavailable("database")

    async def work(self, export: Export) -> Export:
        """Complete it once all parts are there; delete them once it is over."""
        bind(user_id=export.user_id)
        now = truncated(self.deps.clock())
        if export.state == "running":
            return await self._collected(export, now)
        await self._delete(export)
        state = "expired" if export.state == "ready" else export.state
        return replace(export, state=state, due_at=None, attempts=0, last_error=None)

    async def archive(self, export: Export) -> Archive:
        """The archive of an export that is ready; somebody downloads it, which is a line of the audit log.

        Raises:
            Problem: 410 a part was lost.
        """
        members: list[Member] = []
        size = 0
        for service, part in export.parts.items():
            try:
                members += moved(await members_of(self.objects, part.key, part.data_bytes, part.size_bytes), size)
            except FileNotFoundError:
                words = f"The part of {service} {LOST}"
                await self._fail(export, words)
                raise Problem(410, "export-lost", words) from None
            size += part.data_bytes
        line = audit.line("export-downloaded", self.deps.clock(), user_id=export.user_id, about=export.id)
        await self._documents.put_many([line])
        end = directory(sorted(members, key=lambda one: one.name), size)
        return Archive(size + len(end), self._joined(export, end))

    async def _joined(self, export: Export, end: bytes) -> AsyncGenerator[bytes]:
        for part in export.parts.values():
            async for data in self.objects.read(part.key, 0, part.data_bytes):
                yield data
        yield end

    @property
    def _documents(self) -> Documents:
        return self.deps.store.documents

    async def _of(self, user_id: str, limit: int) -> Sequence[Export]:
        """The user's newest exports, the newest first."""
        page = await self._documents.find(EXPORTS, USER_INDEX, (user_id,), descending=True, limit=limit)
        return page.documents

    async def _collected(self, export: Export, now: datetime) -> Export:
        if export.missing:
            if now < export.needed_until:
                return replace(export, due_at=export.needed_until, attempts=0)
            return _failed(export, f"{', '.join(export.missing)} {LATE}", now)
        for service, part in export.parts.items():
            if await self.objects.size(part.key) != part.size_bytes:
                return _failed(export, f"The part of {service} {LOST}", now)
        written = await self._own_part(export, now)
        if await self.deps.store.user(export.user_id) is None:
            # Erased meanwhile, perhaps before this part was there.
            await self.objects.delete_all(_folder(export))
        own = _part(written.object, written.data_bytes, written.files)
        expires = now + KEPT
        return replace(
            export,
            state="ready",
            parts=export.parts | {OWN: own},
            ready_at=now,
            expires_at=expires,
            due_at=expires,
            attempts=0,
            last_error=None,
        )

    async def _own_part(self, export: Export, now: datetime) -> Written:
        others = [one for part in export.parts.values() for one in part.files]

        def explained(own: Sequence[ExportedFile]) -> tuple[str, bytes]:
            return README, self.readme(export.user_id, now, [*others, *map(_file, own)])

        key = f"{_folder(export)}/{export.version}"
        return await write(self.objects, key, self._documents, self.contents, export.user_id, now, last=explained)

    async def _fail(self, export: Export, words: str) -> None:
        """What is wrong with it stands in the export too, unless somebody writes it just now."""
        try:
            await self._documents.put(EXPORTS, _failed(export, words, truncated(self.deps.clock())))
        except Conflict:
            return

    async def _delete(self, export: Export) -> None:
        for part in export.parts.values():
            await self.objects.delete(part.key)
        await self.objects.delete_all(_folder(export))


async def forget(documents: Documents, now: datetime) -> int:
    """Delete what is known of exports of 30 days ago; how many that were."""
    return await documents.delete_where(EXPORTS, FORGET_INDEX, (), below=now)


def is_over(export: Export, now: datetime) -> bool:
    """Whether it is no longer kept, deleted already or not."""
    return export.state == "expired" or (export.expires_at is not None and now >= export.expires_at)


def _check_count(known: Sequence[Export], now: datetime) -> None:
    """Three a day, the newest first in `known`; one that failed does not count."""
    counted = [one.asked_at for one in known if one.state != "failed" and now - one.asked_at < A_DAY]
    if len(counted) >= MOST_A_DAY:
        wait = counted[MOST_A_DAY - 1] + A_DAY - now
        raise Problem(
            429,
            "too-many-exports",
            f"You may ask for {MOST_A_DAY} exports a day. GET /v1/me/export shows the last one.",
            headers={"Retry-After": str(int(wait.total_seconds()) + 1)},
        )


def _new(user_id: str, number: int, now: datetime) -> Export:
    export = Export(
        id=f"exp_{secrets.token_hex(16)}",
        user_id=user_id,
        number=number,
        asked_at=now,
        needed_until=now + KEPT,
        forget_at=now + REMEMBERED,
        due_at=now + KEPT,
        traceparent=current_traceparent(),
    )
    event = ExportRequested(
        event_id=derived_id(export.id, "export.requested"),
        occurred_at=now,
        user_id=user_id,
        export_id=export.id,
        needed_until=export.needed_until,
    )
    return with_events(export, outbox_event(topics.EXPORTS, event))


def _failed(export: Export, problem: str, now: datetime) -> Export:
    """The export once it has failed; its parts are deleted next."""
    return replace(export, state="failed", problem=problem, due_at=now, attempts=0)


def _folder(export: Export) -> str:
    return f"{OWN}/{export.user_id}/exports/{export.id}"


def _part(stored: ObjectRef, data_bytes: int, files: Sequence[ExportedFile]) -> Part:
    return Part(
        key=stored.key,
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        data_bytes=data_bytes,
        files=tuple(map(_file, files)),
    )


def _file(file: ExportedFile) -> PartFile:
    return PartFile(name=file.name, rows=file.rows, about=file.about)
