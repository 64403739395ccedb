"""A headless Chromium, driven over its DevTools protocol: no driver, no package."""

import asyncio
import base64
import json
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
START_S = 30.0
LOOK_EVERY_S = 0.05


class Page:
    """The one page that is open."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._last = 0

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result; events in between are let go."""
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=START_S)
            if message.get("id") == self._last:
                if "error" in message:
                    raise RuntimeError(f"Chromium refuses {method}: {message['error']}")
                return message["result"]

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self.call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """What a line of JavaScript comes to."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    async def shows(self, selector: str) -> None:
        """Wait until the page is there and has such an element. Raises TimeoutError after 30 s."""
        told = f"document.readyState === 'complete' && !!document.querySelector({json.dumps(selector)})"

        async def shown() -> bool:
            return await self.value(told) is True

        await _until(shown, selector)

    async def types(self, selector: str, text: str) -> None:
        """Type into a field."""
        await self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.call("Input.insertText", text=text)

    async def clicks(self, selector: str) -> None:
        """Click an element."""
        await self.value(f"document.querySelector({json.dumps(selector)}).click()")

    async def sized(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the window that size in pixels; below 600 it is a phone's."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def picture(self) -> bytes:
        """A screenshot as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])


async def _until(there: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not await there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Chromium did not show {what} within {START_S:.0f} s")
        await asyncio.sleep(LOOK_EVERY_S)


@asynccontextmanager
async def chromium(folder: Path) -> AsyncGenerator[Page]:
    """A browser with a fresh profile in `folder`. Raises FileNotFoundError where none is installed."""
    if CHROMIUM is None:
        raise FileNotFoundError("no Chromium on this machine: apt-get install chromium")
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank", stdout=null, stderr=null
    )
    port_file = folder / "DevToolsActivePort"

    async def told() -> bool:
        return port_file.exists() and bool(port_file.read_text().strip())

    try:
        await _until(told, "where it listens")
        port = int(port_file.read_text().splitlines()[0])
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
