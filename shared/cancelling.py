"""Ending tasks that go on for ever.

Cancelling once is not enough: until Python 3.12 `asyncio.wait_for`, with which PyMongo reads, swallows a cancellation
that comes together with its result, and what goes on for ever then does.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

# Longer than jobs are given to end (twice 3 s), shorter than a process is (15 s).
AGAIN_S = 7.0


async def cancelled(*tasks: "asyncio.Task[Any]", again_s: float = AGAIN_S) -> None:
    """Cancel the tasks until all have ended; raises what the first that failed raised."""
    while waiting := [task for task in tasks if not task.done()]:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting, timeout=again_s)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of these until cancelled; when one fails the others end too, and its error is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await cancelled(*tasks)
