"""What users are given of webhooks' documents when they ask for everything."""

from typing import Any

from services.webhooks.api import event_view
from services.webhooks.records import DELIVERIES, GRANTS, MESSAGES, REPLAYS, Delivery
from shared.export import OWN_PARTS
from shared.exported import Contents, File, NotExported, rows

# A message takes up to 1 MiB, nearly all of them less than 10 kB.
MESSAGES_AT_ONCE = 50


def _delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "partner_id": delivery.partner_id,
        "message_id": delivery.message_id,
        "message_type": delivery.message_type,
        "created_at": delivery.created_at,
        "state": delivery.state,
        "attempts": [{"at": one.at, "status": one.status} for one in delivery.history],
    }


CONTENTS: Contents = (
    File(
        "messages.jsonl",
        "Public messages about you, in order",
        (MESSAGES,),
        rows(MESSAGES, event_view, "sequence", page=MESSAGES_AT_ONCE),
    ),
    File(
        "deliveries.jsonl",
        "Which of the messages went to which partner, and what became of that",
        (DELIVERIES,),
        rows(DELIVERIES, _delivery, "user", page=MESSAGES_AT_ONCE),
    ),
    NotExported(GRANTS, "a copy of grants.jsonl"),
    NotExported(REPLAYS, "what partners asked to be sent once more; it is among the deliveries"),
    OWN_PARTS,
)
