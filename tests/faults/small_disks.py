"""Small file systems below a stack's folders, which a test can fill to the last byte; only root can mount them."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.local.instance import Instance

MEGABYTE = 1024 * 1024
# Kafka's index files are sparse, so it needs little beside the records themselves.
SIZES_MB = {"kafka": 384, "objects": 64}
FILLER = "filler"


def place(instance: Instance, name: str) -> Path:
    """Where the small file system of that name belongs."""
    return instance.data / "kafka" / "log" if name == "kafka" else instance.data / name


def mount(instance: Instance, names: list[str]) -> dict[str, str]:
    """Mount them before the stack starts; per name why it was not possible, or nothing."""
    return {name: _mounted(place(instance, name), SIZES_MB[name]) for name in names}


def _mounted(path: Path, size_mb: int) -> str:
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=700", "mymacro-faults", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no small file system can be mounted here ({type(error).__name__})"
    return "" if done.returncode == 0 else "no small file system can be mounted here (it needs root)"


def unmount(instance: Instance) -> None:
    """Take away what `mount` mounted; harmless where nothing is."""
    for name in SIZES_MB:
        path = place(instance, name)
        if path.is_mount():
            command = ["umount", "-l", str(path)]
            subprocess.run(command, capture_output=True, timeout=10, check=False)


@contextmanager
def filled(path: Path) -> Iterator[None]:
    """Not a byte is free at `path`."""
    filler = path / FILLER
    handle = os.open(filler, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        block = bytes(MEGABYTE)
        while block:
            try:
                os.write(handle, block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                block = block[: len(block) // 2]
        yield
    finally:
        os.close(handle)
        filler.unlink()
