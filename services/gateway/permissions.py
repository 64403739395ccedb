"""Whether those who read a stream may still do so, and which messages they see."""

from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.grants import Grants, Partners
from services.gateway.revocations import Revocations
from shared.callers import Caller

# As the services map them: what a reader sees follows its scopes, as with deliveries.
SCOPE_OF = {
    "receipts.completed": "samples:read",
    "day.updated": "days:read",
    "day.recomputed": "days:read",
    "ledger.updated": "ledger:read",
    "entry.created": "diary:read",
    "entry.updated": "diary:read",
    "entry.deleted": "diary:read",
    "photo.read": "photos:read",
    "photo.rejected": "photos:read",
    "insight.created": "insights:read",
}


@dataclass(frozen=True)
class Reader:
    """Who reads a stream, until when (seconds since 1970), and by which revision of the user's grant or API key."""

    caller: Caller
    expires_at: float
    grant_revision: int | None
    api_key_id: str | None = None


@dataclass(frozen=True)
class Permissions:
    """What readers go by, as it is now."""

    revocations: Revocations
    grants: Grants
    partners: Partners

    def tell(self, told: Callable[[str | None], None]) -> None:
        """Call `told` after each change with the user it is about, None where it is about several."""
        self.revocations.tell(lambda event: told(event.user_id))
        self.grants.tell(told)
        self.partners.tell(told)

    def ended(self, reader: Reader) -> bool:
        """Whether what the reader goes by was ended."""
        return self.revocations.cover(reader.caller.session_id) or not self.granted(reader)

    def granted(self, reader: Reader) -> bool:
        """Whether the user still lets a partner read along; always true for users themselves."""
        return "live:read" in self._scopes(reader)

    def show(self, reader: Reader, message_type: str) -> bool:
        """Whether the reader may see messages of this type."""
        return SCOPE_OF.get(message_type) in self._scopes(reader)

    def _scopes(self, reader: Reader) -> frozenset[str]:
        caller = reader.caller
        if caller.partner_id is None:
            return caller.scopes
        granted = self.grants.scopes(caller.user_id or "", caller.partner_id, reader.grant_revision)
        if granted is None or not self.partners.active(caller.partner_id):
            return frozenset()
        return caller.scopes & granted
