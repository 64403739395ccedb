"""What auth reads from its environment."""

import re
from email.errors import HeaderParseError
from email.policy import SMTP
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from shared.settings import RULES, Rule, ServiceSettings

ORIGIN = r"(https://[^/?#@\s]+|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?)"


def _has_origin(settings: "Settings") -> bool:
    try:
        return re.fullmatch(ORIGIN, settings.public_origin) is not None
    except ValueError:  # brackets that hold no address
        return False


AUTH_RULES = (
    Rule(
        ("AUTH_PUBLIC_URL", "TOKEN_ISSUER"),
        "where AUTH_PUBLIC_URL is empty, TOKEN_ISSUER must be an https address, whose origin callers reach",
        lambda settings: not _has_origin(settings),
    ),
)


def _is_mail_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_address(text: str) -> bool:
    """Whether a letter's `From` reads as one address, in ASCII: letters have no other form for its domain."""
    try:
        senders = SMTP.header_factory("From", text).addresses
    except (AttributeError, HeaderParseError, IndexError, ValueError):  # the parser's own faults, as at "a@["
        return False
    return text.isprintable() and len(senders) == 1 and bool(senders[0].domain) and senders[0].addr_spec.isascii()


class Settings(ServiceSettings):
    """Auth's own settings beside the shared ones."""

    rules: ClassVar[tuple[Rule, ...]] = RULES + AUTH_RULES

    auth_port: int = Field(default=8101, description="Port that auth listens on")
    auth_signing_key_path: Path = Field(
        default=Path(".mymacro/data/keys/auth.jwk"), description="Private key of access tokens (Ed25519, JWK)"
    )
    auth_pepper_path: Path = Field(
        default=Path(".mymacro/data/keys/auth-pepper.key"),
        description="32 random bytes in hex; user ids and the e-mail index hang on it, so never change it",
    )
    auth_demo_partner_key_path: Path | None = Field(
        default=None, description="API key of the demo partner, which is made at start; empty: no demo partner"
    )
    auth_partner_approval: Literal["operator", "auto"] = Field(
        default="operator", description="Who lets a newly registered partner work; auto: everybody at once"
    )
    auth_hash_threads: int = Field(
        default=2, ge=1, description="Passwords hashed at once; each takes 19 MiB and a core for 20 ms"
    )
    auth_guesses_per_s: float = Field(
        default=5, gt=0, description="Failed sign-ins a second from networks their users never came from; 500 at once"
    )
    auth_smtp_url: SecretStr = Field(
        default=SecretStr(""),
        description="smtp://[user:password@]host[:587] (with STARTTLS) or smtps://…[:465]; empty: letters become files",
    )
    auth_mail_from: str = Field(default="MyMacroTracker <no-reply@localhost>", description="Sender of letters")
    auth_mail_folder: Path = Field(
        default=Path(".mymacro/data/mail"), description="Where letters lie without AUTH_SMTP_URL, one .eml file each"
    )
    auth_audit_days: int = Field(default=400, ge=1, description="How long lines of the audit log are kept, in days")
    auth_public_url: str = Field(
        default="",
        pattern=f"^{ORIGIN}?$",
        description="Where callers reach the gateway, https, or http on loopback; empty: the origin of TOKEN_ISSUER",
    )
    token_issuer: str = Field(default="https://mymacrotracker.dev/auth", description="`iss` of access tokens")
    token_audience: str = Field(default="https://mymacrotracker.dev/api", description="`aud` of access tokens")

    @property
    def public_origin(self) -> str:
        """Scheme, host and port at which callers reach the gateway."""
        issuer = urlsplit(self.token_issuer)
        return self.auth_public_url or f"{issuer.scheme}://{issuer.netloc}"

    @field_validator("auth_smtp_url")
    @classmethod
    def _leads_to_mail(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value() and not _is_mail_server(url.get_secret_value()):
            raise ValueError("write smtp://[user:password@]host[:port] or smtps://…")
        return url

    @field_validator("auth_mail_from")
    @classmethod
    def _is_sender(cls, text: str) -> str:
        if not _is_address(text):
            raise ValueError("write an address such as no-reply@example.org, or Name <no-reply@example.org>")
        return text
