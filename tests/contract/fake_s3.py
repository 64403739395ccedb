"""An S3 server in this process that keeps objects in memory, and can be told to misbehave.

It knows what our client asks for: whole and partial objects, listings in pages of 1,000, uploads in parts. It checks
whose key a request bears, not the signature; a real server does that, which the same tests run on where there is one.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4
from xml.sax.saxutils import escape

from aiohttp import web

from shared.s3_objects import S3Access

BUCKET, KEY_ID, SECRET = "pictures", "fake-key", "fake-secret"
PAGE = 1000
PART = re.compile(rb"<PartNumber>(\d+)</PartNumber>")
Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def refusal(status: int, code: str) -> web.Response:
    """S3's form of an error."""
    return web.Response(status=status, text=f"<Error><Code>{code}</Code><Message>No.</Message></Error>")


@dataclass
class FakeS3:
    """`fault` answers in its place whenever it returns something."""

    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    requests: list[web.Request] = field(default_factory=list)
    fault: Fault | None = None
    versions: bool = False

    @property
    def access(self) -> S3Access:
        return S3Access(f"http://127.0.0.1:{self.port}", "us-east-1", KEY_ID, SECRET)

    def settings(self, prefix: str = "") -> dict[str, Any]:
        """What a service is told so that its objects lie here, under `/<name>` or in the bucket itself."""
        return {
            "objects_url": f"s3://{BUCKET}{prefix}",
            "objects_s3_endpoint": self.access.endpoint,
            "objects_s3_access_key_id": KEY_ID,
            "objects_s3_secret_access_key": SECRET,
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.fault is not None and (answer := await self.fault(request)) is not None:
            return answer
        if f"Credential={KEY_ID}/" not in request.headers.get("Authorization", ""):
            return refusal(403, "InvalidAccessKeyId")
        bucket, _, key = request.path.lstrip("/").partition("/")
        if bucket != BUCKET:
            return refusal(404, "NoSuchBucket")
        if "list-type" in request.query:
            return self._listing(request)
        if "uploads" in request.query or "uploadId" in request.query:
            return await self._upload(request, key)
        if request.method == "PUT":
            self.objects[key] = await request.read()
            return web.Response(headers={"ETag": '"e"'} | ({"x-amz-version-id": "v1"} if self.versions else {}))
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return web.Response(status=204)
        return self._object(request, key)

    def _object(self, request: web.Request, key: str) -> web.Response:
        if key not in self.objects:
            return refusal(404, "NoSuchKey")
        data = self.objects[key]
        headers = {"ETag": '"e"', "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
        if request.http_range.start is None:
            return web.Response(body=data, headers=headers)
        place = request.http_range
        part = data[place]
        headers["Content-Range"] = f"bytes {place.start}-{place.start + len(part) - 1}/{len(data)}"
        return web.Response(status=206, body=part, headers=headers)

    def _listing(self, request: web.Request) -> web.Response:
        after, prefix = request.query.get("continuation-token", ""), request.query.get("prefix", "")
        found = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        page = found[:PAGE]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-21T10:00:00.000Z</LastModified>"
            f"<ETag>e</ETag><Size>{len(self.objects[key])}</Size></Contents>"
            for key in page
        )
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(found) > PAGE else ""
        return web.Response(text=f"<ListBucketResult>{rows}{more}</ListBucketResult>")

    async def _upload(self, request: web.Request, key: str) -> web.Response:
        id = request.query.get("uploadId", "")
        if "uploads" in request.query:
            id = uuid4().hex
            self.uploads[id] = {}
            said = f"<UploadId>{id}</UploadId>"
            return web.Response(text=f"<InitiateMultipartUploadResult>{said}</InitiateMultipartUploadResult>")
        if id not in self.uploads:
            return refusal(404, "NoSuchUpload")
        if request.method == "PUT":
            self.uploads[id][int(request.query["partNumber"])] = await request.read()
            return web.Response(headers={"ETag": '"e"'})
        parts = self.uploads.pop(id)
        if request.method == "DELETE":
            return web.Response(status=204)
        self.objects[key] = b"".join(parts[int(number)] for number in PART.findall(await request.read()))
        said = "<ETag>e</ETag>"
        return web.Response(text=f"<CompleteMultipartUploadResult>{said}</CompleteMultipartUploadResult>")


@asynccontextmanager
async def serving() -> AsyncGenerator[FakeS3]:
    """A fresh one with an empty bucket."""
    fake = FakeS3()
    app = web.Application(client_max_size=1024**3)
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.port = runner.addresses[0][1]
    try:
        yield fake
    finally:
        await runner.cleanup()
