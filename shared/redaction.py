"""What must not reach a log line or a span: personal data and secrets, told by key and by form."""

import re
import traceback
from collections.abc import Mapping

REFUSED = "[refused]"
# Keys that hold personal data or secrets, whatever stands before or after the word.
PERSONAL = re.compile(
    r"(^|[_.-])(e?mail|password|passwd|secret|token|authorization|cookie|api_?key|pepper|phone|address|first_?name"
    r"|last_?name|full_?name|birth_?date|sex|height|weight|latitude|longitude|ip)($|[_.-])"
)
# The same in free text: addresses, JWTs, our keys, bearer tokens.
SENSITIVE = re.compile(
    r"[\w.+-]+@[\w-]+\.[\w.-]+|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|\b(?:mmc|mmr|mms|mmt|whsec)_[\w+/=-]{8,}|(?i:bearer)\s+[\w.~+/=-]{8,}"
)
_known_keys: dict[str, bool] = {}
MAX_KNOWN_KEYS = 1000  # keys are names in our code; the bound is for a defect that makes them up


def personal(key: str) -> bool:
    """Whether `key` names personal data or a secret."""
    known = _known_keys.get(key)
    if known is None:
        known = PERSONAL.search(key.lower()) is not None
        if len(_known_keys) < MAX_KNOWN_KEYS:
            _known_keys[key] = known
    return known


def allowed(values: Mapping[str, object]) -> dict[str, object]:
    """`values` with those of personal keys replaced."""
    return {key: REFUSED if personal(key) else value for key, value in values.items()}


def scrubbed(text: str) -> str:
    """`text` without addresses, tokens and keys."""
    return SENSITIVE.sub(REFUSED, text)


def whereabouts(error: BaseException) -> str:
    """The exception's class and its innermost frames; never its message, which may quote what a user sent."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__} at " + " < ".join(
        f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno} {frame.name}" for frame in reversed(frames)
    )
