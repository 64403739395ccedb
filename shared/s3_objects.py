"""Objects in an S3 bucket. Every request ends in time, and a refusal is one sentence that names the setting to mend.

What S3 answered is never logged itself: its errors quote keys of objects, and so ids of users.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from obstore import open_writer_async
from obstore.exceptions import BaseError
from obstore.store import S3Store

from shared.errors import Unavailable
from shared.settings import ServiceSettings, reading

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential

T = TypeVar("T")
BUCKET_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)/?")
# Streams read so much at a time, and write so much to a bucket; a request of it ends long before its time is over.
PART_BYTES = 8 * 1024 * 1024
# Shorter than the gateway waits for a service, with the retries in it. The end of a stream may take S3 a while; there
# nobody waits for an answer. A start waits no longer for an S3 that may be away.
ANSWER_S = 10.0
STREAM_S = 60.0
START_S = 3.0
ABORT_S = 5.0
# Readiness asks so often at most, and is told so soon.
ASK_EVERY_S = 10.0
ASKED_S = 1.5
SAY_EVERY_S = 60.0
# Written and deleted at the start: it shows whether the key may do both.
PROBE = "probe/start"
CODE = re.compile(r"<Code>(\w{1,60})</Code>")
STATUS = re.compile(r"status code: (\d{3})")
VERSIONS = "keeps old versions of objects: switch versioning off, or what was erased stays in the bucket"
AWAY = "does not answer: check OBJECTS_S3_ENDPOINT, and whether it runs; what needs objects waits"
# Where no answer came: what stands in the client's error, and what it means.
FAILURES = {
    "InvalidCertificate(": "shows a certificate that this machine does not trust; what needs objects waits",
    "/latest/api/token": "needs OBJECTS_S3_ACCESS_KEY_ID: this machine has no role of AWS; what needs objects waits",
}
REGION = "is of another region: set OBJECTS_S3_REGION"
RIGHTS = "must let the key of OBJECTS_S3_ACCESS_KEY_ID list, read, write and delete in the bucket of OBJECTS_URL"
REFUSALS = {
    "InvalidAccessKeyId": "does not know the key of OBJECTS_S3_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "says that OBJECTS_S3_SECRET_ACCESS_KEY is not the secret of OBJECTS_S3_ACCESS_KEY_ID",
    "AccessDenied": RIGHTS,
    "NoSuchBucket": "has no bucket of the name in OBJECTS_URL: make it, or name another one",
    "AuthorizationHeaderMalformed": REGION,
    "PermanentRedirect": REGION,
    "RequestTimeTooSkewed": "has a clock more than 15 minutes from this machine's: set the clocks",
    "401": RIGHTS,
    "403": RIGHTS,
    "404": "is no S3, or not under this path: check OBJECTS_S3_ENDPOINT",
    "405": "is no S3, or not under this path: check OBJECTS_S3_ENDPOINT",
    "301": REGION,
}
log = logging.getLogger(__name__)


class Refused(Unavailable):
    """S3 answers, and does not do what it is asked until somebody mends the settings, the key or the bucket."""


@dataclass(frozen=True, repr=False)
class S3Access:
    """Where S3 answers and the key for it; an empty endpoint is AWS's, without a key AWS_ variables or a role count."""

    endpoint: str = ""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = ""


def access_of(settings: ServiceSettings) -> S3Access:
    """What the settings say, with the secret from its file if it has one.

    Raises:
        ValueError: the key is not whole, or its file cannot be read.
    """
    key_id, secret = settings.objects_s3_access_key_id, settings.objects_s3_secret_access_key.get_secret_value()
    path = settings.objects_s3_secret_access_key_path
    if not secret and path is not None:
        needs = "name a file with the secret of OBJECTS_S3_ACCESS_KEY_ID that this account may read"
        with reading("OBJECTS_S3_SECRET_ACCESS_KEY_PATH", needs):
            secret = path.read_text(encoding="ascii").strip()
    if bool(key_id) != bool(secret) or (settings.objects_s3_endpoint and not key_id):
        raise ValueError(
            "set both halves of the key: OBJECTS_S3_ACCESS_KEY_ID, and OBJECTS_S3_SECRET_ACCESS_KEY or a file at "
            "OBJECTS_S3_SECRET_ACCESS_KEY_PATH; only AWS itself, without OBJECTS_S3_ENDPOINT, can do without"
        )
    return S3Access(settings.objects_s3_endpoint, settings.objects_s3_region, key_id, secret)


class Bucket:
    """A bucket, or what lies under a prefix of it.

    Raises:
        ValueError: the address is no bucket's, or an AWS_ variable is not as it must be.
    """

    def __init__(
        self,
        url: str,
        access: S3Access,
        *,
        clock: Callable[[], float] = time.monotonic,
        answer_s: float = ANSWER_S,
        stream_s: float = STREAM_S,
    ) -> None:
        found = BUCKET_URL.fullmatch(url)
        if found is None:
            raise ValueError("OBJECTS_URL must be s3://<bucket> or s3://<bucket>/<prefix>, the prefix of plain names")
        self._where = f"S3 at {access.endpoint}" if access.endpoint else "AWS's S3"
        self._clock = clock
        self._answer_s, self._stream_s = answer_s, stream_s
        self._said: dict[str, float] = {}
        self._asked_at = float("-inf")
        self._trouble: type[Unavailable] | None = None
        try:
            self.store = _store(found[1], found[2].strip("/"), access)
        except BaseError:
            raise ValueError("OBJECTS_URL or an AWS_ variable beside it is not valid for S3") from None

    async def start(self) -> None:
        """See whether objects can be listed, written and deleted; while S3 does not answer, what needs it waits.

        Raises:
            Unavailable: S3 refused it; a sentence in the log says what is wrong.
        """
        try:
            await self._ask(START_S)
            written = await self.reached(self.store.put_async(PROBE, b""))
            await self.reached(self.store.delete_async(PROBE))
        except Refused as error:
            # Who starts the service knows this one as said already.
            raise Unavailable(error.system) from None
        except Unavailable:
            return
        if written["version"] not in (None, "null"):
            self._say(logging.WARNING, VERSIONS)

    async def answers(self) -> None:
        """Raises what is known of S3, which is asked every 10 s at most: `Unavailable`, or `Refused`."""
        if self._clock() - self._asked_at >= ASK_EVERY_S:
            self._asked_at = self._clock()
            try:
                await self._ask(ASKED_S)
            except Unavailable as error:
                self._trouble = type(error)
            else:
                self._trouble = None
        if self._trouble is not None:
            raise self._trouble("objects")

    async def put(self, key: str, data: bytes) -> None:
        """Store it; S3 answers once it is durable. In one request, so that nothing is left of half an object."""
        await self.reached(self.store.put_async(key, data, use_multipart=False))

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> None:
        """Store the parts as one object; S3 shows it once it is whole, and drops the parts if it will not be."""
        writer = cast(Any, open_writer_async(self.store, key, buffer_size=PART_BYTES, max_concurrency=1))
        try:
            async for part in parts:
                await self.reached(writer.write(part), self._stream_s)
            await self.reached(writer.close(), self._stream_s)
        except BaseException:
            await _dropped(writer)
            raise

    async def size(self, key: str) -> int:
        """The object's size in bytes. Raises FileNotFoundError."""
        try:
            async with asyncio.timeout(self._answer_s):
                with suppress(BaseError, OSError):
                    return (await self.store.head_async(key))["size"]
                # The answer to a HEAD has no body, which alone tells a missing object from a missing bucket or a wrong
                # key.
                return (await self.reached(self.store.get_async(key), lacking=True)).meta["size"]
        except TimeoutError as error:
            raise self._told(error) from None

    async def reached(self, answer: Awaitable[T], within_s: float | None = None, *, lacking: bool = False) -> T:
        """What S3 answers.

        Raises:
            Unavailable: nothing came in time, or what S3 cannot do now.
            Refused: what it will not do.
            FileNotFoundError: there is no such object; with `lacking` alone.
        """
        try:
            async with asyncio.timeout(within_s or self._answer_s):
                return await answer
        except FileNotFoundError as error:
            if lacking and _code(error) == "NoSuchKey":
                raise
            raise self._told(error) from None
        except (BaseError, OSError) as error:
            raise self._told(error) from None

    async def _ask(self, within_s: float) -> None:
        # Its stub leaves the other kind of answer unknown.
        await self.reached(cast(Any, self.store).list_with_delimiter_async(PROBE), within_s)

    def _told(self, error: Exception) -> Unavailable:
        """The error to raise; what is wrong is logged once a minute."""
        code = _code(error)
        refusal = REFUSALS.get(code)
        if refusal is not None:
            self._say(logging.ERROR, refusal)
            return Refused("objects")
        text = str(error)
        failure = next((said for mark, said in FAILURES.items() if mark in text), AWAY)
        self._say(logging.WARNING, f"fails with {code}" if code else failure)
        return Unavailable("objects")

    def _say(self, level: int, what: str) -> None:
        if self._clock() - self._said.get(what, float("-inf")) >= SAY_EVERY_S:
            self._said[what] = self._clock()
            log.log(level, "%s %s", self._where, what)


async def _dropped(writer: Any) -> None:
    """Have S3 drop the parts it holds, if it can be reached; first waits for the one under way, which it might keep."""
    for ending in (writer.write(b""), writer.__aexit__(Exception, None, None)):
        with suppress(BaseError, OSError):
            async with asyncio.timeout(ABORT_S):
                await ending


def _code(error: Exception) -> str:
    """S3's code of what is wrong, else HTTP's; empty when no answer came."""
    text = str(error).partition("Debug source")[0]
    if (code := CODE.search(text)) is not None:
        return code[1]
    if (status := STATUS.search(text)) is not None:
        return status[1]
    return "301" if "redirect without LOCATION" in text else ""


def _store(bucket: str, prefix: str, access: S3Access) -> S3Store:
    # Not every S3 can delete many objects in one request.
    config: S3Config = {"region": access.region, "disable_bulk_delete": True}
    if access.endpoint:
        config["endpoint"] = access.endpoint.rstrip("/")
    key: S3Credential = {
        "access_key_id": access.access_key_id,
        "secret_access_key": access.secret_access_key,
        "expires_at": None,
    }
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={
            "allow_http": access.endpoint.startswith("http://"),
            "connect_timeout": "2s",
            "timeout": timedelta(seconds=STREAM_S / 2),
        },
        # Its own retries would go on for three minutes.
        retry_config={
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=5),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
        },
        # Among AWS_ variables could be a token that belongs to another key than ours.
        credential_provider=(lambda: key) if access.access_key_id else None,
    )
