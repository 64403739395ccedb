"""The answers to callers that may not."""

from shared.errors import Problem


def unauthorized(detail: str, error: str | None = None) -> Problem:
    """401 with the challenge of RFC 6750."""
    challenge = f'Bearer error="{error}"' if error else "Bearer"
    code = "invalid-token" if error else "token-required"
    return Problem(401, code, detail, headers={"WWW-Authenticate": challenge})


def not_found() -> Problem:
    """404: "not there", "not yours" and "not granted" are one answer, the services' own."""
    return Problem(404, "not-found", "There is nothing here for this caller.")


def auth_unavailable() -> Problem:
    """503: nobody can say whether this caller is known. Never 401, which would sign people out."""
    return Problem(
        503, "auth-unavailable", "Sign-in is not available for a moment. Try again.", headers={"Retry-After": "2"}
    )
