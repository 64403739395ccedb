"""Errors of OAuth's own endpoints, in OAuth's own form (RFC 6749 §5.2)."""

from typing import Literal

OAuthErrorCode = Literal[
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
]


class OAuthError(Exception):
    """An answer other than success: `code` as OAuth has it, `description` says to the client's maker what to do."""

    def __init__(self, code: OAuthErrorCode, description: str) -> None:
        super().__init__(code)
        self.code: OAuthErrorCode = code
        self.description = description


def invalid_grant() -> OAuthError:
    """The one answer to codes and refresh tokens that are not good."""
    return OAuthError("invalid_grant", "This code or token is not good. Send the user through authorization again.")
