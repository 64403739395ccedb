"""Delivering: claim, check the grant again, sign, POST, keep the attempt, decide what is next."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.webhooks.egress import Answer, Egress
from services.webhooks.keys import EndpointKeys
from services.webhooks.public import ENDPOINT_TEST, USER_ERASED
from services.webhooks.records import State
from services.webhooks.schedule import next_wait, parse_retry_after
from services.webhooks.signing import SigningKey, signed_headers
from services.webhooks.store import Attempt, Delivery, Endpoint, Store
from shared.clock import Clock
from shared.redaction import whereabouts
from shared.secrets import CannotOpen
from shared.telemetry import bind, current_traceparent, span

HISTORY_KEPT = 20
GONE = 410
OBEYED = (429, 503)
USER_AGENT = "MyMacroTracker-Webhooks/1"
# Nothing is sent. The tries of more than three days leave the operator time to put a lost key back.
UNSIGNED = Answer(None, 0, "not sent: the endpoint's secret cannot be opened here")
BROKEN = Answer(None, 0, "not known: this try broke on an error of ours")
SUSPENDED = "the partner is suspended"
NOT_GRANTED = "the user's grant does not cover this any more"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checked:
    """What deliveries that were claimed together share: their endpoint, why which of them (by id) is not to be sent,
    and what signs them; None: that cannot be opened.
    """

    endpoint: Endpoint | None
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    keys: Sequence[SigningKey] | None = None


class Sender:
    """Turns a claimed delivery into the one to store. `jitter` gives numbers from -1 to 1."""

    def __init__(
        self,
        store: Store,
        egress: Egress,
        keys: EndpointKeys,
        clock: Clock,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 - spreads load, guards nothing
    ) -> None:
        self._store = store
        self._egress = egress
        self._keys = keys
        self._clock = clock
        self._jitter = jitter

    async def check(self, endpoint: Endpoint | None, claimed: Sequence[Delivery]) -> Checked:
        """What stands against deliveries of one endpoint now that they are claimed. Raises Unavailable("database")."""
        if endpoint is None or endpoint.state == "disabled":
            return Checked(endpoint)
        suspended = {
            type: await self._store.suspended(endpoint.partner_id, type)
            for type in {one.message_type for one in claimed}
        }
        refused = dict.fromkeys(await self._store.uncovered(claimed, endpoint.partner_id), NOT_GRANTED)
        refused |= {one.id: SUSPENDED for one in claimed if suspended[one.message_type]}
        at, place = self._clock(), (endpoint.id, endpoint.partner_id)
        try:
            keys = tuple(self._keys.open(key, *place) for key in endpoint.keys if key.signs(at))
            renewed = self._keys.renewed(endpoint.keys, *place)
        except CannotOpen as error:
            log.error("the secret of endpoint %s cannot sign: %s", endpoint.id, error)
            return Checked(endpoint, refused)
        if renewed is not None:
            await self._store.replace_keys(endpoint, renewed)
        return Checked(endpoint, refused, keys)

    async def send(self, delivery: Delivery, checked: Checked) -> Delivery:
        """One try, unless something stands against it."""
        bind(user_id=delivery.user_id, message_id=delivery.message_id, endpoint_id=delivery.endpoint_id)
        endpoint = checked.endpoint
        if endpoint is None or delivery.body is None:
            return ended(delivery, "cancelled", "the endpoint is gone")
        if endpoint.state == "disabled":
            return ended(delivery, "failed", "the endpoint is disabled")
        if (reason := checked.refused.get(delivery.id)) is not None:
            return ended(delivery, "cancelled", reason)
        at = self._clock()
        if checked.keys is None:
            return after(delivery, UNSIGNED, at, self._clock(), self._jitter())
        try:
            answer = await self._post(delivery, delivery.body, endpoint, checked.keys, at)
            return after(delivery, answer, at, self._clock(), self._jitter())
        except Exception as error:
            # A try that is not counted would be made again and again, each time its lease is over.
            log.error("a try broke: %s", whereabouts(error))
            return after(delivery, BROKEN, at, self._clock(), self._jitter())

    async def _post(
        self, delivery: Delivery, body: bytes, endpoint: Endpoint, keys: Sequence[SigningKey], at: datetime
    ) -> Answer:
        headers = dict(endpoint.headers) | {"content-type": "application/json", "user-agent": USER_AGENT}
        headers |= signed_headers(keys, delivery.message_id, int(at.timestamp()), body)
        if delivery.replay_id is not None:
            headers["webhook-replay"] = delivery.replay_id
        attributes = {"webhook.type": delivery.message_type, "webhook.try": delivery.tries + 1}
        with span("webhook deliver", kind="client", attributes=attributes) as place:
            traceparent = current_traceparent()
            if traceparent is not None:
                headers["traceparent"] = traceparent
            answer = await self._egress.post(endpoint.url, headers, body)
            bind(status=answer.status)
            if answer.error is not None:
                place.fail(str(answer.status or "no answer"))
            return answer


def ended(delivery: Delivery, state: State, reason: str | None) -> Delivery:
    """Nothing is left to do: no due time, no place in a line, and the body is dropped.

    Only of a user who was erased nobody could make it again, so it stays where it failed, for a retry.
    """
    body = delivery.body if state == "failed" and delivery.message_type == USER_ERASED else None
    return replace(delivery, state=state, due_at=None, line=None, body=body, last_error=reason)


def after(delivery: Delivery, answer: Answer, at: datetime, now: datetime, jitter: float) -> Delivery:
    """The delivery after one try that began `at`: delivered, given up, or due again. Of a test there is one try."""
    attempt = Attempt(at=at, status=answer.status, ms=answer.ms, error=answer.error, answer=answer.text)
    tried = replace(delivery, tries=delivery.tries + 1, history=(*delivery.history, attempt)[-HISTORY_KEPT:])
    if answer.error is None:
        return ended(tried, "delivered", None)
    if answer.status == GONE or delivery.message_type == ENDPOINT_TEST:
        return ended(tried, "failed", answer.error)
    asked: timedelta | None = parse_retry_after(answer.retry_after, now) if answer.status in OBEYED else None
    wait = next_wait(tried.tries, jitter, retry_after=asked, slow=answer.slow)
    if wait is None:
        return ended(tried, "failed", answer.error)
    return replace(tried, due_at=now + wait, last_error=answer.error)
