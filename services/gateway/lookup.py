"""Which of some eighty routes a path is, without trying their regular expressions one by one."""

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

FOUND = "gateway.found"


class Lookup(BaseRoute):
    """Stands before `routes` and finds what they would; what it does not find, such as another method, is for them.

    Paths without parameters are looked up whole, the others among those that begin with the same two parts. Tried one
    by one, the last of 80 costs 40 µs.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact: dict[tuple[str, str], Route] = {}
        self._by_start: dict[str, list[Route]] = {}
        for route in routes:
            if route.param_convertors:
                self._by_start.setdefault(_start(route.path), []).append(route)
            else:
                self._exact.update({(method, route.path): route for method in route.methods or ()})

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As in Starlette."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path: str = scope["path"]
        exact = self._exact.get((scope["method"], path))
        if exact is not None:
            return Match.FULL, {"endpoint": exact.endpoint, "path_params": {}, FOUND: exact}
        for route in self._by_start.get(_start(path), ()):
            match, child = route.matches(scope)
            if match is Match.FULL:
                child[FOUND] = route
                return match, child
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As in Starlette."""
        found: Route = scope[FOUND]
        await found.handle(scope, receive, send)


def _start(path: str) -> str:
    end = path.find("/", path.find("/", 1) + 1)
    return path if end < 0 else path[:end]
