"""The locks of an instance: whoever supervises or restarts it holds one, and it goes with them however they end."""

import fcntl
from pathlib import Path
from typing import IO

FILE = "supervisor.lock"
RESTARTS = "restarts.lock"


def hold(run: Path, name: str = FILE) -> IO[str] | None:
    """The lock in the folder `run`, held as long as the file stays open; None when somebody else has it."""
    run.mkdir(parents=True, exist_ok=True)
    file = (run / name).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def held(run: Path) -> bool:
    """Whether a supervisor holds it; makes nothing where nothing ran yet."""
    if not (run / FILE).exists():
        return False
    file = hold(run)
    if file is None:
        return True
    file.close()
    return False
