"""What ingest reads from its environment."""

from pydantic import Field

from shared.settings import DEFAULT_PORTS, ServiceSettings


class Settings(ServiceSettings):
    """The common settings, and ingest's port."""

    ingest_port: int = Field(default=DEFAULT_PORTS["ingest"], ge=0, le=65535, description="The port ingest uses")
    ingest_day_workers: int = Field(default=8, ge=1, le=100, description="Days computed at once")
