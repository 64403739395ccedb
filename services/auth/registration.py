"""Partners from their registration on: what they change of themselves, and what operators decide."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec.structs import replace

from services.auth import audit
from services.auth.audit import Kind
from services.auth.enrolment import ATTEMPTS, Deps
from services.auth.keys import PartnerKey, key_id, new_client_secret
from services.auth.partners import (
    ALWAYS,
    DEMO_PARTNER_ID,
    DEMO_PARTNER_NAME,
    DEMO_PARTNER_SCOPES,
    MAX_SECRETS,
    PARTNERS,
    ClientSecret,
    Partner,
    live_secrets,
    partner_updated,
    secret_hash,
    with_secret,
)
from services.auth.repeats import body_hash, check_same
from shared import topics
from shared.callers import Caller
from shared.documents import Conflict
from shared.errors import Problem, Unavailable
from shared.ids import derived_id
from shared.outbox import outbox_event, with_events


@dataclass(frozen=True)
class Wanted:
    """What somebody registers: name, address of a person to turn to, redirect URIs, and scopes in order."""

    name: str
    contact: str
    redirect_uris: tuple[str, ...]
    scopes: tuple[str, ...]

    @property
    def hash(self) -> str:
        """What two requests under one key must have in common."""
        return body_hash(self.name, self.contact, self.redirect_uris, self.scopes)


async def register(deps: Deps, key: str, wanted: Wanted, address: str) -> tuple[Partner, str | None]:
    """The partner that this request makes, and its client secret; None in place of that when it was made before.

    The secret does not follow from the request, which others could guess: who lost the answer registers again.
    `address`: where the request came from, as the gateway says.

    Raises:
        Problem: 422 another request under this key, 429.
    """
    deps.guesses.admit_registration(address)
    partner_id, now = deps.pepper.partner_id(key, wanted.contact), deps.clock()
    secret = new_client_secret()
    active = deps.approval == "auto"
    partner = Partner(
        id=partner_id,
        name=wanted.name,
        contact=wanted.contact,
        redirect_uris=wanted.redirect_uris,
        scopes=tuple(sorted({*wanted.scopes, *ALWAYS})),
        state="active" if active else "pending",
        revision=1 if active else 0,
        secrets=(ClientSecret(hash=secret_hash(secret), created_at=now),),
        created_at=now,
        request_hash=wanted.hash,
    )
    if active:
        partner = with_events(partner, outbox_event(topics.PARTNERS, partner_updated(partner, now)))
    try:
        stored = await deps.store.put_partner(
            partner, audit.line("partner-registered", now, partner_id=partner_id, details=(partner.state,))
        )
    except Conflict:
        return await _registered_before(deps, partner_id, wanted), None
    deps.relay.nudge(PARTNERS, partner_id)
    return stored, secret


async def _registered_before(deps: Deps, partner_id: str, wanted: Wanted) -> Partner:
    earlier = await known(deps, partner_id)
    check_same(earlier.request_hash, wanted.hash)
    deps.relay.nudge(PARTNERS, partner_id)
    return earlier


async def own(deps: Deps, partner_id: str) -> Partner:
    """The partner that calls.

    Raises:
        Problem: 404 it is gone, 403 it may not do anything now.
    """
    partner = await known(deps, partner_id)
    if partner.state != "active":
        raise Problem(403, "partner-not-active", "This partner waits for approval, or was suspended. Ask the operator.")
    return partner


async def change(
    deps: Deps, partner_id: str, *, name: str | None = None, redirect_uris: tuple[str, ...] | None = None
) -> Partner:
    """The partner with this name and these redirect URIs; None leaves one as it is. Raises Problem as `own`."""
    await own(deps, partner_id)

    def changed(partner: Partner) -> Partner:
        return replace(
            partner,
            name=partner.name if name is None else name,
            redirect_uris=partner.redirect_uris if redirect_uris is None else redirect_uris,
        )

    fields = [field for field, value in (("name", name), ("redirect_uris", redirect_uris)) if value is not None]
    return await _changed(deps, partner_id, changed, "partner-changed", *fields)


async def rotate_secret(deps: Deps, caller: Caller, key: str, overlap: timedelta) -> tuple[Partner, str | None]:
    """A new client secret; the ones before end after `overlap`. None for the secret of a request answered before.

    Raises:
        Problem: as `own`; 403 the caller has less than the secret would give, or is a key that ends; 409 four secrets
            are good already; 422 another overlap was asked for under this key.
    """
    partner_id = str(caller.partner_id)
    check_may_give(caller, (await own(deps, partner_id)).scopes, until=None)
    request, secret, now = derived_id("client secret", partner_id, key), new_client_secret(), deps.clock()
    hashed = body_hash(overlap.total_seconds())
    fresh = ClientSecret(hash=secret_hash(secret), created_at=now, request=request, request_hash=hashed)

    def rotated(partner: Partner) -> Partner:
        earlier = next((one for one in partner.secrets if one.request == request), None)
        if earlier is not None:
            check_same(earlier.request_hash, hashed)
            return partner
        if overlap and len(live_secrets(partner, now)) >= MAX_SECRETS:
            raise Problem(
                409,
                "too-many-secrets",
                f"{MAX_SECRETS} client secrets are good at once; wait for one to end, or end them with `overlap_s` 0.",
            )
        return with_secret(partner, fresh, now + overlap)

    partner = await _changed(deps, partner_id, rotated, "client-secret-rotated")
    return partner, secret if fresh in partner.secrets else None


async def decide(deps: Deps, partner_id: str, state: Literal["active", "suspended"], by: str) -> Partner:
    """Let a partner work, or take everything from it until it may again, as the operator `by` says.

    Raises:
        Problem: 404 there is none.
    """
    kind: Kind = "partner-approved" if state == "active" else "partner-suspended"
    return await _changed(deps, partner_id, lambda partner: replace(partner, state=state), kind, by=by)


async def set_quota(deps: Deps, partner_id: str, requests_per_min: int | None, by: str) -> Partner:
    """Let a partner ask so often, None: as often as the setting says. Raises Problem(404)."""

    def changed(partner: Partner) -> Partner:
        return replace(partner, requests_per_min=requests_per_min)

    details = (str(requests_per_min or "default"),)
    return await _changed(deps, partner_id, changed, "partner-quota-changed", *details, by=by)


def check_may_give(caller: Caller, scopes: tuple[str, ...], until: datetime | None) -> None:
    """Let nobody make a credential that can do more, and no key make one that lasts longer, than what asks for it.

    `until`: when the new one ends, None for never. A token stands for the client secret, which has no end.

    Raises:
        Problem: 403.
    """
    missing = sorted(set(scopes) - caller.scopes)
    if missing:
        raise Problem(403, "insufficient-scope", "Use a token or key that has these scopes itself.", missing=missing)
    ends_at = caller.key_ends_at
    if ends_at is not None and (until is None or until.timestamp() > ends_at):
        raise Problem(
            403,
            "key-outlived",
            "A key makes nothing that lasts longer than itself. Use a token by `client_credentials`, or make a key "
            "that ends by `key_ends_at`.",
            key_ends_at=datetime.fromtimestamp(ends_at, UTC).isoformat(),
        )


async def known(deps: Deps, partner_id: str) -> Partner:
    """The partner of that id, whatever its state. Raises Problem(404)."""
    partner = await deps.store.partner(partner_id)
    if partner is None:
        raise Problem(404, "not-found", "There is no such partner.")
    return partner


async def _changed(
    deps: Deps, partner_id: str, change: Callable[[Partner], Partner], kind: Kind, *details: str, by: str = ""
) -> Partner:
    """The partner as stored after `change`; without a difference nothing is written."""
    for _ in range(ATTEMPTS):
        before, now = await known(deps, partner_id), deps.clock()
        changed = change(before)
        if changed == before:
            deps.relay.nudge(PARTNERS, partner_id)
            return before
        line = audit.line(kind, now, partner_id=partner_id, details=details, by=by)
        if _is_news(before, changed):
            changed = replace(changed, revision=before.revision + 1)
            changed = with_events(changed, outbox_event(topics.PARTNERS, partner_updated(changed, now)))
        try:
            stored = await deps.store.put_partner(changed, line)
        except Conflict:
            continue
        deps.relay.nudge(PARTNERS, partner_id)
        return stored
    raise Unavailable("database")


def _is_news(before: Partner, after: Partner) -> bool:
    # Of a partner that was never approved nobody is told, so that registering costs the others nothing.
    if before.revision == 0 and after.state != "active":
        return False
    told = (after.name, after.scopes, after.state, after.requests_per_min)
    return before.revision == 0 or told != (before.name, before.scopes, before.state, before.requests_per_min)


async def seed_demo_partner(deps: Deps, key: str) -> None:
    """Make the demo partner and its key; repeated at every start, by several processes at once, it changes nothing.

    Raises:
        Unavailable: ("database") it does not answer.
    """
    for _ in range(ATTEMPTS):
        try:
            await _seed_demo_partner(deps, key)
        except Conflict:
            continue  # another process starts too, and was quicker
        return
    raise Unavailable("database")


async def _seed_demo_partner(deps: Deps, key: str) -> None:
    now = deps.clock()
    known = await deps.store.partner(DEMO_PARTNER_ID)
    if known is None or known.scopes != DEMO_PARTNER_SCOPES:
        fresh = Partner(id=DEMO_PARTNER_ID, name=DEMO_PARTNER_NAME, scopes=(), revision=0, state="active")
        base = known or fresh
        partner = replace(base, scopes=DEMO_PARTNER_SCOPES, revision=base.revision + 1)
        await deps.store.put_partner(with_events(partner, outbox_event(topics.PARTNERS, partner_updated(partner, now))))
        deps.relay.nudge(PARTNERS, partner.id)
    if await deps.store.partner_key(key) is None:
        await deps.store.put_partner_key(
            PartnerKey(id=key_id(key), partner_id=DEMO_PARTNER_ID, scopes=DEMO_PARTNER_SCOPES, created_at=now)
        )
