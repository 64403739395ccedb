"""When an endpoint is given up: 410 at once, else when all tries of five days failed. Its partner is told."""

import asyncio
import logging
from contextlib import suppress
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.webhooks.public import ENDPOINT_DISABLED, Body, EndpointDisabledData
from services.webhooks.records import ENDPOINTS, Endpoint
from services.webhooks.store import Store
from shared.clock import Clock
from shared.documents import Conflict, Documents
from shared.errors import Unavailable
from shared.ids import derived_id

GIVEN_UP_AFTER = timedelta(days=5)
LEAST_FAILURES = 3
# Failures are written down that often at most; successes end the count at once.
NOTED_EVERY = timedelta(minutes=1)
# Nothing that was claimed so long ago is under way.
REMEMBERED_FOR = timedelta(minutes=5)
GONE_REASON = "the receiver answered 410 Gone"
FAILED_REASON = "every delivery failed for 5 days"
ATTEMPTS = 20
# A process that is killed comes back within seconds.
LOOK_EVERY_S = 60.0
PAGE = 100
log = logging.getLogger(__name__)


class Health:
    """Counts failures in a row on the endpoint's document, for all processes together.

    That an endpoint is given up is stored before anybody is told, so it is told once more where a process died between.
    """

    def __init__(self, documents: Documents, store: Store, clock: Clock) -> None:
        self._documents = documents
        self._store = store
        self._clock = clock
        self._noted: dict[str, datetime] = {}

    async def succeeded(self, endpoint: Endpoint) -> None:
        """A delivery arrived: whatever failed before counts no more."""
        if self._noted.pop(endpoint.id, None) is not None and endpoint.failing_since is None:
            # What was claimed together has the endpoint as it was before the first of it failed.
            if (fresh := await self._store.endpoint(endpoint.id)) is None:
                return
            endpoint = fresh
        for _ in range(ATTEMPTS):
            if endpoint.failing_since is None:
                return
            try:
                await self._documents.put(ENDPOINTS, replace(endpoint, failing_since=None, failures=0))
            except Conflict:
                if (fresh := await self._store.endpoint(endpoint.id)) is None:
                    return
                endpoint = fresh

    async def failed(self, endpoint: Endpoint, *, gone: bool) -> None:
        """A try failed; `gone`: the receiver wants nothing any more. Disables the endpoint when it is time."""
        now = self._clock()
        if gone:
            # Its partner may have changed the URL since: what the old one says is nothing of the new one's.
            fresh = await self._store.endpoint(endpoint.id)
            if fresh is not None and fresh.url == endpoint.url:
                await self._give_up(endpoint.id, GONE_REASON)
            return
        noted = self._noted.get(endpoint.id)
        if noted is not None and noted <= now < noted + NOTED_EVERY:
            return
        self._note(endpoint.id, now)
        for _ in range(ATTEMPTS):
            since = endpoint.failing_since or now
            if endpoint.failures + 1 >= LEAST_FAILURES and now - since >= GIVEN_UP_AFTER:
                # It may have succeeded since, or been changed or enabled by its partner: all of that begins anew.
                fresh = await self._store.endpoint(endpoint.id)
                if fresh is not None and fresh.failing_since == endpoint.failing_since:
                    await self._give_up(endpoint.id, FAILED_REASON)
                return
            try:
                counted = replace(endpoint, failing_since=since, failures=endpoint.failures + 1)
                await self._documents.put(ENDPOINTS, counted)
            except Conflict:
                fresh = await self._store.endpoint(endpoint.id)
                if fresh is None or fresh.failing_since is None:  # it succeeded meanwhile, or this is for the next try
                    return
                endpoint = fresh
            else:
                return

    def _note(self, endpoint_id: str, now: datetime) -> None:
        """Remember when its failures were written down; what is old goes, or endpoints that are gone would pile up."""
        self._noted.pop(endpoint_id, None)
        self._noted[endpoint_id] = now
        while (oldest := next(iter(self._noted.items())))[1] <= now - REMEMBERED_FOR:
            del self._noted[oldest[0]]

    async def run(self) -> None:
        """Tell what processes did not live to tell, until cancelled."""
        while True:
            try:
                await self.tell_rest()
            except Unavailable:
                log.warning("nobody was told of disabled endpoints: the database does not answer")
            await asyncio.sleep(LOOK_EVERY_S)

    async def tell_rest(self) -> None:
        """Tell of every disabled endpoint of which its partner was not told. Raises Unavailable("database")."""
        while untold := (await self._documents.find(ENDPOINTS, "untold", limit=PAGE)).documents:
            for endpoint in untold:
                await self._tell(endpoint)

    async def _give_up(self, endpoint_id: str, reason: str) -> None:
        """Disable the endpoint and tell the partner's others, once."""
        if (endpoint := await self._store.disable(endpoint_id, reason)) is not None:
            log.warning("endpoint %s is disabled: %s", endpoint_id, reason)
            await self._tell(endpoint)

    async def _tell(self, given_up: Endpoint) -> None:
        """Tell the partner's other endpoints; whoever repeats it makes no second message."""
        if (since := given_up.untold_since) is None:
            return
        others = [one for one in await self._store.endpoints(given_up.partner_id) if one.state != "disabled"]
        data = EndpointDisabledData(endpoint_id=given_up.id, reason=given_up.state_reason or "").model_dump()
        body = Body(type=ENDPOINT_DISABLED, timestamp=since, data=data).model_dump_json().encode()
        message_id = derived_id("endpoint disabled", given_up.id, since.isoformat())
        await self._store.tell_endpoints(others, ENDPOINT_DISABLED, message_id, body)
        # Whoever writes the endpoint meanwhile keeps the mark, and it is told in vain once more.
        with suppress(Conflict):
            await self._documents.put(ENDPOINTS, replace(given_up, untold_since=None))
