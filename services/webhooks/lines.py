"""Messages on their way to one partner's endpoints: each user's in their order, in lines without a gap."""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from services.webhooks.deliveries import Deliveries
from services.webhooks.public import TYPES
from services.webhooks.records import DELIVERIES, MESSAGES, Endpoint, Grant, Message, delivery_of, first_id
from shared.clock import Clock
from shared.documents import Documents

SMALL_PAGE = 8
LARGE_PAGE = 200
# Deliveries that are made in memory before they are stored.
HELD = 200
# How far back a line is looked over for what another turn was to add: one that stands still leaves its group in 90 s.
LOOK_BACK = timedelta(minutes=5)
Told = tuple[Message, Endpoint]


class Lines:
    """Makes the deliveries of messages that are stored."""

    def __init__(self, documents: Documents, queue: Deliveries, clock: Clock) -> None:
        self._documents = documents
        self._queue = queue
        self._clock = clock

    async def tell(self, messages: Iterable[Message], grant: Grant, endpoints: Sequence[Endpoint]) -> int:
        """Make a delivery of each message that the grant covers for each endpoint that wants it; how many are new.

        The messages are of the grant's user. Raises Unavailable("database").
        """
        ordered = [endpoint for endpoint in endpoints if endpoint.ordered]
        # Up to which number each ordered endpoint's line has, or is about to have, all that belongs there.
        whole: dict[str, int] = {}
        made, told = 0, list[Told]()
        for message in sorted(messages, key=lambda one: one.sequence):
            covered = grant.covers(TYPES[message.type].scope, message.stored_at)
            wanting = [one for one in endpoints if covered and one.wants(message.type, message.user_id)]
            unsure = [one for one in wanting if one.ordered and whole.get(one.id) != message.sequence - 1]
            if unsure or len(told) >= HELD:
                made += await self._add(told)
                told = await self._before(message, grant, unsure)
            told += [(message, endpoint) for endpoint in wanting]
            for one in ordered:
                if one in unsure or whole.get(one.id) == message.sequence - 1:
                    whole[one.id] = message.sequence
        return made + await self._add(told)

    async def _add(self, told: Sequence[Told]) -> int:
        now = self._clock()
        return await self._queue.add(delivery_of(message, endpoint, now) for message, endpoint in told)

    async def _before(self, message: Message, grant: Grant, endpoints: Sequence[Endpoint]) -> list[Told]:
        """What the user was told just before `message` and these endpoints' lines lack, in its order.

        Turns of several topics, or of several processes, fan out side by side; numbers are taken before. Whoever adds
        to a line adds first what is missing below, so the walk down ends at the first that is there.
        """
        missing: list[Told] = []
        looking = {endpoint.id: endpoint for endpoint in endpoints}
        user_id, cursor, limit = message.user_id, None, SMALL_PAGE
        while looking:
            page = await self._documents.find(
                MESSAGES, "sequence", (user_id,), below=message.sequence, descending=True, limit=limit, cursor=cursor
            )
            recent = [one for one in page.documents if one.stored_at >= message.stored_at - LOOK_BACK]
            wanted = [
                (one, endpoint)
                for one in recent
                if grant.covers(TYPES[one.type].scope, one.stored_at)
                for endpoint in looking.values()
                if endpoint.wants(one.type, one.user_id)
                if one.stored_at >= (endpoint.wants_since or endpoint.created_at)
            ]
            ids = [first_id(endpoint.id, one.id) for one, endpoint in wanted]
            for told, known in zip(wanted, await self._documents.get_many(DELIVERIES, ids), strict=True):
                if known is not None:
                    looking.pop(told[1].id, None)
                elif told[1].id in looking:
                    missing.append(told)
            cursor, limit = page.cursor, LARGE_PAGE
            if cursor is None or len(recent) < len(page.documents):
                break
        return missing[::-1]
