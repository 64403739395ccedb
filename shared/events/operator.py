"""What operators did."""

from typing import Literal

from shared.events.event import Event


class DeadLetterResolved(Event, frozen=True):
    """What an operator did with a dead letter: sent it to its topic again, or gave it up.

    `position` is `<dead letter topic>/<partition>/<offset>`; `reason` the one it died of, `by` the operator's account
    on the machine, `note` the operator's own words.
    """

    type: Literal["dead_letter.resolved"] = "dead_letter.resolved"
    position: str
    action: Literal["replayed", "dropped"]
    source: str
    service: str
    reason: str
    by: str
    note: str = ""
