"""Users who have themselves erased, as auth sees it."""

from typing import Any

from services.auth.erasure_documents import SERVICES
from shared import topics
from shared.callers import SCOPES, Caller
from shared.clock import utc_now
from shared.events.personal import UserDataErased
from tests.polling import eventually
from tests.service.partnering import Desk

ADA = {"email": "ada@example.org", "password": "violet tractor hums at noon"}


async def signed_in(desk: Desk, key: str = "ada") -> Caller:
    """A user, signed in anew."""
    headers = desk.service.headers(key=key or "ada")
    made = await desk.service.http.post("/v1/users", json=ADA, headers=headers)
    assert made.status_code == 201, made.text
    signed = await desk.service.http.post("/v1/tokens", json=ADA, headers=desk.service.headers())
    return Caller(made.json()["user_id"], None, frozenset(SCOPES), signed.json()["session_id"])


async def erase(desk: Desk, caller: Caller) -> Any:
    """As the user's own app asks."""
    token = desk.service.signer.token(caller, "auth")
    return await desk.service.http.delete("/v1/me", headers={"Authorization": f"Bearer {token}"})


async def see(desk: Desk, link: str) -> dict[str, Any]:
    """How far it is."""
    answer = await desk.service.http.get(link, headers=desk.service.headers())
    assert answer.status_code == 200, answer.text
    return answer.json()


async def finished(desk: Desk, link: str) -> dict[str, Any]:
    """The same once it has ended, else nothing."""
    seen = await see(desk, link)
    return seen if seen["state"] == "erased" else {}


async def report(desk: Desk, user_id: str | None, service: str) -> None:
    """A service says that nothing is left."""
    event = UserDataErased(
        event_id=f"{service} {user_id}",
        occurred_at=utc_now(),
        user_id=str(user_id),
        service=service,
        documents=7,
        objects=0,
        finished_at=utc_now(),
    )
    await desk.service.send(topics.ERASURES[service], event)


async def all_said(desk: Desk, user_id: str, link: str) -> None:
    """Every service says so, and auth ends it."""
    for service in SERVICES:
        await report(desk, user_id, service)
    await eventually(lambda: finished(desk, link))


async def erased(desk: Desk, ada: Caller) -> None:
    """From the asking to the end."""
    asked = (await erase(desk, ada)).json()
    await all_said(desk, str(ada.user_id), asked["link"])
