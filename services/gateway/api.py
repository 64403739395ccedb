"""What the gateway answers itself: batches, photos, receipts of both, and who the caller is."""

import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qsl

import msgspec
from starlette.responses import Response

from services.gateway import photos, receipts, routes
from services.gateway.batches import read_batch
from services.gateway.entry import Call, json_response
from services.gateway.photos import Picture
from services.gateway.proxy import Answer, Proxy, Unanswered, copied
from services.gateway.receipts import Ids
from services.gateway.times import EPOCH, MICROSECOND, parse_time
from shared import topics
from shared.callers import Caller
from shared.clock import Clock
from shared.errors import Problem
from shared.events.event import ObjectRef
from shared.events.gateway import UNKNOWN_OFFSET, BatchObject, BatchSubmitted, PhotoSubmitted
from shared.ids import new_event_id
from shared.telemetry import bind, current_kept, current_trace_id

# Bounds of what a person eats of one label, in grams. Plain digits: Decimal also reads 1e-9999, 1_0 and NaN.
MAX_GRAMS = Decimal(5000)
GRAMS = re.compile(r"\d{1,4}(\.\d{1,3})?", re.ASCII)

# As for samples: a phone's clock may be wrong by a zone.
LONGEST_AHEAD = timedelta(hours=24)

# Half of what a record may be; larger ones would hold up the small ones behind them.
MAX_MESSAGE_BYTES = 512 * 1024

Publish = Callable[[topics.Topic, bytes, str], Awaitable[None]]
PutObject = Callable[[str, bytes], Awaitable[None]]


class Accepted(msgspec.Struct, omit_defaults=True):
    """202: held by the broker. `trace_kept` says whether `trace_id` can be looked up later."""

    state: str
    link: str
    trace_id: str | None
    trace_kept: bool
    receipt_id: str | msgspec.UnsetType = msgspec.UNSET
    photo_id: str | msgspec.UnsetType = msgspec.UNSET
    received: int | msgspec.UnsetType = msgspec.UNSET
    invalid_records: int | msgspec.UnsetType = msgspec.UNSET


@dataclass
class Waiting:
    """How many callers wait for a receipt; each holds a connection to ingest, and the other calls need some too."""

    most: int = 256
    of_a_user: int = 16
    now: Counter[str | None] = field(default_factory=Counter[str | None])

    @contextmanager
    def one(self, user_id: str | None) -> Generator[bool]:
        """Whether one more may wait for this user, as long as the body lasts."""
        if self.now[user_id] >= self.of_a_user or self.now.total() >= self.most:
            yield False
            return
        self.now[user_id] += 1
        try:
            yield True
        finally:
            self.now[user_id] -= 1
            if not self.now[user_id]:
                del self.now[user_id]


@dataclass(frozen=True)
class Api:
    """The gateway's own answers, with what they need."""

    ids: Ids
    proxy: Proxy
    publish: Publish
    put_object: PutObject
    clock: Clock
    waiting: Waiting = field(default_factory=Waiting)

    async def whoami(self, call: Call) -> Response:
        """The caller as its token says."""
        caller = call.caller
        document = {"user_id": caller.user_id, "partner_id": caller.partner_id, "scopes": sorted(caller.scopes)}
        return json_response(msgspec.json.encode(document))

    async def submit_batch(self, call: Call) -> Response:
        """Check the envelope, publish the columns, answer after the broker's ack or, with `wait`, once it is stored."""
        wait_s = receipts.wait_s(call.query)
        user_id = _user(call)
        receipt_id = self.ids.make(receipts.RECEIPT_PREFIX, user_id, "POST /v1/batches", call.key, call.body)
        bind(user_id=user_id, receipt_id=receipt_id)
        batch = read_batch(
            call.body,
            user_id=user_id,
            receipt_id=receipt_id,
            event_id=new_event_id(),
            occurred_at=self.clock(),
        )
        await self.publish(topics.BATCHES, await self._message(batch), user_id)
        link = f"/v1/receipts/{receipt_id}"
        if wait_s and (done := await self._completed(call.caller, link, wait_s)) is not None:
            return done
        return _accepted(
            Accepted(
                "queued",
                link,
                current_trace_id(),
                current_kept(),
                receipt_id=receipt_id,
                received=batch.received,
                invalid_records=len(batch.refused),
            )
        )

    async def _message(self, batch: BatchSubmitted) -> bytes:
        """The batch as it travels: whole, or by reference to where the whole lies."""
        packed = msgspec.msgpack.encode(batch)
        if len(packed) <= MAX_MESSAGE_BYTES:
            return packed
        # Equal at every attempt under one key, so that attempts while the broker is away leave one object, not many.
        lasting = msgspec.structs.replace(batch, event_id=batch.receipt_id, occurred_at=EPOCH)
        packed = msgspec.msgpack.encode(lasting)
        digest = hashlib.sha256(packed).hexdigest()
        stored = BatchObject(key=f"ingest/{batch.user_id}/{digest}", sha256=digest)
        await self.put_object(stored.key, packed)
        return msgspec.msgpack.encode(
            msgspec.structs.replace(batch, series=(), sessions=(), deletions=(), object=stored)
        )

    async def _completed(self, caller: Caller, link: str, wait_s: float) -> Response | None:
        """The receipt if it is completed in time; what was accepted stays so, whatever ingest says."""
        with self.waiting.one(caller.user_id) as may_wait:
            if not may_wait:
                return None
            try:
                answer = await self.proxy.ask("ingest", "GET", f"{link}?wait={wait_s * 1000:.0f}ms", caller)
            except Unanswered:
                return None
        if answer.status != 200:
            return None
        response = copied(answer)
        response.headers["Location"] = link
        return response

    async def submit_photo(self, call: Call) -> Response:
        """Check the picture's head, store it, publish a reference, answer after the broker's ack."""
        user_id = _user(call)
        meal = _meal(call.query, self.clock())
        picture = photos.inspect(call.body, call.content_type)
        route = f"PUT /v1/photos?{meal.grams}&{meal.eaten_at}&{meal.local_date}"
        photo_id = self.ids.make(receipts.PHOTO_PREFIX, user_id, route, call.key, call.body)
        bind(user_id=user_id, photo_id=photo_id)
        stored = object_ref(user_id, call.body, picture)
        await self.put_object(stored.key, call.body)
        event = PhotoSubmitted(
            event_id=new_event_id(),
            occurred_at=self.clock(),
            user_id=user_id,
            photo_id=photo_id,
            object=stored,
            grams=meal.grams,
            eaten_at=meal.eaten_at,
            local_date=meal.local_date,
        )
        await self.publish(topics.PHOTOS, event.model_dump_json().encode(), user_id)
        link = f"/v1/photos/{photo_id}"
        return _accepted(Accepted("queued", link, current_trace_id(), current_kept(), photo_id=photo_id))

    async def receipt(self, call: Call) -> Response:
        """What became of a batch; `queued` until ingest knows it, which `wait` waits for."""
        if not receipts.wait_s(call.query):
            return await self._job(call, receipts.RECEIPT_PREFIX, "ingest", "receipt_id")
        with self.waiting.one(call.caller.user_id) as may_wait:
            asked = call if may_wait else msgspec.structs.replace(call, target=call.target.partition("?")[0])
            return await self._job(asked, receipts.RECEIPT_PREFIX, "ingest", "receipt_id")

    async def photo(self, call: Call) -> Response:
        """What became of a photo; `queued` until inference knows it."""
        return await self._job(call, receipts.PHOTO_PREFIX, "inference", "photo_id")

    async def _job(self, call: Call, prefix: str, service: str, name: str) -> Response:
        id = call.parameters["id"]
        if not self.ids.belongs(prefix, _user(call), id):
            raise Problem(404, "not-found", "There is nothing here for this caller.")
        answer = await self._asked(call, service)
        if answer.status == 404:
            return json_response(msgspec.json.encode({name: id, "state": "queued"}))
        return copied(answer)

    async def _asked(self, call: Call, service: str) -> Answer:
        try:
            answer = await self.proxy.ask(service, "GET", call.target, call.caller)
        except Unanswered as error:
            raise _receipt_unavailable() from error
        if answer.status not in (200, 404):
            raise _receipt_unavailable()
        return answer


@dataclass(frozen=True)
class Meal:
    """What a photo's address says: how much was eaten, when, and on which local day."""

    grams: Decimal | None = None
    eaten_at: datetime | None = None
    local_date: date | None = None


def object_ref(user_id: str, data: bytes, picture: Picture) -> ObjectRef:
    """Where the picture goes: inference, which consumes it, owns the prefix."""
    digest = photos.digest(data)
    return ObjectRef(
        key=f"inference/{user_id}/{digest}", sha256=digest, size_bytes=len(data), content_type=picture.content_type
    )


def _meal(query: bytes, now: datetime) -> Meal:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), max_num_fields=8)
    except ValueError as error:
        raise Problem(422, "invalid-request", "The query cannot be read. Use ?grams=…&eaten_at=….") from error
    values = dict(pairs)
    if len(values) != len(pairs) or not values.keys() <= {"grams", "eaten_at"}:
        raise Problem(422, "invalid-request", "The query takes `grams` and `eaten_at`, once each, and nothing else.")
    grams = _grams(values["grams"]) if "grams" in values else None
    if "eaten_at" not in values:
        return Meal(grams)
    # A "+" in a query means a space; a client that forgot to escape it means the offset's sign.
    parsed = parse_time(values["eaten_at"].replace(" ", "+"))
    if parsed is None:
        raise Problem(
            422, "invalid-request", "`eaten_at` must be a time with an offset, such as 2026-03-01T12:30:00%2B01:00."
        )
    micros, told = parsed
    offset = 0 if told == UNKNOWN_OFFSET else told
    if not 0 <= micros <= (now + LONGEST_AHEAD - EPOCH) // MICROSECOND:
        raise Problem(
            422, "invalid-request", "`eaten_at` must lie between 1970 and 24 hours from now; check the device's clock."
        )
    return Meal(grams, EPOCH + micros * MICROSECOND, (EPOCH + (micros + offset * 60_000_000) * MICROSECOND).date())


def _grams(text: str) -> Decimal:
    grams = Decimal(text) if GRAMS.fullmatch(text) else Decimal(0)
    if not 0 < grams <= MAX_GRAMS:
        raise Problem(
            422,
            "invalid-request",
            f"`grams` must be a number above 0 and up to {MAX_GRAMS}, with at most 3 decimal places.",
        )
    return grams


def _user(call: Call) -> str:
    return call.caller.user_id or ""


def _accepted(accepted: Accepted) -> Response:
    return json_response(msgspec.json.encode(accepted), 202, {"Location": accepted.link})


def _receipt_unavailable() -> Problem:
    return Problem(
        503,
        "receipt-unavailable",
        "What was accepted is safe, but its receipt cannot be read right now. Ask again.",
        headers={"Retry-After": "2"},
    )


def own_answers(api: Api, live: Callable[[Call], Awaitable[object]]) -> dict[routes.Route, object]:
    """Which function answers which of the gateway's own routes."""
    return {
        routes.WHOAMI: api.whoami,
        routes.BATCHES: api.submit_batch,
        routes.PHOTOS: api.submit_photo,
        routes.RECEIPT: api.receipt,
        routes.PHOTO: api.photo,
        routes.LIVE: live,
    }
