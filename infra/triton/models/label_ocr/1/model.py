"""The OCR model behind Triton: an encoded picture in, text lines with boxes and scores out.

Runs in Triton's Python stub, whose working directory is the instance folder. Every path is relative to it, because the
stub's Python is ASCII and onnxruntime can't open a path with other letters.
"""

import triton_python_backend_utils as pb_utils  # isort: skip  (puts the venv's packages on sys.path: must be first)

import hashlib
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from onnxruntime import InferenceSession, SessionOptions
from rapidocr import RapidOCR

THREADS = 2
CUDA = "CUDAExecutionProvider"
# Detection enlarges a picture to 736 px at least; a picture this low is one line and goes to recognition at once.
LINE_HEIGHT_PX = 64
PROBE_TEXT = "4125"
WEIGHTS = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}


def weights_folder() -> Path:
    """The folder of the wheel's ONNX files, as it is spelt on sys.path."""
    for entry in sys.path:
        folder = Path(entry) / "rapidocr" / "models"
        if folder.is_dir():
            return folder
    raise FileNotFoundError("rapidocr's models are not on sys.path")


def weights_sha256(files: list[Path]) -> str:
    """One SHA-256 over the contents of all weight files, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def open_session(path: Path, kind: str, device: str) -> InferenceSession:
    """A session on the GPU `device` if Triton's instance is of that kind ("GPU"), else on the CPU.

    It yields its cores while it waits: spinning doubled its CPU time beside a busy neighbour.

    Raises:
        TritonModelException: the GPU cannot be used; onnxruntime would go on without it.
    """
    options = SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if kind != "GPU":
        return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session = InferenceSession(str(path), options, providers=[(CUDA, {"device_id": device})])
    if CUDA not in session.get_providers():
        raise pb_utils.TritonModelException("onnxruntime cannot use the GPU; its log says what is missing")
    return session


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the weights."""
        cv2.setNumThreads(1)
        folder = weights_folder()
        paths = {part: folder / name for part, name in WEIGHTS.items()}
        self.sha256 = weights_sha256(list(paths.values()))
        # The classifier for lines upside down takes a lone "6 g" for "9 g".
        self.ocr = RapidOCR(params={"Global.log_level": "warning", "Global.use_cls": False})
        self.ocr.cfg._set_flag("allow_objects", True)
        for part, path in paths.items():
            self.ocr.cfg[part].session = open_session(
                path, args["model_instance_kind"], args["model_instance_device_id"]
            )
        self.warm_up()

    def warm_up(self) -> None:
        """Read a known picture, so that a model that can't read is never ready and the first photo is not slow."""
        # Square, because detection enlarges the shorter side to 736 px.
        picture = np.full((320, 320, 3), 255, np.uint8)
        cv2.putText(picture, PROBE_TEXT, (50, 180), cv2.FONT_HERSHEY_SIMPLEX, 2.5, (0, 0, 0), 5)
        if self.read(picture)[0] != [PROBE_TEXT]:
            raise pb_utils.TritonModelException("the OCR model does not read its start-up picture")

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; a picture that can't be decoded is an error of its own request only."""
        return [self.respond(request) for request in requests]

    def respond(self, request: Any) -> Any:
        """Read one picture."""
        encoded = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
        image = cv2.imdecode(np.ascontiguousarray(encoded), cv2.IMREAD_COLOR)
        if image is None:
            error = pb_utils.TritonError("IMAGE is not a decodable picture", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        texts, boxes, scores = self.read(image)
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("TEXT", np.array([text.encode() for text in texts], dtype=np.object_)),
                pb_utils.Tensor("BOX", boxes),
                pb_utils.Tensor("SCORE", scores),
                pb_utils.Tensor("WEIGHTS_SHA256", np.array([self.sha256.encode()], dtype=np.object_)),
            ]
        )

    def read(self, image: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The lines of a BGR picture: texts, boxes (n, 4 corners, x and y in pixels) and scores (n, 0 to 1)."""
        height, width = image.shape[:2]
        one_line = height <= LINE_HEIGHT_PX
        result = self.ocr(image, use_det=not one_line)
        texts = [] if result.txts is None else [str(text) for text in result.txts]
        boxes = np.zeros((0, 4, 2)) if one_line or not texts else result.boxes
        if one_line and texts:
            boxes = np.array([[[0, 0], [width, 0], [width, height], [0, height]]])
        return texts, np.asarray(boxes, np.float32), np.asarray(result.scores if texts else [], np.float32)
