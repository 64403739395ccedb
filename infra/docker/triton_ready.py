"""The health check of Triton's container: exit code 0 when the model reads a known picture, else 1.

Triton's own ready end points stay 200 when the process behind the model is dead, and Triton does not start it again. So
where that is what is wrong, this ends Triton, and the container's restart policy starts both. Standard library only.
"""

import json
import os
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

# The image's address by default; argument 1 names another.
URL = "http://127.0.0.1:8000"
PICTURE = Path("/opt/probe.png")
TEXT = "123"
# Photos queue in front of this one: under an overload of eight, one took 7 s.
TIMEOUT_S = 30.0
DEAD_STUB = "Stub process"
TRITON_PID = 1


def read(url: str, picture: bytes) -> str:
    """The text the model sees in `picture`.

    Raises:
        urllib.error.HTTPError: Triton refuses or the model failed.
        OSError: Triton does not answer.
    """
    image = {"name": "IMAGE", "datatype": "UINT8", "shape": [len(picture)], "data": list(picture)}
    body = json.dumps({"inputs": [image], "outputs": [{"name": "TEXT"}]}).encode()
    with urllib.request.urlopen(f"{url}/v2/models/label_ocr/infer", body, TIMEOUT_S) as answer:  # noqa: S310 - our own
        return " ".join(json.load(answer)["outputs"][0]["data"])


def main(url: str, picture: Path, triton_pid: int = TRITON_PID) -> int:
    """The exit code."""
    try:
        return 0 if TEXT in read(url, picture.read_bytes()) else 1
    except urllib.error.HTTPError as error:
        if DEAD_STUB in error.read().decode(errors="replace"):
            os.kill(triton_pid, signal.SIGTERM)
        return 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else URL, PICTURE))
