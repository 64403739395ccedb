"""What webhooks reads from its environment."""

from pydantic import Field, field_validator

from services.webhooks.destinations import Rules, allowed_ports, networks, own, rules
from shared.settings import DEFAULT_PORTS, ServiceSettings


class Settings(ServiceSettings):
    """Shared settings and webhooks' own."""

    webhooks_port: int = Field(default=DEFAULT_PORTS["webhooks"], ge=0, le=65535, description="The port webhooks uses")
    webhooks_allow_cidrs: str = Field(
        default="",
        description="Networks deliveries may go to besides public addresses, comma-separated, such as 127.0.0.0/8",
    )
    webhooks_allow_http: bool = Field(
        default=False, description="Whether deliveries may go out unencrypted; for receivers on your own machine only"
    )
    webhooks_allow_ports: str = Field(
        default="443", description="Ports deliveries may go to, comma-separated, such as 443,8443; *: any"
    )
    webhooks_own_hosts: str = Field(
        default="",
        description="Names and networks that lead to this server, comma-separated, such as "
        "api.example.com,198.51.100.7; deliveries never go there",
    )
    webhooks_concurrency: int = Field(default=256, ge=1, le=1000, description="Deliveries under way at once")

    webhooks_keep_days: int = Field(
        default=30, ge=8, le=3650, description="Days for which messages and ended deliveries are kept"
    )

    @field_validator("webhooks_allow_cidrs")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        networks(text)
        return text

    @field_validator("webhooks_allow_ports")
    @classmethod
    def _are_ports(cls, text: str) -> str:
        allowed_ports(text)
        return text

    @field_validator("webhooks_own_hosts")
    @classmethod
    def _are_own(cls, text: str) -> str:
        own(text)
        return text

    def deliveries_go_to(self) -> Rules:
        """The rules of egress."""
        return rules(
            self.webhooks_allow_cidrs,
            http=self.webhooks_allow_http,
            ports=self.webhooks_allow_ports,
            own_hosts=self.webhooks_own_hosts,
        )
