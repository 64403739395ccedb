"""Who calls, and the scopes that a caller may have."""

from dataclasses import dataclass, field

SCOPES: tuple[str, ...] = (
    "samples:write",
    "samples:read",
    "days:read",
    "profile:read",
    "profile:write",
    "photos:write",
    "photos:read",
    "diary:read",
    "diary:write",
    "ledger:read",
    "insights:read",
    "webhooks:write",
    "live:read",
    "grants:write",
    "users:manage",
    "partner:read",
    "partner:write",
)
# About the partner itself: the operator grants them, no user can, and no user has them.
PARTNER_SCOPES = frozenset({"webhooks:write", "users:manage", "partner:read", "partner:write"})
# Of the user's own app alone.
_OWN_APP_SCOPES = frozenset({"profile:read", "profile:write", "grants:write"})
# What a user can let a partner do, in order.
GRANTABLE_SCOPES = tuple(scope for scope in SCOPES if scope not in PARTNER_SCOPES | _OWN_APP_SCOPES)
# Of operators' commands, which sign with the gateway's key; no user, partner or grant ever has it.
OPERATOR_SCOPE = "operator"


@dataclass(frozen=True)
class Caller:
    """Who a request is for: a user, a partner (perhaps for a user), or nobody. `session_id`: the user's sign-in.

    `key_ends_at`, in seconds since 1970: when the API key ends by which a partner itself calls; None for a key without
    an end, and for tokens.
    """

    user_id: str | None = None
    partner_id: str | None = None
    scopes: frozenset[str] = field(default_factory=frozenset[str])
    session_id: str | None = None
    key_ends_at: float | None = None


ANONYMOUS = Caller()
