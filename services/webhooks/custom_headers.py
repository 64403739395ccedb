"""Headers that a partner may have on its deliveries: its own names, nothing that says what we, a proxy or HTTP mean."""

import re

from pydantic_core import PydanticCustomError

MAX_HEADERS = 10
MAX_VALUE = 1024
# Fewer characters than HTTP allows: CGI and WSGI servers read an underscore, and some of them a dot, as a hyphen, so
# that webhook_id would be another webhook-id.
NAME = re.compile(r"[a-z0-9-]{1,64}")
# What HTTP allows may be said again in a refusal.
SPEAKABLE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
# Printable ASCII without a space at either end, so no line end and nothing that servers cut off.
VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
REFUSED = frozenset(
    {
        # Hop by hop, and what frames the message.
        "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings", "expect",
        "host", "date", "range",
        # Ours: who sends, for which trace.
        "user-agent", "accept", "accept-encoding", "traceparent", "tracestate", "baggage",
        # Credentials: headers are shown and stored as they are, and the signature proves more.
        "authorization", "cookie", "cookie2", "set-cookie", "set-cookie2",
        # What proxies say of a request's origin and target.
        "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "fastly-client-ip",
        "x-host", "x-original-host", "x-original-url", "x-rewrite-url",
        # What makes another request of it.
        "x-http-method", "x-http-method-override", "x-method-override",
        # What opens the metadata of cloud machines.
        "metadata", "metadata-flavor",
    }
)  # fmt: skip
REFUSED_BEGINNINGS = (
    "webhook-", "svix-", "content-", "if-", "proxy-", "sec-", "cf-", "x-forwarded-", "x-aws-ec2-", "x-google-metadata-",
)  # fmt: skip


def checked(headers: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The headers with names in lower case, sorted. Raises PydanticCustomError, whose text holds no value."""
    if len(headers) > MAX_HEADERS:
        raise PydanticCustomError("headers", "Send at most {most} headers", {"most": MAX_HEADERS})
    found: dict[str, str] = {}
    for number, (given, value) in enumerate(headers.items(), start=1):
        shown = given if SPEAKABLE.fullmatch(given) else f"number {number}"
        name = given.lower() if given.isascii() else ""
        if not NAME.fullmatch(name):
            raise _refused(shown, "has another name than 1 to 64 letters, digits and hyphens; rename it")
        if name in REFUSED or name.startswith(REFUSED_BEGINNINGS):
            raise _refused(shown, "is not yours to set; leave it out, or take a name of your own such as x-environment")
        if name in found:
            raise _refused(shown, "is there twice; send it once, names are alike in upper and lower case")
        if len(value) > MAX_VALUE or not VALUE.fullmatch(value):
            what = f"needs a value of 1 to {MAX_VALUE} printable ASCII characters, with no space at its ends"
            raise _refused(shown, what)
        found[name] = value
    return tuple(sorted(found.items()))


def _refused(shown: str, why: str) -> PydanticCustomError:
    return PydanticCustomError("headers", "The header {name} {why}", {"name": shown, "why": why})
