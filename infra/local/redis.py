"""Redis on this machine, in which the gateways of a cluster count together: the system's own `redis-server`.

Nothing of it need outlive it: without Redis each gateway counts by itself, and a lost count is a new window.
"""

import asyncio
import shutil

PROGRAM = "redis-server"
PROBE_TIMEOUT_S = 2.0
# Counts of a few bytes a caller; beyond it what would end soonest goes first.
MEMORY = "64mb"


def problem() -> str | None:
    """Why there is none, as a sentence."""
    if shutil.which(PROGRAM):
        return None
    return f"A cluster needs {PROGRAM}, and there is none on PATH; install it (apt-get install redis-server)."


def command(port: int) -> list[str]:
    """The server, on loopback, in its working directory, keeping nothing on disk."""
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", ".", "--daemonize", "no"]
    bounds = ["--maxmemory", MEMORY, "--maxmemory-policy", "volatile-ttl"]
    return [shutil.which(PROGRAM) or PROGRAM, *where, "--save", "", "--appendonly", "no", *bounds]


async def ready(port: int) -> bool:
    """Whether it answers."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline() == b"+PONG\r\n"
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
