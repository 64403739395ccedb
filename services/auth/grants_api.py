"""A user's grants over HTTP, as far as they exist: giving one is in `api`. The gateway is the only caller."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from services.auth import granting
from services.auth.asking import DepsOf
from shared.callers import Caller
from shared.identity import require

router = APIRouter()


class GivenGrant(BaseModel):
    """What a partner may see since `since`; `revision` counts the changes of it."""

    grant_id: str
    partner_id: str
    partner_name: str
    scopes: tuple[str, ...]
    revision: int
    since: datetime


class GivenGrants(BaseModel):
    """The grants that stand, the latest first."""

    grants: list[GivenGrant]


# Partners never have this scope, granted or not.
Owner = Annotated[Caller, require("grants:write")]


@router.get("/v1/grants", tags=["grants"])
async def list_grants(deps: DepsOf, caller: Owner) -> GivenGrants:
    """Whom you let see what, and since when."""
    found = await granting.live(deps, str(caller.user_id))
    return GivenGrants(
        grants=[
            GivenGrant(
                grant_id=grant.id,
                partner_id=grant.partner_id,
                partner_name=name,
                scopes=grant.scopes,
                revision=grant.revision,
                since=grant.since_at,
            )
            for grant, name in found
        ]
    )


@router.delete("/v1/grants/{grant_id}", status_code=204, tags=["grants"])
async def revoke(grant_id: Annotated[str, Path(max_length=64)], deps: DepsOf, caller: Owner) -> None:
    """Let a partner see nothing of yours any more, within seconds. Its sessions for you end."""
    await granting.revoke(deps, str(caller.user_id), grant_id)
