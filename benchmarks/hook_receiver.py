"""A partner's server for benchmarks: `python -m benchmarks.hook_receiver` prints its port.

`POST /hook` answers 204 and notes when each webhook-id came first (seconds of the machine's monotonic clock),
`POST /hang` never answers, `GET /times` tells the notes and forgets them.
"""

import asyncio
import sys
import time

from aiohttp import web


async def serve() -> None:
    """Listen until killed."""
    times: dict[str, float] = {}

    async def hook(request: web.Request) -> web.Response:
        await request.read()
        times.setdefault(request.headers.get("webhook-id", ""), time.monotonic())
        return web.Response(status=204)

    async def hang(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets the event")

    async def told(_: web.Request) -> web.Response:
        answer = web.json_response(times)
        times.clear()
        return answer

    app = web.Application()
    app.router.add_post("/hook", hook)
    app.router.add_post("/hang", hang)
    app.router.add_get("/times", told)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
