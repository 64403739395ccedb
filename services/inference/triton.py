"""The client of NVIDIA Triton, and the only place that knows its exceptions."""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import asyncio
import os
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from services.inference.table import Line, Point
from shared.errors import Rejected, Unavailable
from shared.telemetry import current_traceparent

# Read when gRPC is imported: else it hooks into each fork of the front door, and says so on stderr.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

MODEL = "label_ocr"
# gRPC would wait up to 120 s before it looks again for a Triton that was restarted.
CHANNEL = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
PROBE_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class OcrResult:
    """The lines of a picture, and the SHA-256 over the weights that read them."""

    lines: list[Line]
    weights_sha256: str


class Ocr(Protocol):
    """What the workers need of Triton."""

    async def read(self, picture: bytes) -> OcrResult:
        """The lines of an encoded picture. Raises `Unavailable("triton")`, `Rejected` for an undecodable picture."""
        ...

    async def answers(self) -> bool:
        """Whether the model is loaded."""
        ...

    async def close(self) -> None:
        """Release the connection."""
        ...


class TritonOcr:
    """OCR by gRPC; made on the running loop by the first call."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._client: Any = None

    async def read(self, picture: bytes) -> OcrResult:
        """The lines of an encoded picture, within the time-out.

        Raises:
            Unavailable: ("triton") no answer, or the model's process is dead.
            Rejected: Triton can't decode the picture.
        """
        image: Any = InferInput("IMAGE", [len(picture)], "UINT8")
        image.set_data_from_numpy(np.frombuffer(picture, dtype=np.uint8))
        # Triton records whatever carries a trace's id, so one that is not kept stays at home.
        traceparent = current_traceparent() or ""
        headers = {"traceparent": traceparent} if traceparent.endswith("-01") else None
        try:
            # gRPC's own deadline does not run while a channel is being opened.
            async with asyncio.timeout(self._timeout_s + 1):
                result = await self._opened().infer(MODEL, [image], headers=headers, client_timeout=self._timeout_s)
        except InferenceServerException as error:
            raise _translated(error) from error
        except TimeoutError as error:
            raise Unavailable("triton") from error
        return _ocr_result(result)

    async def answers(self) -> bool:
        """Whether Triton says that the model is loaded; says nothing about the model's process."""
        try:
            return bool(await self._opened().is_model_ready(MODEL, client_timeout=PROBE_TIMEOUT_S))
        except InferenceServerException:
            return False

    async def close(self) -> None:
        """Close the channel."""
        if self._client is not None:
            await self._client.close()

    def _opened(self) -> Any:
        if self._client is None:
            self._client = InferenceServerClient(self._address, channel_args=CHANNEL)
        return self._client


def _translated(error: InferenceServerException) -> Exception:
    """Triton being away or its model's process dead is "later"; only a bad picture is the picture's fault."""
    if error.status() == "StatusCode.INVALID_ARGUMENT":
        return Rejected("damaged-picture", "The picture can't be decoded; take and send it again.")
    return Unavailable("triton")


def _ocr_result(result: Any) -> OcrResult:
    texts, boxes, scores = (result.as_numpy(name) for name in ("TEXT", "BOX", "SCORE"))
    lines = [
        Line(text.decode(), cast(tuple[Point, Point, Point, Point], tuple(map(tuple, box))), score)
        for text, box, score in zip(texts.tolist(), boxes.tolist(), scores.tolist(), strict=True)
    ]
    return OcrResult(lines, result.as_numpy("WEIGHTS_SHA256")[0].decode())
