"""Whether two replies are so alike that a pick between them would teach nothing."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

LIMIT = 4000  # characters compared; difflib is quadratic
ALIKE = 0.96


def near_identical(first: str, second: str) -> bool:
    """True when the texts differ only in case, spacing, punctuation or a word in a hundred."""
    a, b = _words(first), _words(second)
    if a == b:
        return True
    if not a or not b or min(len(a), len(b)) < ALIKE * max(len(a), len(b)):
        return False
    if len(a) < 8:  # short replies differ by one word and still mean another thing
        return False
    return SequenceMatcher(None, a, b, autojunk=False).ratio() >= ALIKE


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text[:LIMIT].casefold()) or text[:LIMIT].split()
