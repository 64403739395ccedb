"""What the routes for partners have in common: which partner asks, for which id, under which Idempotency-Key."""

from typing import Annotated

from fastapi import Depends, Header, Path

from shared.callers import Caller
from shared.errors import Problem
from shared.identity import require

Id = Annotated[str, Path(max_length=64)]


async def _partner_id(caller: Annotated[Caller, require("webhooks:write", kind="partner")]) -> str:
    return caller.partner_id or ""


async def _key(idempotency_key: Annotated[str | None, Header(max_length=255)] = None) -> str:
    if not idempotency_key:
        raise Problem(400, "idempotency-key-required", "Send an Idempotency-Key header, such as a fresh UUID.")
    return idempotency_key


PartnerId = Annotated[str, Depends(_partner_id)]
Key = Annotated[str, Depends(_key)]
