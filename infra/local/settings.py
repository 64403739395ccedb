"""Settings of the local stack: its folders, ports and log level, from `MYMACRO_*` or a `.env` file."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[2]


class StackSettings(BaseSettings):
    """Where one local instance keeps its data and which ports it listens on (all on 127.0.0.1)."""

    model_config = SettingsConfigDict(env_prefix="MYMACRO_", env_file=ROOT / ".env", extra="ignore")

    data: Path = Field(Path(".mymacro/data"), description="Folder of this instance's data, keys and logs")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Log level of every service")
    host: str = Field("127.0.0.1", description="Address the gateway listens on; everything else stays on loopback")
    gateway_port: int = Field(8080, description="The public API")
    auth_port: int = Field(8101, description="auth, internal")
    ingest_port: int = Field(8102, description="ingest, internal")
    inference_port: int = Field(8103, description="inference, internal")
    nutrition_port: int = Field(8104, description="nutrition, internal")
    insights_port: int = Field(8105, description="insights, internal")
    webhooks_port: int = Field(8106, description="webhooks, internal")
    kafka_port: int = Field(19092, description="Kafka, clients")
    kafka_controller_port: int = Field(19093, description="Kafka, its controller")
    triton_http_port: int = Field(8120, description="Triton, HTTP")
    triton_grpc_port: int = Field(8121, description="Triton, gRPC")
    triton_metrics_port: int = Field(8122, description="Triton, metrics")
    otlp_port: int = Field(8130, description="The supervisor's receiver of OpenTelemetry spans")
    demo_receiver_port: int = Field(8140, description="Where the demo's partner receives webhooks")
    kafka_heap_mb: int = Field(256, description="Kafka's Java heap, MiB")
    only: str = Field("", description="Comma list of the processes to run; empty runs all of them")
