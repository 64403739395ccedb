"""The data folder is for the account alone that runs the stack: health data and keys lie in it."""

import stat
from pathlib import Path

OWNER_ONLY = 0o700
# For everything that the supervisor starts: files 0600, folders 0700.
UMASK = 0o077


class SharedFolder(Exception):
    """The folder can't be closed to others; the message is one sentence for people."""


def close(data: Path) -> None:
    """Make the folder if it is missing, and let nobody else in, also where an earlier version let them.

    Raises:
        SharedFolder: it belongs to somebody else, or is meant for everybody, as /tmp is.
        OSError: it can't be made.
    """
    data.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
    mode = data.stat().st_mode
    if mode & stat.S_ISVTX:
        raise SharedFolder(f"{data} is a folder for everybody; name one below it in MYMACRO_DATA.")
    if stat.S_IMODE(mode) == OWNER_ONLY:
        return
    try:
        data.chmod(OWNER_ONLY)
    except PermissionError as error:
        raise SharedFolder(f"{data} belongs to another account, and others may read it; name another.") from error
