"""What insights reads from its environment."""

from pydantic import Field

from shared.settings import DEFAULT_PORTS, ServiceSettings


class Settings(ServiceSettings):
    """The common settings, and insights' port."""

    insights_port: int = Field(default=DEFAULT_PORTS["insights"], ge=0, le=65535, description="The port insights uses")
