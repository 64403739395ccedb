"""Tasks that swallow a cancellation, as `asyncio.wait_for` of Python 3.11 does, end all the same."""

import asyncio

import pytest

from shared.cancelling import cancelled, together


class Endless:
    """Goes on for ever, and swallows so many cancellations."""

    def __init__(self, swallows: int) -> None:
        self.left = swallows
        self.began = asyncio.Event()
        self.ended = False

    async def run(self) -> None:
        self.began.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not self.left:
                    self.ended = True
                    raise
                self.left -= 1


async def failing() -> None:
    raise OSError("the disk is gone")


async def test_it_is_cancelled_until_it_ends() -> None:
    one, other = Endless(2), Endless(0)
    tasks = [asyncio.create_task(one.run()), asyncio.create_task(other.run())]
    await asyncio.gather(one.began.wait(), other.began.wait())
    await cancelled(*tasks, again_s=0.001)
    assert (one.ended, other.ended) == (True, True)


async def test_what_it_raised_is_raised() -> None:
    one = Endless(1)
    tasks = [asyncio.create_task(failing()), asyncio.create_task(one.run())]
    await one.began.wait()
    with pytest.raises(OSError, match="disk"):
        await cancelled(*tasks, again_s=0.001)
    assert one.ended


async def test_of_some_together_none_goes_on_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelled, "__kwdefaults__", {"again_s": 0.001})
    one, other = Endless(1), Endless(0)
    task = asyncio.create_task(together(one.run(), other.run()))
    await asyncio.gather(one.began.wait(), other.began.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (one.ended, other.ended) == (True, True)


async def test_one_that_fails_ends_the_others() -> None:
    other = Endless(0)
    with pytest.raises(OSError, match="disk"):
        await together(other.run(), failing())
    assert other.ended
