"""What the gateway reads from its environment."""

import re
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from redis.connection import parse_url  # pyright: ignore[reportUnknownVariableType]

from services.gateway.origins import Origins
from services.gateway.rates import MOST_CALLS, Policy, policy
from services.gateway.routes import RateClass
from shared.client_address import Network, networks
from shared.settings import RULES, Rule, ServiceSettings

MIB = 1024 * 1024
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
SERVICE_URL = re.compile(r"https?://([^\s,/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>\d{1,5}))?/?", re.ASCII)
OWN_PORT = re.compile(r"^(http:.*):80$|^(https:.*):443$")
UPSTREAMS = ("auth", "ingest", "inference", "nutrition", "insights", "webhooks")


def _addresses(text: str) -> tuple[str, ...]:
    """Each once and in one spelling: in small letters, without the scheme's own port."""
    found = (part.strip().rstrip("/").lower() for part in text.split(","))
    return tuple(dict.fromkeys(OWN_PORT.sub(r"\1\2", part) for part in found if part))


def _is_address(url: str) -> bool:
    found = SERVICE_URL.fullmatch(url)
    return found is not None and 1 <= int(found["port"] or 80) <= 65535


def _is_redis(url: str) -> bool:
    try:
        parse_url(url)
        return url.startswith(REDIS_SCHEMES) and urlsplit(url).port != 0
    except ValueError:
        return False


def _apart(one: str, other: str) -> Rule:
    def broken(settings: "Settings") -> bool:
        return not set(settings.upstream_urls[one]).isdisjoint(settings.upstream_urls[other])

    names = f"GATEWAY_{one.upper()}_URL", f"GATEWAY_{other.upper()}_URL"
    return Rule(names, "no two services can answer at one address", broken)


GATEWAY_RULES = (
    Rule(
        ("GATEWAY_INSTANCES", "GATEWAY_RATES_URL"),
        "several gateways count calls, and know which tickets were used, in a Redis that they share; name it",
        lambda settings: settings.gateway_instances > 1 and not settings.gateway_rates_url.get_secret_value(),
    ),
    *(_apart(one, other) for place, one in enumerate(UPSTREAMS) for other in UPSTREAMS[place + 1 :]),
)


class Settings(ServiceSettings):
    """The gateway's own settings beside the shared ones."""

    rules: ClassVar[tuple[Rule, ...]] = RULES + GATEWAY_RULES

    gateway_port: int = Field(default=8080, ge=0, le=65535, description="Public port")
    gateway_internal_key_path: Path = Field(
        default=Path(".mymacro/data/keys/internal.jwk"), description="Private key of internal tokens (Ed25519, JWK)"
    )
    gateway_receipt_key_path: Path = Field(
        default=Path(".mymacro/data/keys/receipts.key"),
        description="32 random bytes in hex, the same at every gateway; receipt ids hang on it",
    )
    gateway_auth_url: str = Field(
        default="http://127.0.0.1:8101", description="Where auth answers: each of its processes, comma-separated"
    )
    gateway_ingest_url: str = Field(default="http://127.0.0.1:8102", description="The same of ingest")
    gateway_inference_url: str = Field(default="http://127.0.0.1:8103", description="The same of inference")
    gateway_nutrition_url: str = Field(default="http://127.0.0.1:8104", description="The same of nutrition")
    gateway_insights_url: str = Field(default="http://127.0.0.1:8105", description="The same of insights")
    gateway_webhooks_url: str = Field(default="http://127.0.0.1:8106", description="The same of webhooks")
    gateway_instances: int = Field(
        default=1, ge=1, le=1000, description="How many gateways run; more than one need GATEWAY_RATES_URL"
    )
    gateway_max_batch_bytes: int = Field(default=4 * MIB, ge=1024, description="Largest body of a batch")
    gateway_max_photo_bytes: int = Field(default=10 * MIB, ge=1024, description="Largest picture")
    gateway_max_lag_batches: int = Field(
        default=20_000, ge=1, description="Batches accepted but not stored, beyond which batches are answered 503"
    )
    gateway_max_lag_photos: int = Field(
        default=2_000, ge=1, description="Photos accepted but not taken up, beyond which photos are answered 503"
    )
    gateway_disk_path: str = Field(
        default="", description="Folder where Kafka's log or the objects lie, whose free space is watched; empty: none"
    )
    gateway_min_free_bytes: int = Field(
        default=512 * MIB, ge=0, description="Free bytes of GATEWAY_DISK_PATH below which nothing is accepted"
    )
    gateway_trusted_proxies: str = Field(
        default="",
        description="Networks of the proxies before the gateway, such as 10.0.0.0/8, comma-separated: theirs is the "
        "X-Forwarded-For that tells where a caller is; empty: nobody's",
    )
    gateway_rate_read: str = Field(
        default="1200/60",
        description="Reads of a user, and of a network where no token is needed: so many at once, and as many again, "
        "evenly, in so many seconds",
    )
    gateway_rate_write: str = Field(default="1200/60", description="The same of writes; a batch is one, so is a photo")
    gateway_rate_sign_in: str = Field(
        default="600/60", description="The same of sign-ins, refreshes of tokens, and what concerns passwords"
    )
    gateway_rate_stream: str = Field(default="120/60", description="The same of live streams opened")
    gateway_rate_failed: str = Field(
        default="3000/60",
        description="Calls of a network without a good token or key; beyond, unknown ones from there are not looked at",
    )
    gateway_rate_key: str = Field(default="1200/60", description="Calls with one key of a partner")
    gateway_partner_requests_per_min: int = Field(
        default=2400, ge=1, le=MOST_CALLS, description="Calls of a partner that has no quota of its own"
    )
    gateway_rates_url: SecretStr = Field(
        default=SecretStr(""),
        description="The Redis in which several gateways count these together, as "
        "redis://[:password@]host[:port][/number] or rediss://; empty: each in its own memory",
    )
    gateway_live_origins: str = Field(
        default="",
        description="Origins of the web pages that may open live streams, such as https://app.example.org, "
        "comma-separated; programs that are no browser may always",
    )
    gateway_metrics: bool = Field(default=False, description="Serve /metrics on the public port too")
    gateway_docs: bool = Field(default=True, description="Serve /docs and /openapi.json")
    token_issuer: str = Field(default="https://mymacrotracker.dev/auth", description="`iss` of access tokens")
    token_audience: str = Field(default="https://mymacrotracker.dev/api", description="`aud` of access tokens")

    @field_validator(*(f"gateway_{service}_url" for service in UPSTREAMS))
    @classmethod
    def _are_addresses(cls, text: str) -> str:
        found = _addresses(text)
        if not found or not all(map(_is_address, found)):
            raise ValueError("write addresses such as http://127.0.0.1:8101, without a path, separated by commas")
        return text

    @field_validator("gateway_rates_url")
    @classmethod
    def _leads_to_redis(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value() and not _is_redis(url.get_secret_value()):
            raise ValueError("write redis://[:password@]host[:port][/number], rediss:// or unix://<path>")
        return url

    @field_validator("gateway_trusted_proxies")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        networks(text)
        return text

    @field_validator("gateway_live_origins")
    @classmethod
    def _are_origins(cls, text: str) -> str:
        Origins(text)
        return text

    @field_validator(
        "gateway_rate_read",
        "gateway_rate_write",
        "gateway_rate_sign_in",
        "gateway_rate_stream",
        "gateway_rate_failed",
        "gateway_rate_key",
    )
    @classmethod
    def _are_rates(cls, text: str) -> str:
        policy("", text)
        return text

    def rate(self, rate: RateClass, whose: Literal["user", "address"]) -> Policy:
        """What is allowed in a class of routes."""
        texts: dict[RateClass, str] = {
            "read": self.gateway_rate_read,
            "write": self.gateway_rate_write,
            "sign-in": self.gateway_rate_sign_in,
            "stream": self.gateway_rate_stream,
        }
        return policy(f"{whose}-{rate}", texts[rate])

    @property
    def trusted_proxies(self) -> tuple[Network, ...]:
        """The networks one by one."""
        return networks(self.gateway_trusted_proxies)

    @property
    def upstream_urls(self) -> dict[str, tuple[str, ...]]:
        """The addresses of each service's processes by the service's name."""
        texts: dict[str, str] = {name: getattr(self, f"gateway_{name}_url") for name in UPSTREAMS}
        return {name: _addresses(text) for name, text in texts.items()}
