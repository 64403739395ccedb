"""The front door for pictures: whatever is sent, only clean pixels pass, and nothing it does hurts this process."""

import asyncio
import signal
import sys
from pathlib import Path

from shared.errors import Rejected, Unavailable

FRONT_DOOR = Path(__file__).with_name("front_door.py")
REFUSED = 3
# A signal to the whole process group, such as the supervisor's at `down`, is not the picture's fault.
STOPPED = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
WALL_S = 20.0
DETAILS = {
    "unsupported-picture": "Send a JPEG, PNG or WebP picture.",
    "truncated-picture": "The picture is incomplete; send it again.",
    "damaged-picture": "The picture can't be decoded; take and send it again.",
    "picture-too-large": "Send a picture of at most 40 megapixels.",
    "picture-too-small": "Send a picture of at least 32 pixels on each side.",
    "picture-too-demanding": "Decoding the picture takes too much memory or time; send a plain photo.",
    "picture-missing": "The picture is no longer held; send it again.",
    "no-label-found": "No nutrition table was found; photograph it straight on so that it fills the picture.",
}


def rejected(reason: str) -> Rejected:
    """The refusal of a picture, with what to do about it."""
    return Rejected(reason, DETAILS[reason])


async def clean_picture(encoded: bytes) -> bytes:
    """The picture upright, at most 2000 px a side, as JPEG without metadata, decoded in a limited process of its own.

    Raises:
        Rejected: it is no picture that we take, it is damaged, or it hit a limit.
        Unavailable: ("processes") this machine starts no more processes now, or the child was told to end.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            # -I: neither the environment nor the working directory decide what the child imports.
            *(sys.executable, "-I", "-B", str(FRONT_DOOR)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
        )
    except OSError as error:
        raise Unavailable("processes") from error
    try:
        output, _ = await asyncio.wait_for(process.communicate(encoded), WALL_S)
    except TimeoutError:
        raise rejected("picture-too-demanding") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == REFUSED:
        raise rejected(output.decode())
    if process.returncode in STOPPED:
        raise Unavailable("processes")
    if process.returncode != 0:
        raise rejected("picture-too-demanding")
    return output
