"""Writes the picture that Triton's health check has read: `python -m infra.docker.probe_picture FILE`."""

import sys
from pathlib import Path

from infra.local.labels import render_probe

HEIGHT_PX = 32

if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(render_probe(HEIGHT_PX))
