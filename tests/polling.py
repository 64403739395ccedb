"""Waiting for something to become true, with a deadline; tests never sleep a fixed time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(check: Callable[[], Awaitable[T] | T], *, seconds: float = 10, every: float = 0.02) -> T:
    """What `check` returns once it is truthy.

    Raises:
        AssertionError: it stayed falsy (or kept failing an assertion) until the deadline.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            result = check()
            value = await result if isinstance(result, Awaitable) else result
            if value:
                return value
            last = value
        except AssertionError as failure:
            last = failure
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s; last: {last!r}")
        await asyncio.sleep(every)
