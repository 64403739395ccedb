"""What nutrition reads from its environment."""

from pydantic import Field

from shared.settings import DEFAULT_PORTS, ServiceSettings


class Settings(ServiceSettings):
    """Shared settings and nutrition's own."""

    nutrition_port: int = Field(
        default=DEFAULT_PORTS["nutrition"], ge=0, le=65535, description="The port nutrition uses"
    )
