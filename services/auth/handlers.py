"""What auth hears: that a service keeps nothing of an erased user any more, or has written its part of an export."""

from collections.abc import Callable

from services.auth import erasure
from services.auth.enrolment import Deps
from services.auth.exports import Exports
from shared import kafka
from shared.events.personal import ExportPartReady, UserDataErased
from shared.kafka import Broker
from shared.telemetry import bind
from shared.topics import ERASURES, EXPORT_PARTS

SERVICE = "auth"


def subscribe(
    broker: Broker, deps: Deps, nudge: Callable[[], None], exports: Exports, nudge_exports: Callable[[], None]
) -> None:
    """Two subscribers per service; `nudge` wakes the workers of erasures, `nudge_exports` those of exports."""

    async def on_user_data_erased(event: UserDataErased) -> None:
        bind(user_id=event.user_id)
        if await erasure.report(deps, event):
            nudge()

    async def on_export_part_ready(event: ExportPartReady) -> None:
        bind(user_id=event.user_id)
        if await exports.report(event):
            nudge_exports()

    for topic in ERASURES.values():
        kafka.subscribe(broker, topic, SERVICE, on_user_data_erased)
    for topic in EXPORT_PARTS.values():
        kafka.subscribe(broker, topic, SERVICE, on_export_part_ready)
