"""Logs: one JSON object a line on standard output, with the trace and the bound ids, without personal data."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

import pydantic

from shared import spans
from shared.redaction import allowed, scrubbed

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
# Libraries that talk, and the level from which we listen.
QUIET = {
    "uvicorn.access": logging.CRITICAL,
    "uvicorn.error": logging.WARNING,
    "aiokafka": logging.ERROR,  # it warns at each reconnect; our own middleware says what matters, once
    "kafka": logging.ERROR,
    "faststream": logging.WARNING,
    "opentelemetry": logging.CRITICAL,
    "asyncio": logging.WARNING,
    "pymongo": logging.WARNING,  # below it quotes whole commands
    "httpx2": logging.WARNING,
    "aiohttp.access": logging.CRITICAL,
}


class JsonFormatter(logging.Formatter):
    """time, level, service, instance where it has a name, logger, message, trace_id, then bound ids and extras."""

    def __init__(self, service: str, instance: str = "") -> None:
        super().__init__()
        self._process = {"service": service} | ({"instance": instance} if instance else {})

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._process,
            "logger": record.name,
            "message": scrubbed(record.getMessage()),
        }
        trace_id = spans.current_trace_id()
        if trace_id is not None:
            line["trace_id"] = trace_id
        extras = {key: value for key, value in vars(record).items() if key not in STANDARD}
        for key, value in allowed({**spans.bound_ids(), **extras}).items():
            line.setdefault(key, scrubbed(value) if isinstance(value, str) else value)
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = described(record.exc_info[1])
        return json.dumps(line, default=_plain, ensure_ascii=False)


def configure(service: str, level: str, instance: str = "") -> None:
    """Send what we and all libraries log to standard output as JSON, the chatty ones only from warnings up."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service, instance))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name, lowest in QUIET.items():
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(lowest)
    logging.captureWarnings(True)


def described(error: BaseException) -> str:
    """The trace of `error` and its causes; of pydantic's errors only where and what, for they quote the input."""
    whole = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = whole
    cause: BaseException | None = error
    while part is not None and cause is not None:
        if isinstance(cause, pydantic.ValidationError):
            wrong = (f"{'.'.join(map(str, item['loc']))}: {item['type']}" for item in cause.errors())
            # No public attribute holds the text.
            part._str = "; ".join(wrong)  # type: ignore[attr-defined]
        part = part.__cause__ or part.__context__
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return scrubbed("".join(whole.format()).rstrip())


def _plain(value: object) -> str:
    return scrubbed(str(value))
