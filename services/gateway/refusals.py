"""The answers to callers that may not."""

from shared.errors import Problem


def unauthorized(detail: str, error: str | None = None) -> Problem:
    """401 with the challenge of RFC 6750."""
    challenge = f'Bearer error="{error}"' if error else "Bearer"
    code = "invalid-token" if error else "token-required"
    return Problem(401, code, detail, headers={"WWW-Authenticate": challenge})


def inactive() -> Problem:
    """401: an operator lets this partner do nothing, by whatever it presents."""
    return unauthorized("This partner is not active. Ask the operator.", "invalid_token")


def erased(erasure_id: str) -> Problem:
    """401 for the user's own app, which may have lost the answer to its request; the link needs no token."""
    link = f"/v1/erasures/{erasure_id}"
    return Problem(
        401,
        "account-erased",
        f"This account was erased. GET {link} says how far that is.",
        headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        link=link,
    )


def not_found() -> Problem:
    """404: "not there", "not yours" and "not granted" are one answer, the services' own."""
    return Problem(404, "not-found", "There is nothing here for this caller.")


def auth_unavailable() -> Problem:
    """503: nobody can say whether this caller is known. Never 401, which would sign people out."""
    return Problem(
        503, "auth-unavailable", "Sign-in is not available for a moment. Try again.", headers={"Retry-After": "2"}
    )
