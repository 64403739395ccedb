"""What auth hears: that a service keeps nothing of an erased user any more."""

from collections.abc import Callable

from services.auth import erasure
from services.auth.enrolment import Deps
from shared import kafka
from shared.events import UserDataErased
from shared.kafka import Broker
from shared.telemetry import bind
from shared.topics import ERASURES

SERVICE = "auth"


def subscribe(broker: Broker, deps: Deps, nudge: Callable[[], None]) -> None:
    """One subscriber per service that erases; `nudge` wakes the workers of erasures."""

    async def on_user_data_erased(event: UserDataErased) -> None:
        bind(user_id=event.user_id)
        if await erasure.report(deps, event):
            nudge()

    for topic in ERASURES.values():
        kafka.subscribe(broker, topic, SERVICE, on_user_data_erased)
