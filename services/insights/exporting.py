"""What users are given of insights' documents when they ask for everything."""

from services.insights.api import LedgerAnswer, insight_answer, ledger_answer
from services.insights.store import ENTRY_PLACES, INSIGHTS, LEDGERS, USERS, Ledger
from shared.export import OWN_PARTS
from shared.exported import Contents, File, NotExported, rows


def _ledger(ledger: Ledger) -> LedgerAnswer | None:
    # Revision 0 is nothing yet.
    return ledger_answer(ledger) if ledger.revision else None


CONTENTS: Contents = (
    File(
        "ledgers.jsonl", "Your energy by local day, in and out, in kcal", (LEDGERS,), rows(LEDGERS, _ledger, "user_day")
    ),
    File(
        "insights.jsonl",
        "Texts about your numbers, and the facts behind them",
        (INSIGHTS,),
        rows(INSIGHTS, insight_answer, "user_created"),
    ),
    NotExported(ENTRY_PLACES, "in which day's ledger each entry of diary.jsonl counts"),
    NotExported(USERS, "a copy of what profile.jsonl says of your body"),
    OWN_PARTS,
)
