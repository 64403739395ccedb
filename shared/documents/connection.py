"""Connections to an SQLite file, as durable and as patient as the port promises."""

import sqlite3
import time
from pathlib import Path

BUSY_SECONDS = 5.0


def connected(path: Path) -> sqlite3.Connection:
    """A connection in WAL mode with `synchronous=FULL`. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -16000")  # KiB per connection
    # Deleted and replaced rows are overwritten with zeros, so that erasing a user leaves nothing in the file.
    # 10,000 growing rows took as many bytes written and as much CPU without.
    connection.execute("PRAGMA secure_delete = ON")
    # What a savepoint remembers of a large write stays in memory: 5 kB fewer bytes written for a small message.
    connection.execute("PRAGMA temp_store = MEMORY")
    # 16 MB between checkpoints, four times SQLite's: pages written often reach the file once; 8 % fewer bytes a batch.
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switching to WAL answers "busy" at once when another process switches too, hence the loop of our own."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                connection.close()
                raise
            time.sleep(0.01)


def connected_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing. Raises sqlite3.Error."""
    connection = connected(path)
    connection.execute("PRAGMA query_only = ON")
    return connection
