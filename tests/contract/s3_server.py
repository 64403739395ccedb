"""A real S3 server for the contract of the objects: SeaweedFS's `weed`, where this machine has it."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from infra.local.instance import free_ports
from shared.s3_objects import S3Access

# Where `weed` is, when it is to be another one than that of requirements-dev.lock.
WEED = os.environ.get("MYMACRO_WEED") or shutil.which("weed", path=str(Path(sys.executable).parent)) or ""
# Any other S3 server on this machine to run the contract on as well, with an empty bucket that exists, such as
# http://key-id:secret@127.0.0.1:9000/bucket.
S3_URL = os.environ.get("S3_URL", "")
BUCKET, KEY_ID, SECRET = "contract", "weed-key", "weed-secret"
UP_WITHIN_S = 30
LOOK_EVERY_S = 0.2  # its log gets a line for each look


def named() -> tuple[str, S3Access]:
    """The bucket and the access of S3_URL."""
    url = urlsplit(S3_URL)
    endpoint = f"{url.scheme}://{url.hostname}:{url.port}"
    return url.path.strip("/"), S3Access(endpoint, "us-east-1", url.username or "", url.password or "")


@contextmanager
def weed(folder: Path) -> Generator[S3Access]:
    """A `weed server` on free ports of this machine with the bucket `contract`, everything in `folder`.

    Raises:
        TimeoutError: it did not come up; its log is `weed.log` in the folder.
    """
    names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    identity = {"name": "contract", "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}]}
    rights = ["Read", "Write", "List", "Tagging"]
    (folder / "s3.json").write_text(json.dumps({"identities": [{**identity, "actions": rights}]}))
    (folder / "data").mkdir()
    command = [
        *(WEED, "-logtostderr=true", "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-filer", "-s3", f"-s3.config={folder / 's3.json'}", "-master.telemetry=false"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=64"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-filer.localSocket={folder / 'filer.sock'}", f"-s3.localSocket={folder / 's3.sock'}"),
        *(
            f"-{name.removesuffix('.grpc')}.port{'.grpc' if name.endswith('.grpc') else ''}={port}"
            for name, port in ports.items()
        ),
    ]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            # A bucket is a folder of the filer.
            _until_done(f"http://127.0.0.1:{ports['filer']}/buckets/{BUCKET}/", "POST")
            _until_done(f"http://127.0.0.1:{ports['s3']}/status", "GET")
            yield S3Access(f"http://127.0.0.1:{ports['s3']}", "us-east-1", KEY_ID, SECRET)
        finally:
            # Told to end, it takes ten seconds; killed, it leaves its sockets.
            process.kill()
            process.wait()
            for name in ("master", "volume", "filer", "s3"):
                Path(f"/tmp/seaweedfs-{name}-grpc-{ports[f'{name}.grpc']}.sock").unlink(missing_ok=True)  # noqa: S108 - where weed puts them


def _until_done(url: str, method: str) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=2):  # noqa: S310 - our own server
                return
        except OSError as error:
            # Any answer but "not yet" will do.
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"weed does not answer at {url}") from error
        time.sleep(LOOK_EVERY_S)
