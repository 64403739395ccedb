"""The locks of an instance: whoever supervises or restarts it holds one, and it goes with them however they end."""

import fcntl
import time
from pathlib import Path
from typing import IO

FILE = "supervisor.lock"
RESTARTS = "restarts.lock"
AGAIN_S = 0.01


def hold(run: Path, name: str = FILE, *, patience_s: float = 0.0) -> IO[str] | None:
    """The lock in the folder `run`, held as long as the file stays open; None when others have it all that time."""
    run.mkdir(parents=True, exist_ok=True)
    file = (run / name).open("a")
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                return None
        time.sleep(AGAIN_S)  # flock cannot wait for a while only


def held(run: Path) -> bool:
    """Whether a supervisor holds it; makes nothing where nothing ran yet."""
    if not (run / FILE).exists():
        return False
    file = hold(run)
    if file is None:
        return True
    file.close()
    return False
