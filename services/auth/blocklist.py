"""Passwords that guessers try first: a list of well-known ones, and rules for what people make of them.

A password is common when little is left of it once well-known words, keyboard rows, sequences, repeats, dates and
the user's own address are taken out. So one line of the list stands for all its forms with digits and signs.
"""

import string
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

PRODUCT = ("mymacrotracker", "mymacro", "macrotracker", "macros", "macro", "tracker")
ROWS = ("qwertzuiop", "qwertyuiop", "azertyuiop", "asdfghjkl", "qsdfghjklm", "yxcvbnm", "zxcvbnm", "wxcvbn")
COLUMNS = (
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
    "qazwsxedcrfvtgbyhnujmikolp",
    "1q2w3e4r5t6y7u8i9o0p",
    "q1w2e3r4t5y6u7i8o9p0",
)
LINES = (*ROWS, *COLUMNS, string.ascii_lowercase, string.digits + "0", "1234567890" * 2)
RUNS = frozenset((*LINES, *(line[::-1] for line in LINES)))
UNLEET = str.maketrans("0134578@$!", "oieastbasi")
SHORTEST_WORD = 4
SHORTEST_CONTEXT = 3
SHORTEST_RUN = 3
LONGEST_DATE = 8
# A password of more different parts, or with more beside them, is not told by this list.
MOST_PARTS = 2
MOST_REST = 3
FEWEST_CHARACTERS = 5
SHORTEST_UNIT = 8


def is_common(password: str, context: Sequence[str] = ()) -> bool:
    """Whether guessers try it early; `context` are words that others know of its owner, such as the address."""
    folded = unicodedata.normalize("NFKC", password).casefold()
    known = _known(context)
    plain = "".join(character for character in folded if character.isalnum())
    unleeted = "".join(character for character in folded.translate(UNLEET) if character.isalnum())
    # Without letters or digits nothing is known of it but how varied it is.
    return len(set(folded)) < FEWEST_CHARACTERS or any(_is_weak(text, known) for text in (plain, unleeted) if text)


def _is_weak(text: str, known: frozenset[str]) -> bool:
    unit = _unit(text)
    if unit != text and len(unit) < SHORTEST_UNIT:
        return True
    longest = max(map(len, known))
    parts: set[str] = set()
    rest = 0
    at = 0
    while at < len(unit):
        length = _longest_part(unit, at, known, longest)
        if length:
            parts.add(unit[at : at + length])
        else:
            rest += 1
        if len(parts) > MOST_PARTS or rest > MOST_REST:
            # At once: to the end of a kilobyte of ligatures it took 250 ms.
            return False
        at += length or 1
    return True


def _unit(text: str) -> str:
    """The shortest text that `text` repeats, itself if none."""
    return text[: (text + text).index(text, 1)] if text else text


def _longest_part(text: str, at: int, known: frozenset[str], longest_word: int) -> int:
    """How long the longest well-known part is that begins at `at`, 0 for none."""
    longest = max(_same(text, at), _run(text, at), _date(text, at))
    for end in range(min(len(text), at + longest_word), at + longest, -1):
        if text[at:end] in known:
            return end - at
    return longest


def _same(text: str, at: int) -> int:
    end = at
    while end < len(text) and text[end] == text[at]:
        end += 1
    return end - at if end - at >= SHORTEST_RUN else 0


def _run(text: str, at: int) -> int:
    end = at + SHORTEST_RUN
    if not any(text[at:end] in run for run in RUNS) or end > len(text):
        return 0
    while end < len(text) and any(text[at : end + 1] in run for run in RUNS):
        end += 1
    return end - at


def _date(text: str, at: int) -> int:
    end = at
    while end < len(text) and text[end].isdigit():
        end += 1
    return end - at if end - at <= LONGEST_DATE else 0


def _known(context: Sequence[str]) -> frozenset[str]:
    own = {part for word in context for part in _pieces(word)}
    return _listed() | own


def _pieces(word: str) -> Iterable[str]:
    """A context word whole, its pieces between signs, and the pieces without their digits."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    whole = "".join(character for character in folded if character.isalnum())
    pieces = "".join(character if character.isalnum() else " " for character in folded).split()
    candidates = {whole, *pieces, *(piece.strip(string.digits) for piece in pieces)}
    for piece in candidates:
        for form in (piece, piece.translate(UNLEET)):
            if len(form) >= SHORTEST_CONTEXT:
                yield form


@cache
def _listed() -> frozenset[str]:
    """The list that ships with the package, one word or more a line; lines that begin with # are remarks."""
    text = files(__package__ or "services.auth").joinpath("common_passwords.txt").read_text(encoding="utf-8")
    words = {word for line in text.splitlines() if not line.startswith("#") for word in line.split()}
    return frozenset(word for word in words | set(PRODUCT) if len(word) >= SHORTEST_WORD)
