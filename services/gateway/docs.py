"""/openapi.json and /docs: one document for the whole API and a page for it that loads nothing from elsewhere."""

import asyncio
import html
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from services.gateway.described import own_document
from services.gateway.openapi import merge
from services.gateway.proxy import Unanswered, Upstreams

SERVICES = ("auth", "ingest", "inference", "nutrition", "insights", "webhooks")
FRESH_S = 60.0
INCOMPLETE_FRESH_S = 2.0
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
code,pre{font:14px ui-monospace,monospace}pre{background:#f5f5f5;padding:.8rem;overflow:auto}
summary{cursor:pointer;padding:.4rem 0}b{display:inline-block;min-width:3.5rem}
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}pre{background:#222}a{color:#8bf}}"""


class Docs:
    """The merged document, asked of the services and kept for a minute."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._document: dict[str, Any] | None = None
        self._fresh_until = 0.0
        self._lock = asyncio.Lock()

    async def openapi(self, request: Request) -> Response:
        """The document; the routes of a service that does not answer are missing in it."""
        return Response(msgspec.json.encode(await self._merged()), media_type="application/json")

    async def page(self, request: Request) -> Response:
        """The document for people."""
        content = page(await self._merged())
        return Response(content, media_type="text/html", headers={"Content-Security-Policy": PAGE_POLICY})

    async def _merged(self) -> dict[str, Any]:
        async with self._lock:
            if self._document is None or time.monotonic() >= self._fresh_until:
                answers = await asyncio.gather(*(self._ask(service) for service in SERVICES))
                found = {service: answer for service, answer in zip(SERVICES, answers, strict=True) if answer}
                self._document = merge({"gateway": own_document(), **found})
                complete = len(found) == len(SERVICES)
                self._fresh_until = time.monotonic() + (FRESH_S if complete else INCOMPLETE_FRESH_S)
            return self._document

    async def _ask(self, service: str) -> dict[str, Any] | None:
        try:
            answer = await (await self._upstreams.send(service, "GET", "/openapi.json", {}, b"")).whole()
            return answer.json() if answer.status == 200 else None
        except (Unanswered, ValueError):
            return None


def page(document: dict[str, Any]) -> str:
    """The document as one HTML page without scripts."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{_text(document['info']['title'])} API</title><style>{STYLE}</style>"
        f"<h1>{_text(document['info']['title'])} API</h1><p>{_text(document['info']['description'])}</p>"
        "<p>Machines read <a href=/openapi.json>/openapi.json</a>.</p>"
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(method.upper(), path, operation))
    parts.append("<h2>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(
            f"<details id='{_text(name)}'><summary><code>{_text(name)}</code></summary>{_json(schema)}</details>"
        )
    return "".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    scope = operation.get("x-required-scope")
    needs = " or ".join(name for entry in operation["security"] for name in entry) or "anyone"
    told = f"For: {needs}" + (f", scope <code>{_text(scope)}</code>" if scope else "")
    detail = {name: operation[name] for name in ("parameters", "requestBody", "responses") if name in operation}
    return (
        f"<details><summary><b>{method}</b> <code>{_text(path)}</code></summary>"
        f"<p>{_text(operation.get('description', ''))}</p><p>{told}</p>{_json(detail)}</details>"
    )


def _json(value: Any) -> str:
    return f"<pre>{_text(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>"


def _text(value: str) -> str:
    return html.escape(value)
