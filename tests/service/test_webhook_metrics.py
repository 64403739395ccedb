"""What an operator sees of deliveries."""

import re
from collections import Counter
from datetime import timedelta
from pathlib import Path

from aiohttp import web

from shared import topics
from tests.polling import eventually
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.webhook_endpoints import webhooks
from tests.service.webhook_events import LISTEN, delivered, endpoint, grant, insight, tried


async def told(service: Running) -> Counter[str]:
    text = (await service.http.get("/metrics")).text
    lines = re.findall(r'^deliveries_total\{outcome="(\w+)"\} ([\d.]+)', text, re.MULTILINE)
    return Counter({outcome: int(float(count)) for outcome, count in lines})


async def counted(service: Running, before: Counter[str], wanted: Counter[str]) -> bool:
    assert (found := await told(service) - before) == wanted, found
    return True


async def test_every_try_is_counted_by_what_came_of_it(tmp_path: Path, receiver: Receiver, clock: MovableClock) -> None:
    async with webhooks(tmp_path, clock, listen=LISTEN) as service:
        before = await told(service)
        receiver.answers += [web.Response(status=500), web.Response(status=204), web.Response(status=410)]
        made = await endpoint(service, receiver.url)
        await service.send(topics.GRANTS, grant())
        await service.send(topics.INSIGHTS, insight(1))
        await eventually(lambda: tried(service, made, 1))
        clock.ahead = timedelta(seconds=10)
        await eventually(lambda: delivered(service, made))
        await service.send(topics.INSIGHTS, insight(2))
        assert await eventually(lambda: counted(service, before, Counter(failed=1, delivered=1, given_up=1)))
