"""What stands before the routes: limits and identity, and before live streams tickets too."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp

from services.gateway.access import Access
from services.gateway.entry import Answers, Door
from services.gateway.identities import Identities
from services.gateway.limited import Limited, Rates
from services.gateway.pages import ForPeople
from services.gateway.routes import Route
from services.gateway.sockets import Denying
from services.gateway.tickets import TicketInAddress, TicketOrToken, Tickets


def everybody() -> None:
    """Reads are always let in."""


@dataclass(frozen=True)
class Doors:
    """What doors need."""

    access: Access
    tickets: Tickets
    rates: Rates

    def before(self, route: Route, answers: Answers, admit: Callable[[], None]) -> ASGIApp:
        """The route's application behind its door."""
        if route.page:
            return ForPeople(self._limited(route, self.access, answers, admit))
        if route.rate != "stream":
            return self._limited(route, self.access, answers, admit)
        either = TicketOrToken(self.tickets, self.access)
        return TicketInAddress(self._limited(route, either, answers, admit))

    def socket(self, route: Route, answers: Answers) -> WebSocketRoute:
        """The route as a WebSocket, behind the same door."""
        return WebSocketRoute(route.path, Denying(self.before(route, answers, everybody)))

    def _limited(self, route: Route, identities: Identities, answers: Answers, admit: Callable[[], None]) -> ASGIApp:
        return Limited(Door(route, identities, answers, admit), route, identities, self.rates)
