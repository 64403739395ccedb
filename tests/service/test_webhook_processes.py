"""Several processes deliver from one queue: nothing is lost, whoever dies or has a wrong clock."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from services.webhooks.keys import EndpointKeys
from services.webhooks.records import DELIVERIES, ENDPOINTS, Delivery, Endpoint
from services.webhooks.store import Store
from shared.cancelling import AGAIN_S
from shared.clock import utc_now
from shared.documents import Documents
from shared.secrets import open_secrets
from tests.polling import eventually
from tests.service import dispatch_process
from tests.service.dispatch_process import settings_in
from tests.service.running import common_settings
from tests.service.webhook_endpoints import database
from tests.service.webhook_events import PARTNER

MANY = 20
PRODUCERS, EACH = 20, 200
WORKERS_A_PROCESS = 10


class Door:
    """A receiver that counts ids and answers only while it is open."""

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        self.open = asyncio.Event()
        self.open.set()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        await request.read()
        self.received[request.headers["webhook-id"]] += 1
        await self.open.wait()
        return web.Response(status=204)


@pytest.fixture
async def door() -> AsyncGenerator[Door]:
    door, app = Door(), web.Application()
    app.router.add_post("/", door.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    door.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield door
    door.open.set()
    await runner.cleanup()


@pytest.fixture
async def documents(tmp_path: Path) -> AsyncGenerator[Documents]:
    common_settings(tmp_path)
    async with database(tmp_path) as documents:
        yield documents


@asynccontextmanager
async def dispatching(folder: Path, *, ahead_s: float = 0) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.service.dispatch_process", str(folder), str(ahead_s), str(WORKERS_A_PROCESS)
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def endpoints(folder: Path, documents: Documents, url: str, count: int = MANY) -> list[Endpoint]:
    keys = EndpointKeys(open_secrets(settings_in(folder)))
    made: list[Endpoint] = []
    for number in range(count):
        key = keys.new("hmac", f"e{number}", PARTNER, utc_now())
        endpoint = Endpoint(
            id=f"e{number}",
            partner_id=PARTNER,
            url=url,
            event_types=(),
            keys=(key,),
            request_hash="",
            created_at=utc_now(),
        )
        made.append(await documents.insert(ENDPOINTS, endpoint))
    return made


def delivery(endpoint: Endpoint, message_id: str) -> Delivery:
    now = utc_now()
    return Delivery(
        id=f"d-{message_id}",
        endpoint_id=endpoint.id,
        partner_id=PARTNER,
        user_id="",
        message_id=message_id,
        message_type="user.erased",
        created_at=now,
        body=b"{}",
        due_at=now,
    )


async def delivered(documents: Documents, count: int) -> int:
    return sum([await documents.count(DELIVERIES, "state", (f"e{n}", "delivered")) for n in range(count)])


@pytest.mark.timeout(180)
async def test_twenty_producers_and_twenty_workers_deliver_4000_once_each(
    tmp_path: Path, documents: Documents, door: Door
):
    store = Store(documents, utc_now)
    made = await endpoints(tmp_path, documents, door.url)

    async def produce(producer: int) -> None:
        for number in range(EACH):
            endpoint = made[(producer + number) % MANY]
            assert await store.queue.add([delivery(endpoint, f"{producer}-{number}")]) == 1

    async with dispatching(tmp_path), dispatching(tmp_path):
        await asyncio.gather(*map(produce, range(PRODUCERS)))
        wanted = PRODUCERS * EACH
        await eventually(lambda: _reached(documents, wanted), seconds=120, every=0.5)
    assert len(door.received) == PRODUCERS * EACH
    assert set(door.received.values()) == {1}


async def _reached(documents: Documents, wanted: int, of: int = MANY) -> bool:
    return await delivered(documents, of) == wanted


@pytest.mark.timeout(120)
async def test_a_process_that_is_killed_in_mid_attempt_loses_nothing(tmp_path: Path, documents: Documents, door: Door):
    store = Store(documents, utc_now)
    (endpoint,) = await endpoints(tmp_path, documents, door.url, 1)
    await store.queue.add([delivery(endpoint, str(number)) for number in range(30)])
    door.open.clear()
    async with dispatching(tmp_path) as process:
        await eventually(lambda: door.received, seconds=30)
        process.kill()
        await process.wait()
    assert await delivered(documents, 1) == 0
    under_way = set(door.received)
    door.open.set()
    # A minute later, when the leases of the dead are over.
    async with dispatching(tmp_path, ahead_s=61):
        await eventually(lambda: _reached(documents, 30, 1), seconds=60)
    assert set(door.received) == {str(number) for number in range(30)}
    assert {one for one, times in door.received.items() if times == 2} == under_way
    page = await documents.find(DELIVERIES, "endpoint", ("e0",), limit=100)
    assert {(one.tries, len(one.history), one.body) for one in page.documents} == {(1, 1, None)}


class SlowClaims:
    """The database, which answers claims when `answers` is set."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self.claimed, self.answers = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def claim(self, *arguments: Any, **named: Any) -> Any:
        found = await self._documents.claim(*arguments, **named)
        self.claimed.set()
        await self.answers.wait()
        return found


@asynccontextmanager
async def told_to_end(
    tmp_path: Path, documents: Documents, door: Door
) -> AsyncGenerator[tuple[SlowClaims, asyncio.Task[None]]]:
    """A process that is told to end while it waits for the answer to a claim of one delivery."""
    (endpoint,) = await endpoints(tmp_path, documents, door.url, 1)
    await Store(documents, utc_now).queue.add([delivery(endpoint, "one")])
    slow = SlowClaims(documents)
    async with dispatch_process.dispatcher(tmp_path, cast(Documents, slow), utc_now, 4) as dispatcher:
        running = asyncio.create_task(dispatcher.run())
        await slow.claimed.wait()
        running.cancel()
        yield slow, running


async def test_what_is_claimed_as_a_process_is_told_to_end_goes_out_before_it_does(
    tmp_path: Path, documents: Documents, door: Door
):
    async with told_to_end(tmp_path, documents, door) as (slow, running):
        slow.answers.set()
        await asyncio.wait({running})
    assert await delivered(documents, 1) == 1


async def test_a_process_ends_in_time_also_where_the_database_hangs(tmp_path: Path, documents: Documents, door: Door):
    async with told_to_end(tmp_path, documents, door) as (_, running):
        # Whoever has not ended by then is cancelled once more.
        await asyncio.wait({running}, timeout=AGAIN_S)
        assert running.done()
    assert not door.received


@pytest.mark.timeout(120)
async def test_clocks_ten_minutes_off_lose_nothing_and_store_one_outcome_each(
    tmp_path: Path, documents: Documents, door: Door
):
    store = Store(documents, utc_now)
    made = await endpoints(tmp_path, documents, door.url, 4)
    async with dispatching(tmp_path, ahead_s=600), dispatching(tmp_path, ahead_s=-600), dispatching(tmp_path):
        for number in range(200):
            await store.queue.add([delivery(made[number % 4], str(number))])
        await eventually(lambda: _reached(documents, 200, 4), seconds=60)
    assert set(door.received) == {str(number) for number in range(200)}
    for endpoint in made:
        page = await documents.find(DELIVERIES, "endpoint", (endpoint.id,), limit=100)
        assert {(one.state, one.tries) for one in page.documents} == {("delivered", 1)}
