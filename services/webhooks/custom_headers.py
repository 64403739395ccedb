"""Headers that a partner may have on its deliveries: its own names, nothing that says what we, a proxy or HTTP mean."""

import re

MAX_HEADERS = 10
MAX_VALUE = 1024
NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
# Printable ASCII without a space at either end, so no line end and nothing that servers cut off.
VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
REFUSED = frozenset(
    {
        # Hop by hop, and what frames the message.
        "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings", "expect",
        "content-length", "content-type", "content-encoding", "content-md5", "host", "date", "range",
        # Ours: who sends, for which trace.
        "user-agent", "accept", "accept-encoding", "traceparent", "tracestate", "baggage",
        # Credentials: headers are shown and stored as they are, and the signature proves more.
        "authorization", "cookie", "cookie2",
        # What proxies say of a request's origin and target.
        "forwarded", "via", "x-real-ip", "x-http-method-override", "x-original-url", "x-rewrite-url",
        # What opens the metadata of cloud machines.
        "metadata", "metadata-flavor",
    }
)  # fmt: skip
REFUSED_BEGINNINGS = ("webhook-", "proxy-", "sec-", "x-forwarded-", "x-aws-ec2-", "x-google-metadata-")


def checked(headers: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The headers with names in lower case, sorted. Raises ValueError, whose text names no value."""
    if len(headers) > MAX_HEADERS:
        raise ValueError(f"at most {MAX_HEADERS} headers")
    found: dict[str, str] = {}
    for given, value in headers.items():
        name = given.lower() if given.isascii() else ""
        if not NAME.fullmatch(name):
            raise ValueError("a header's name has 1 to 64 letters, digits and hyphens")
        if name in REFUSED or name.startswith(REFUSED_BEGINNINGS):
            raise ValueError(f"the header {name} is not yours to set; choose a name of your own, such as x-environment")
        if name in found:
            raise ValueError(f"the header {name} is there twice")
        if len(value) > MAX_VALUE or not VALUE.fullmatch(value):
            raise ValueError(
                f"the value of {name} must be 1 to {MAX_VALUE} printable ASCII characters, with no space at its ends"
            )
        found[name] = value
    return tuple(sorted(found.items()))
