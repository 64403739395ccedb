"""What inference reads from its environment."""

from pydantic import Field, field_validator

from shared.settings import DEFAULT_PORTS, ServiceSettings, is_host_and_port


class Settings(ServiceSettings):
    """Shared settings and inference's own."""

    inference_port: int = Field(
        default=DEFAULT_PORTS["inference"], ge=0, le=65535, description="The port inference uses"
    )
    inference_triton_url: str = Field(default="127.0.0.1:8121", description="Triton's gRPC address, host:port")
    inference_triton_timeout_s: float = Field(
        default=30.0, gt=0, description="How long one picture may take in Triton before it is tried again"
    )
    inference_concurrency: int = Field(
        default=2, ge=1, le=64, description="Pictures worked on at a time: one in Triton, one at the front door"
    )

    @field_validator("inference_triton_url")
    @classmethod
    def _is_triton(cls, text: str) -> str:
        if not is_host_and_port(text):
            raise ValueError("write host:port, without a scheme, such as 127.0.0.1:8121")
        return text
