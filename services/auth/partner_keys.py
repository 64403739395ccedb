"""A partner's API keys: made, listed, rotated and ended by the partner itself."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.auth import audit, registration
from services.auth.audit import Kind
from services.auth.enrolment import ATTEMPTS, Deps
from services.auth.keys import (
    ENDED_INDEX,
    HINT_CHARACTERS,
    KEYS_INDEX,
    PARTNER_KEYS,
    REQUEST_INDEX,
    PartnerKey,
    is_live,
    key_id,
    lifetime_s,
    public_id,
)
from services.auth.repeats import body_hash, check_same
from shared.callers import Caller
from shared.documents import Conflict, Duplicate, Put
from shared.errors import Problem, Unavailable
from shared.ids import derived_id
from shared.keys import new_api_key

LONGEST = timedelta(days=3653)
# Good at once, and kept to be seen once they ended.
MAX_KEYS = 50
MAX_ENDED = 50
ENDED_KEPT = timedelta(days=30)


async def create(
    deps: Deps, caller: Caller, request_key: str, name: str, scopes: Sequence[str], expires_at: datetime | None
) -> tuple[PartnerKey, str | None]:
    """A new key and its text; None for the text of a key that this very request made before.

    Raises:
        Problem: 403 the partner is not active, or the caller lacks a scope or ends before the new key would; 409 fifty
            keys are good already; 422 the partner cannot have a scope, the end is past or far away, or another request
            was sent under this key.
    """
    partner, now = await registration.own(deps, str(caller.partner_id)), deps.clock()
    wanted = tuple(sorted(set(scopes)))
    if not set(wanted) <= set(partner.scopes):
        raise Problem(
            422, "scope-not-possible", "Ask only for scopes from `possible`.", possible=sorted(partner.scopes)
        )
    registration.check_may_give(caller, wanted, expires_at)
    request = derived_id("partner key", partner.id, request_key)
    hashed = body_hash(name, wanted, expires_at.isoformat() if expires_at is not None else None)
    earlier = await _made_by(deps, request, hashed)
    if earlier is not None:
        return earlier, None
    if expires_at is not None and not now < expires_at <= now + LONGEST:
        raise Problem(
            422, "expiry-not-possible", "Let the key end in the future and within ten years, or leave `expires_at` out."
        )
    text = new_api_key()
    fresh = replace(_fresh(text, partner.id, name, wanted, now, expires_at), request=request, request_hash=hashed)
    made = await _added(deps, fresh, text, "key-created")
    if made[1] is not None and sum(is_live(key, now) for key in await listed(deps, partner.id)) > MAX_KEYS:
        # Others were made at the same moment, and saw as much room.
        await deps.store.documents.delete(PARTNER_KEYS, fresh.id)
        line = audit.line("key-revoked", now, partner_id=partner.id, about=public_id(fresh), details=("too-many-keys",))
        await deps.store.documents.put_many([line])
        raise _too_many()
    return made


async def listed(deps: Deps, partner_id: str) -> list[PartnerKey]:
    """The partner's keys, also those that ended of late, the latest first. At most a hundred."""
    page = await deps.store.documents.find(PARTNER_KEYS, KEYS_INDEX, (partner_id,), limit=MAX_KEYS + 2 * MAX_ENDED)
    return sorted(page.documents, key=lambda key: key.created_at, reverse=True)


async def rotate(
    deps: Deps, caller: Caller, id: str, request_key: str, overlap: timedelta
) -> tuple[PartnerKey, str | None]:
    """A key in place of the one that its partner calls `id`, which ends after `overlap`; None as in `create`.

    The new one is good for as long as the old one was at first.

    Raises:
        Problem: 403 and 409 as in `create`, 404 there is none, 409 it has ended, 422 another overlap was asked for
            under this key.
    """
    partner = await registration.own(deps, str(caller.partner_id))
    request, hashed = derived_id("rotated key", partner.id, id, request_key), body_hash(overlap.total_seconds())
    for _ in range(ATTEMPTS):
        old, now = await _own(deps, partner.id, id), deps.clock()
        earlier = await _made_by(deps, request, hashed)
        if earlier is not None:
            return earlier, None
        if not is_live(old, now):
            raise Problem(409, "key-ended", "This key has ended. Make a new one.")
        lifetime = lifetime_s(old)
        expires_at = None if lifetime is None else now + timedelta(seconds=lifetime)
        registration.check_may_give(caller, old.scopes, expires_at)
        text = new_api_key()
        scopes = tuple(scope for scope in old.scopes if scope in partner.scopes)
        fresh = _fresh(text, partner.id, old.name, scopes, now, expires_at)
        fresh = replace(fresh, request=request, request_hash=hashed)
        try:
            return await _added(deps, fresh, text, "key-rotated", Put(PARTNER_KEYS, ended_by(old, now + overlap)))
        except Conflict:
            continue  # the old one was used, or ended
    raise Unavailable("database")


async def end(deps: Deps, partner_id: str, id: str) -> None:
    """Let a key be good no more; gateways know within 30 s. One that has ended stays so.

    Raises:
        Problem: 403 the partner is not active, 404 it has no such key.
    """
    await registration.own(deps, partner_id)
    for _ in range(ATTEMPTS):
        key, now = await _own(deps, partner_id, id), deps.clock()
        if not is_live(key, now):
            return
        try:
            await deps.store.put_partner_key(
                ended_by(key, now), audit.line("key-revoked", now, partner_id=partner_id, about=id)
            )
        except Conflict:
            continue
        return
    raise Unavailable("database")


def ended_by(key: PartnerKey, moment: datetime) -> PartnerKey:
    """The key, which ends at `moment` at the latest."""
    expires_at = moment if key.expires_at is None else min(key.expires_at, moment)
    return replace(key, expires_at=expires_at, first_lifetime_s=lifetime_s(key))


def _fresh(
    text: str,
    partner_id: str,
    name: str,
    scopes: tuple[str, ...],
    now: datetime,
    expires_at: datetime | None,
) -> PartnerKey:
    return PartnerKey(
        id=key_id(text),
        partner_id=partner_id,
        scopes=scopes,
        created_at=now,
        expires_at=expires_at,
        name=name,
        hint=text[:HINT_CHARACTERS],
    )


async def _added(deps: Deps, fresh: PartnerKey, text: str, kind: Kind, *before: Put) -> tuple[PartnerKey, str | None]:
    await _make_room(deps, fresh.partner_id, fresh.created_at)
    line = audit.line(kind, fresh.created_at, partner_id=fresh.partner_id, about=public_id(fresh), details=fresh.scopes)
    try:
        # In this order, so that a crash between the two, on MongoDB, leaves no new key that nobody holds.
        await deps.store.documents.put_many([*before, Put(PARTNER_KEYS, fresh), line])
    except Duplicate:
        earlier = await _made_by(deps, str(fresh.request), fresh.request_hash)
        if earlier is None:
            raise Unavailable("database") from None
        return earlier, None
    return fresh, text


async def _make_room(deps: Deps, partner_id: str, now: datetime) -> None:
    """Forget keys that ended long ago. Raises Problem(409) where too many are good."""
    await deps.store.documents.delete_where(PARTNER_KEYS, ENDED_INDEX, (partner_id,), below=now - ENDED_KEPT)
    keys = await listed(deps, partner_id)
    if sum(is_live(key, now) for key in keys) >= MAX_KEYS:
        raise _too_many()
    ended = sorted((key for key in keys if not is_live(key, now)), key=lambda key: str(key.expires_at), reverse=True)
    for key in ended[MAX_ENDED - 1 :]:
        await deps.store.documents.delete(PARTNER_KEYS, key.id)


def _too_many() -> Problem:
    return Problem(409, "too-many-keys", f"{MAX_KEYS} keys are good at once. End one that you do not need.")


async def _made_by(deps: Deps, request: str, hashed: str) -> PartnerKey | None:
    """The key that this request made before. Raises Problem(422): it asked for something else then."""
    page = await deps.store.documents.find(PARTNER_KEYS, REQUEST_INDEX, (request,), limit=1)
    earlier = page.documents[0] if page.documents else None
    if earlier is not None:
        check_same(earlier.request_hash, hashed)
    return earlier


async def _own(deps: Deps, partner_id: str, id: str) -> PartnerKey:
    for key in await listed(deps, partner_id):
        if public_id(key) == id:
            return key
    raise Problem(404, "not-found", "You have no such key; `GET /v1/partner/keys` lists yours.")
