"""The second factor of a user: an authenticator app whose secret is sealed, and recovery codes in its place."""

from datetime import datetime

from msgspec.structs import replace

from services.auth import recovery, totp
from services.auth.accounts import Pepper, SecondFactor, User
from shared.secrets import Secrets


class Factors:
    """Makes and checks second factors. Its methods return the user to be stored, and store nothing."""

    def __init__(self, secrets: Secrets, pepper: Pepper) -> None:
        self._secrets = secrets
        self._pepper = pepper

    def proposed(self, user: User) -> tuple[User, bytes]:
        """The user with a new authenticator to confirm, and its secret."""
        secret = totp.new_secret()
        factor = SecondFactor(sealed=self._secrets.seal(secret, **_place(user)))
        return replace(user, pending_factor=factor), secret

    def confirmed(self, user: User, code: str, now: datetime) -> tuple[User, tuple[str, ...]] | None:
        """The user with the proposed authenticator in force, and its recovery codes; None for a wrong code."""
        pending = user.pending_factor
        step = self._step(user, pending, code, now) if pending is not None else None
        if pending is None or step is None:
            return None
        codes = recovery.new_codes()
        factor = replace(pending, last_step=step, recovery=self._hashes(user, codes))
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
        step = self._step(user, factor, code.strip().replace(" ", ""), now)
        if step is not None:
            return replace(user, second_factor=replace(factor, last_step=step))
        hashed = recovery.code_hash(self._pepper, user.id, code)
        if hashed not in factor.recovery:
            return None
        rest = tuple(one for one in factor.recovery if one != hashed)
        return replace(user, second_factor=replace(factor, recovery=rest))

    def _step(self, user: User, factor: SecondFactor, code: str, now: datetime) -> int | None:
        secret = self._secrets.open(factor.sealed, **_place(user))
        return totp.matching_step(secret, code, now.timestamp(), factor.last_step)

    def _hashes(self, user: User, codes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(recovery.code_hash(self._pepper, user.id, code) for code in codes)


def _place(user: User) -> dict[str, str]:
    return {"collection": "users", "field": "second_factor", "document_id": user.id, "user_id": user.id}
