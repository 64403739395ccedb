"""Settings of the local stack: its folders, ports and log level, from `MYMACRO_*` or a `.env` file."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "MYMACRO_"
ROOT = Path(__file__).resolve().parents[2]
Port = Annotated[int, Field(ge=1, le=65535)]


class StackSettings(BaseSettings):
    """Where one local instance keeps its data and which ports it listens on (all on 127.0.0.1)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=ROOT / ".env", extra="ignore")

    data: Path = Field(default=Path(".mymacro/data"), description="Folder of this instance's data, keys and logs")
    cluster: bool = Field(
        default=False,
        description="Run several of each, as up --cluster does; not set: commands take the stack that runs",
    )
    cluster_data: Path = Field(default=Path(".mymacro/cluster"), description="The same folder of a cluster")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Log level of every service"
    )
    host: str = Field(
        default="127.0.0.1", description="Address the gateway listens on; everything else stays on loopback"
    )
    ports_from: int = Field(
        default=0,
        ge=0,
        le=65_000,
        description="Where ports begin: the gateway has this one, the others below those after it, "
        "and a port that is set by itself stays; 0: each as below",
    )
    gateway_port: Port = Field(default=8080, description="The public API")
    auth_port: Port = Field(default=8101, description="auth, internal")
    ingest_port: Port = Field(default=8102, description="ingest, internal")
    inference_port: Port = Field(default=8103, description="inference, internal")
    nutrition_port: Port = Field(default=8104, description="nutrition, internal")
    insights_port: Port = Field(default=8105, description="insights, internal")
    webhooks_port: Port = Field(default=8106, description="webhooks, internal")
    kafka_port: Port = Field(default=19092, description="Kafka, clients")
    kafka_controller_port: Port = Field(default=19093, description="Kafka, its controller")
    triton_http_port: Port = Field(default=8120, description="Triton, HTTP")
    triton_grpc_port: Port = Field(default=8121, description="Triton, gRPC")
    triton_metrics_port: Port = Field(default=8122, description="Triton, metrics")
    otlp_port: Port = Field(default=8130, description="The supervisor's receiver of OpenTelemetry spans")
    demo_receiver_port: Port = Field(default=8140, description="Where the demo's partner receives webhooks")
    gateway_2_port: Port = Field(default=8081, description="In a cluster: the second gateway")
    auth_2_port: Port = Field(default=8201, description="In a cluster: the second auth")
    ingest_2_port: Port = Field(default=8202, description="In a cluster: the second ingest")
    ingest_3_port: Port = Field(default=8302, description="In a cluster: the third ingest")
    inference_2_port: Port = Field(default=8203, description="In a cluster: the second inference")
    nutrition_2_port: Port = Field(default=8204, description="In a cluster: the second nutrition")
    insights_2_port: Port = Field(default=8205, description="In a cluster: the second insights")
    webhooks_2_port: Port = Field(default=8206, description="In a cluster: the second webhooks")
    kafka_2_port: Port = Field(default=19094, description="In a cluster: the second broker, clients")
    kafka_2_controller_port: Port = Field(default=19095, description="In a cluster: the second broker, its controller")
    kafka_3_port: Port = Field(default=19096, description="In a cluster: the third broker, clients")
    kafka_3_controller_port: Port = Field(default=19097, description="In a cluster: the third broker, its controller")
    redis_port: Port = Field(default=8150, description="In a cluster: the Redis in which gateways count together")
    database_url: str = Field(
        default="",
        description="Where services keep documents (DATABASE_URL below); empty: SQLite files in the data folder",
    )
    kafka_heap_mb: int = Field(default=256, description="Java heap of each Kafka broker, MiB")
    only: str = Field(default="", description="Comma list of the processes to run; empty runs all of them")

    @model_validator(mode="after")
    def _ports_count_up(self) -> Self:
        if self.ports_from:
            single = set(self.model_fields_set)
            names = [name for name in type(self).model_fields if name.endswith("_port")]
            for port, name in enumerate(names, start=self.ports_from):
                if name not in single:
                    setattr(self, name, port)
        return self

    @model_validator(mode="after")
    def _a_folder_each(self) -> Self:
        if self.data == self.cluster_data:
            raise ValueError(f"MYMACRO_DATA and MYMACRO_CLUSTER_DATA are both {self.data}")
        return self

    @model_validator(mode="after")
    def _each_port_once(self) -> Self:
        owners: dict[int, str] = {}
        for name, value in self:
            if name.endswith("_port") and (other := owners.setdefault(value, name)) != name:
                variables = f"MYMACRO_{other.upper()} and MYMACRO_{name.upper()}"
                raise ValueError(f"{variables} are both {value}")
        return self


def wrong(error: ValueError) -> str:
    """What is wrong with which setting, as one sentence; values only of the stack's own, for others may be secret."""
    if not isinstance(error, ValidationError):
        return f"wrong settings: {error}."
    own = error.title == StackSettings.__name__
    found: list[str] = []
    for one in error.errors():
        said = one["msg"].removeprefix("Value error, ")
        name = str(one["loc"][0]).upper() if one["loc"] else ""
        shown = f"{PREFIX}{name}={one['input']}" if own else name
        found.append(f"{shown}: {said[0].lower()}{said[1:]}" if name else said)
    return f"wrong settings: {'; '.join(found)}."
