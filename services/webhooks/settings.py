"""What webhooks reads from its environment."""

from pydantic import Field

from services.webhooks.egress import networks
from shared.settings import DEFAULT_PORTS, ServiceSettings


class Settings(ServiceSettings):
    """Shared settings and webhooks' own."""

    webhooks_port: int = Field(default=DEFAULT_PORTS["webhooks"], ge=0, le=65535, description="The port webhooks uses")
    webhooks_allow_cidrs: str = Field(
        default="",
        description="Networks deliveries may go to, comma-separated, such as 127.0.0.0/8; empty: nowhere",
    )
    webhooks_concurrency: int = Field(default=32, ge=1, le=1000, description="Deliveries under way at once")

    def model_post_init(self, context: object, /) -> None:
        """Refuse a network list that cannot be read before anything starts."""
        networks(self.webhooks_allow_cidrs)
