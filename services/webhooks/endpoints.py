"""Endpoints as their partners make, change, test and end them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.webhooks.deliveries import AT_ONCE, Deliveries
from services.webhooks.destinations import AddressRefused
from services.webhooks.egress import Egress
from services.webhooks.keys import EndpointKey, EndpointKeys, KeyKind
from services.webhooks.public import ENDPOINT_TEST, Body, EndpointTestData
from services.webhooks.records import ENDPOINTS, Delivery, Endpoint
from shared.clock import Clock
from shared.documents import Conflict, Documents, Duplicate
from shared.errors import Problem, Unavailable
from shared.ids import derived_id
from shared.telemetry import current_traceparent

MAX_ENDPOINTS = 100
MAX_KEYS = 4
# Of so many rotations, and for so long, a repeat is recognised after the key that it made has ended.
MAX_ENDED = 20
ENDED_FOR = timedelta(days=1)
PAGE = 200
ATTEMPTS = 20
# Stands in `user_ids` for users who were erased; no user has this id.
ERASED = "erased"


class Endpoints:
    """The endpoints of partners. Every method raises Unavailable("database")."""

    def __init__(
        self, documents: Documents, queue: Deliveries, egress: Egress, keys: EndpointKeys, clock: Clock
    ) -> None:
        self._documents = documents
        self._queue = queue
        self._egress = egress
        self._keys = keys
        self._clock = clock

    async def create(self, wanted: Endpoint, kind: KeyKind) -> Endpoint:
        """The endpoint as it is stored, with a first key; one that is there under its id already, as it is.

        Raises:
            Problem: 409 the partner has a hundred, 422 its URL is none that deliveries go to, or another request was
                sent under the same Idempotency-Key.
        """
        known = await self._documents.get(ENDPOINTS, wanted.id)
        if known is None:
            await self.check_url(wanted.url)
            await self._check_room(wanted.partner_id, MAX_ENDPOINTS - 1)
            key = self._keys.new(kind, wanted.id, wanted.partner_id, self._clock())
            try:
                made = await self._documents.insert(ENDPOINTS, replace(wanted, keys=(key,), created_at=key.created_at))
            except Duplicate:
                known = await self.own(wanted.partner_id, wanted.id)
            else:
                return await self._kept(made)
        if known.request_hash != wanted.request_hash:
            raise key_reused()
        return known

    async def _kept(self, made: Endpoint) -> Endpoint:
        """The new endpoint, unless others that came at the same time took the room. Raises Problem: 409 as `create`."""
        try:
            await self._check_room(made.partner_id, MAX_ENDPOINTS)
        except Problem:
            await self._documents.delete(ENDPOINTS, made.id)
            raise
        return made

    async def _check_room(self, partner_id: str, most: int) -> None:
        if len(await self.of(partner_id)) > most:
            raise Problem(409, "too-many-endpoints", f"A partner has at most {MAX_ENDPOINTS} endpoints; end one first.")

    async def of(self, partner_id: str) -> list[Endpoint]:
        """The partner's endpoints, oldest first."""
        page = await self._documents.find(ENDPOINTS, "partner", (partner_id,), limit=PAGE)
        return list(page.documents)

    async def own(self, partner_id: str, endpoint_id: str) -> Endpoint:
        """The partner's endpoint of that id. Raises Problem: 404, it has none."""
        found = await self._documents.get(ENDPOINTS, endpoint_id)
        if found is None or found.partner_id != partner_id:
            raise Problem(404, "not-found", "You have no endpoint of this id; GET /v1/webhook-endpoints lists them.")
        return found

    async def own_enabled(self, partner_id: str, endpoint_id: str) -> Endpoint:
        """The same, unless deliveries to it have ended. Raises Problem: 404 as in `own`, 409 it is disabled."""
        found = await self.own(partner_id, endpoint_id)
        if found.state == "disabled":
            raise Problem(
                409, "endpoint-disabled", 'Deliveries to this endpoint have ended; PATCH it to {"state": "enabled"}.'
            )
        return found

    async def change(self, partner_id: str, endpoint_id: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
        """The endpoint after `change`, which is asked again where somebody else wrote meanwhile.

        Raises:
            Problem: 404 as in `own`, 422 as in `create`, and what `change` raises.
        """
        checked = ""
        for _ in range(ATTEMPTS):
            now = await self.own(partner_id, endpoint_id)
            changed = change(now)
            if changed == now:
                return now
            if _asks_for_others(now, changed):
                changed = replace(changed, wants_since=self._clock())
            if changed.url not in (now.url, checked):
                await self.check_url(changed.url)
                checked = changed.url
            try:
                return await self._documents.put(ENDPOINTS, changed)
            except Conflict:
                continue
        raise Unavailable("database")

    async def end(self, partner_id: str, endpoint_id: str) -> None:
        """Forget the endpoint; what waits for it is cancelled when its turn comes. Raises Problem: 404 as in `own`."""
        await self.own(partner_id, endpoint_id)
        await self._documents.delete(ENDPOINTS, endpoint_id)

    async def rotate(
        self, partner_id: str, endpoint_id: str, request: str, kind: KeyKind | None, overlap: timedelta
    ) -> tuple[Endpoint, EndpointKey]:
        """The endpoint with a new key, and this; earlier ones sign for `overlap` at most from now on.

        `request` is the Idempotency-Key: a repeat changes nothing and gives the key that it made. One that has ended is
        known until `ENDED_FOR` after it was made, and its `sealed` is empty: nothing shows its secret again.

        Raises:
            Problem: 404 as in `own`, 409 four keys sign already, 422 another request was sent under this key.
        """
        request_id = derived_id("webhook secret", endpoint_id, request)
        fresh: EndpointKey | None = None

        def with_new_key(endpoint: Endpoint) -> Endpoint:
            nonlocal fresh
            now = self._clock()
            for key in (*endpoint.keys, *endpoint.ended):
                if key.request_id == request_id:
                    if (key.asked, key.overlap_s) != (kind, overlap.total_seconds()):
                        raise key_reused()
                    fresh = key
                    return endpoint
            made = self._keys.new(kind or endpoint.keys[0].kind, endpoint.id, partner_id, now)
            fresh = replace(made, request_id=request_id, asked=kind, overlap_s=int(overlap.total_seconds()))
            until = now + overlap
            earlier = [ended_by(key, until) for key in endpoint.keys]
            signing = tuple(key for key in earlier if key.signs(now))
            if len(signing) >= MAX_KEYS:
                raise Problem(
                    409,
                    "too-many-secrets",
                    f"{MAX_KEYS} keys sign for this endpoint. Wait until one expires, or rotate with overlap_s 0.",
                )
            return replace(endpoint, keys=(fresh, *signing), ended=_ended(endpoint, earlier, now))

        endpoint = await self.change(partner_id, endpoint_id, with_new_key)
        return endpoint, fresh or endpoint.keys[0]

    async def test(self, partner_id: str, endpoint_id: str, request: str) -> Delivery:
        """The delivery of a test message, due now; the same one again for the same `request`.

        Raises:
            Problem: 404 and 409 as in `own_enabled`.
        """
        await self.own_enabled(partner_id, endpoint_id)
        now = self._clock()
        message_id = derived_id("webhook test", endpoint_id, request)
        data = EndpointTestData(endpoint_id=endpoint_id).model_dump()
        delivery = Delivery(
            id=derived_id(endpoint_id, message_id),
            endpoint_id=endpoint_id,
            partner_id=partner_id,
            user_id="",
            message_id=message_id,
            message_type=ENDPOINT_TEST,
            created_at=now,
            body=Body(type=ENDPOINT_TEST, timestamp=now, data=data).model_dump_json().encode(),
            due_at=AT_ONCE,
            traceparent=current_traceparent(),
        )
        await self._queue.add([delivery])
        return delivery

    async def forget(self, user_id: str) -> None:
        """Take an erased user out of every endpoint's `user_ids`; a repeat changes nothing.

        `ERASED` takes the place, because an endpoint that asks for nobody would get everybody's messages.
        """
        cursor: str | None = None
        while True:
            page = await self._documents.find(ENDPOINTS, "partner", limit=PAGE, cursor=cursor)
            for endpoint in page.documents:
                if user_id in endpoint.user_ids:
                    with suppress(Problem):  # it has ended meanwhile
                        await self.change(endpoint.partner_id, endpoint.id, lambda now: _without(now, user_id))
            cursor = page.cursor
            if cursor is None:
                return

    async def check_url(self, url: str) -> None:
        """Raises Problem: 422, deliveries cannot go there."""
        try:
            await self._egress.check_url(url)
        except AddressRefused as error:
            raise Problem(422, "url-not-allowed", f"Deliveries cannot go to this URL: {error}.") from error


def _asks_for_others(before: Endpoint, after: Endpoint) -> bool:
    enabled_again = before.state == "disabled" != after.state
    return enabled_again or (before.event_types, before.user_ids) != (after.event_types, after.user_ids)


def _without(endpoint: Endpoint, user_id: str) -> Endpoint:
    if user_id not in endpoint.user_ids:
        return endpoint
    others = {one for one in endpoint.user_ids if one != user_id}
    return replace(endpoint, user_ids=tuple(sorted(others | {ERASED})))


def _ended(endpoint: Endpoint, keys: Sequence[EndpointKey], now: datetime) -> tuple[EndpointKey, ...]:
    """What recognises repeats of rotations whose keys sign no more, the newest first: of `keys`, and those known."""
    newly = [replace(key, sealed=b"") for key in keys if key.request_id and not key.signs(now)]
    since = now - ENDED_FOR
    return tuple(key for key in (*newly, *endpoint.ended) if key.created_at > since)[:MAX_ENDED]


def ended_by(key: EndpointKey, moment: datetime) -> EndpointKey:
    """The key, which signs until `moment` at the latest."""
    return replace(key, expires_at=moment if key.expires_at is None else min(key.expires_at, moment))


def key_reused() -> Problem:
    """Two requests under one Idempotency-Key."""
    return Problem(422, "idempotency-key-reused", "This Idempotency-Key came with another request; use a fresh one.")
