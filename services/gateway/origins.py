"""Which web pages may open live streams, by the `Origin` that browsers send for them."""

import re

from shared.errors import Problem

# As browsers write it (RFC 6454): scheme, host and port, in lower case, no path.
ORIGIN = re.compile(
    r"https?://[a-z0-9._\-]{1,253}(:[1-9]\d{0,4})?|https?://\[[0-9a-f:]{2,39}\](:[1-9]\d{0,4})?", re.ASCII
)


class Origins:
    """The pages that may; programs that are no browser send no Origin and may always."""

    def __init__(self, text: str = "") -> None:
        """`text`: origins such as https://app.example.org, comma-separated. Raises ValueError."""
        parts = [part.strip() for part in text.split(",")]
        self._allowed = frozenset(part for part in parts if part)
        for origin in self._allowed:
            if not ORIGIN.fullmatch(origin):
                raise ValueError("write origins such as https://app.example.org, without a path, comma-separated")

    def checked(self, origin: str | None) -> str | None:
        """The origin, None for no page. Raises Problem(403) for a page of another one."""
        if origin is not None and origin not in self._allowed:
            raise Problem(
                403,
                "origin-not-allowed",
                "Pages of this origin may not open live streams here. The operator names those that may in "
                "GATEWAY_LIVE_ORIGINS.",
            )
        return origin

    def headers(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        """What lets a page of this origin read the answer; never with its cookies."""
        if not self._allowed:
            return []
        vary = [(b"vary", b"Origin")]
        return vary if origin is None else [*vary, (b"access-control-allow-origin", origin.encode())]
