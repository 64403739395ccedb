"""The second factor of a user: an authenticator app whose secret is sealed, and recovery codes in its place."""

import logging
from datetime import datetime

from msgspec.structs import replace

from services.auth import recovery, totp
from services.auth.accounts import Pepper, SecondFactor, User
from shared.errors import Problem
from shared.secrets import CannotOpen, Secrets

log = logging.getLogger(__name__)


class Factors:
    """Makes and checks second factors. Its methods return the user to be stored, and store nothing.

    Those that read an authenticator's secret raise Problem(503) where its key-encryption key is gone.
    """

    def __init__(self, secrets: Secrets, pepper: Pepper) -> None:
        self._secrets = secrets
        self._pepper = pepper

    def proposed(self, user: User) -> tuple[User, bytes]:
        """The user with a new authenticator to confirm, and its secret."""
        secret = totp.new_secret()
        return replace(user, pending_factor=SecondFactor(sealed=self._sealed(user, secret))), secret

    def confirmed(self, user: User, code: str, now: datetime) -> tuple[User, tuple[str, ...]] | None:
        """The user with the proposed authenticator in force, and its recovery codes; None for a wrong code."""
        pending = user.pending_factor
        passed = self._passed(user, pending, code, now) if pending is not None else None
        if passed is None:
            return None
        codes = recovery.new_codes()
        factor = replace(passed, recovery=self._hashes(user, codes))
        return replace(user, second_factor=factor, pending_factor=None), codes

    def renewed(self, user: User) -> tuple[User, tuple[str, ...]]:
        """The user with fresh recovery codes, and these. Raises ValueError without a second factor."""
        if user.second_factor is None:
            raise ValueError("there is no second factor")
        codes = recovery.new_codes()
        return replace(user, second_factor=replace(user.second_factor, recovery=self._hashes(user, codes))), codes

    def used(self, user: User, code: str, now: datetime) -> User | None:
        """The user once this code, the app's or a recovery code, is used up; None for a wrong one or a used one."""
        factor = user.second_factor
        if factor is None:
            return None
        # Before the app's codes: a recovery code needs no key, so it lets its user in where the key is gone.
        hashed = recovery.code_hash(self._pepper, user.id, code)
        if hashed in factor.recovery:
            rest = tuple(one for one in factor.recovery if one != hashed)
            return replace(user, second_factor=replace(factor, recovery=rest))
        passed = self._passed(user, factor, code, now)
        return replace(user, second_factor=passed) if passed is not None else None

    def _passed(self, user: User, factor: SecondFactor, code: str, now: datetime) -> SecondFactor | None:
        """The authenticator with this code used up, sealed anew where a newer key would; None for a wrong code."""
        try:
            secret = self._secrets.open(factor.sealed, **_place(user))
            stale = self._secrets.is_stale(factor.sealed)
        except CannotOpen as error:
            log.error("the second factor of %s cannot be read: %s", user.id, error)
            raise Problem(
                503,
                "second-factor-unreadable",
                "Your authenticator cannot be checked now. Send a recovery code in place of its code, or try again.",
                headers={"Retry-After": "60"},
            ) from None
        step = totp.matching_step(secret, "".join(code.split()), now.timestamp(), factor.last_step)
        if step is None:
            return None
        return replace(factor, last_step=step, sealed=self._sealed(user, secret) if stale else factor.sealed)

    def _sealed(self, user: User, secret: bytes) -> bytes:
        return self._secrets.seal(secret, **_place(user))

    def _hashes(self, user: User, codes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(recovery.code_hash(self._pepper, user.id, code) for code in codes)


def _place(user: User) -> dict[str, str]:
    return {"collection": "users", "field": "second_factor", "document_id": user.id, "user_id": user.id}
