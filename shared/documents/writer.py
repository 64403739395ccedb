"""The one thread of a process that writes to its SQLite file, and how SQLite's failures are told apart."""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.errors import Unavailable

T = TypeVar("T")
Connect = Callable[[], sqlite3.Connection]
logger = logging.getLogger(__name__)

# A group is answered together, so its size bounds how long the first write waits for the last.
GROUP_LIMIT = 256


@dataclass(frozen=True)
class Write:
    """Something to do inside a transaction, and who waits for it."""

    run: Callable[[sqlite3.Connection], Any]
    answer: asyncio.Future[Any]


class Writer:
    """Takes writes from the event loop and commits those that wait together, each in its own savepoint.

    A write is answered after the COMMIT that made it durable. One that raises undoes itself alone; a failure of the
    engine undoes the group and is `Unavailable("database")` for all of it.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="documents-writer", daemon=True)
        self._thread.start()

    async def run(self, run: Callable[[sqlite3.Connection], T]) -> T:
        """Run `run(connection)` in a transaction and return its result once that is durable."""
        if self._closed or self._thread is None:
            raise Unavailable("database")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(Write(run, answer))
        return await answer

    def close(self) -> None:
        """Finish what is queued and end the thread (blocks until then)."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            while len(group) < GROUP_LIMIT and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    # The end was asked for: leave the mark for the outer loop.
                    self._queue.put(None)
                    break
                group.append(following)
            _deliver(group, self._commit(group))
        self._disconnect()

    def _commit(self, group: Sequence[Write]) -> list[Any]:
        """What became of each write: its result, or the exception to raise."""
        try:
            connection = self._connection = self._connection or self._connect()
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_attempt(connection, write) for write in group]
            connection.execute("COMMIT")
            return outcomes
        except (sqlite3.Error, OSError) as error:
            logger.warning("the database refused a group of writes: %s", describe(error))
            self._disconnect()
            return [failure(error) for _ in group]

    def _disconnect(self) -> None:
        """Close the connection, which rolls back what is open; the next group makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                logger.warning("the database did not close cleanly: %s", describe(error))


def _attempt(connection: sqlite3.Connection, write: Write) -> Any:
    connection.execute("SAVEPOINT write")
    try:
        result = write.run(connection)
    except Exception as error:
        if isinstance(failure(error), Unavailable):
            raise
        connection.execute("ROLLBACK TO write")
        result = error
    connection.execute("RELEASE write")
    return result


def _deliver(group: Sequence[Write], outcomes: Sequence[Any]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for write, outcome in zip(group, outcomes, strict=True):
        by_loop.setdefault(write.answer.get_loop(), []).append((write.answer, outcome))
    for loop, answers in by_loop.items():
        try:
            loop.call_soon_threadsafe(_answer, answers)
        except RuntimeError:
            logger.info("nobody waits any more for %d writes", len(answers))


def _answer(answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in answers:
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def failure(error: Exception) -> Exception:
    """`Unavailable("database")` when the engine failed (busy, full, unreadable), else `error` itself, a defect."""
    engine_failed = type(error) is sqlite3.DatabaseError or (
        isinstance(error, sqlite3.OperationalError)
        and getattr(error, "sqlite_errorcode", sqlite3.SQLITE_BUSY) & 0xFF != sqlite3.SQLITE_ERROR
    )
    if not engine_failed and not isinstance(error, OSError):
        return error
    unavailable = Unavailable("database")
    unavailable.__cause__ = error
    return unavailable


def describe(error: Exception) -> str:
    """The engine's name for an error; never a statement or a value."""
    return getattr(error, "sqlite_errorname", type(error).__name__)
