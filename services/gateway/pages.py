"""What a person in a browser is shown where a program gets a problem document: to try again, and when."""

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.headers import headers_of
from shared.errors import Problem
from shared.problems import MEDIA_TYPE

WORDS = {
    429: ("Too many requests", "Too much came from your network just now."),
    503: ("Not available right now", "This is our fault, and it passes. Nothing was lost."),
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>{title} | MyMacroTracker</title>
</head>
<body>
<main>
<h1>{title}</h1>
<p role="alert">{why} Go back and try again in {wait}.</p>
</main>
</body>
</html>
"""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class ForPeople:
    """A page's application: whoever prefers HTML is told of 429 and 503 in HTML, whoever raises or answers them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises Problem of other kinds."""
        if not prefers_html(headers_of(scope).get(b"accept", b"")):
            await self._app(scope, receive, send)
            return
        replaced = False

        async def sender(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and _is_for_programs(message):
                replaced = True
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
                await shown(message["status"], headers)(scope, receive, send)
            elif not replaced:
                await send(message)

        try:
            await self._app(scope, receive, sender)
        except Problem as problem:
            if problem.status not in WORDS:
                raise
            await shown(problem.status, problem.headers)(scope, receive, send)


def shown(status: int, headers: dict[str, str]) -> Response:
    """The page of a status of `WORDS`; of the `headers` of the problem, Retry-After (seconds) stays."""
    title, why = WORDS[status]
    after = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    wait = f"{after} seconds" if after.isdigit() else "a moment"
    kept = {"Retry-After": after} if after else {}
    return Response(PAGE.format(title=title, why=why, wait=wait), status, HEADERS | kept, "text/html")


def prefers_html(accept: bytes) -> bool:
    """Whether an Accept header names text/html, and JSON less or not at all. Wildcards are everybody's."""
    wanted = [_wanted(one) for one in accept.decode("latin-1").lower().split(",")]
    html = max((weight for kind, weight in wanted if kind == "text/html"), default=0.0)
    return html > max((weight for kind, weight in wanted if kind in (MEDIA_TYPE, "application/json")), default=0.0)


def _wanted(one: str) -> tuple[str, float]:
    """A media type and its weight, 0 for one that cannot be read."""
    kind, *parameters = (part.strip() for part in one.split(";"))
    weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    try:
        return kind, float(weight)
    except ValueError:
        return kind, 0.0


def _is_for_programs(start: Message) -> bool:
    headers: list[tuple[bytes, bytes]] = start["headers"]
    content_type = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    return start["status"] in WORDS and content_type.startswith(MEDIA_TYPE.encode())
