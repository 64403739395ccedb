"""Ending auth's background work."""

import asyncio

import pytest

from services.auth.workers import cancelled


async def test_work_that_swallows_a_cancellation_ends_all_the_same() -> None:
    begun, swallowed = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await begun.wait()
    await cancelled(task)
    assert swallowed.is_set()
    assert task.cancelled()


async def test_what_work_died_of_is_not_kept_back() -> None:
    async def failing() -> None:
        raise ValueError("defect")

    task = asyncio.create_task(failing())
    await asyncio.wait([task])
    with pytest.raises(ValueError, match="defect"):
        await cancelled(task)
