"""What a caller said in `Authorization`, as the gateway tells the services: that header itself is the gateway's.

Only routes of OAuth clients carry it. The gateway passes on a closed list of a caller's headers, so a caller's own
header of this name never gets further.
"""

from fastapi import Request

CLIENT_AUTHORIZATION = "client-authorization"


def client_authorization_of(request: Request) -> str:
    """The caller's own `Authorization`, "" without one; usable as a dependency."""
    return request.headers.get(CLIENT_AUTHORIZATION, "")
