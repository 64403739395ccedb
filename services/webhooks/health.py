"""When an endpoint is given up: 410 at once, else when all tries of five days failed. Its partner is told."""

import logging
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.webhooks.public import ENDPOINT_DISABLED, Body, EndpointDisabledData
from services.webhooks.records import ENDPOINTS, Endpoint
from services.webhooks.store import Store
from shared.clock import Clock
from shared.documents import Conflict, Documents
from shared.ids import derived_id

GIVEN_UP_AFTER = timedelta(days=5)
LEAST_FAILURES = 3
# Failures are written down that often at most; successes end the count at once.
NOTED_EVERY = timedelta(minutes=1)
GONE_REASON = "the receiver answered 410 Gone"
FAILED_REASON = "every delivery failed for 5 days"
ATTEMPTS = 20
log = logging.getLogger(__name__)


class Health:
    """Counts failures in a row on the endpoint's document, for all processes together."""

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
                await self._give_up(endpoint.id, GONE_REASON, now)
            return
        noted = self._noted.get(endpoint.id)
        if noted is not None and noted <= now < noted + NOTED_EVERY:
            return
        self._noted[endpoint.id] = now
        for _ in range(ATTEMPTS):
            since = endpoint.failing_since or now
            if endpoint.failures + 1 >= LEAST_FAILURES and now - since >= GIVEN_UP_AFTER:
                await self._give_up(endpoint.id, FAILED_REASON, now)
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

    async def _give_up(self, endpoint_id: str, reason: str, now: datetime) -> None:
        """Disable the endpoint and tell the partner's others, once."""
        if (endpoint := await self._store.disable(endpoint_id, reason)) is None:
            return
        log.warning("endpoint %s is disabled: %s", endpoint_id, reason)
        others = [one for one in await self._store.endpoints(endpoint.partner_id) if one.state != "disabled"]
        data = EndpointDisabledData(endpoint_id=endpoint_id, reason=reason).model_dump()
        body = Body(type=ENDPOINT_DISABLED, timestamp=now, data=data).model_dump_json().encode()
        message_id = derived_id("endpoint disabled", endpoint_id, endpoint.version)
        await self._store.tell_endpoints(others, ENDPOINT_DISABLED, message_id, body)
