"""Identifiers that sort by age: 26 characters of base 32, the milliseconds in the first ten."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
VALUES = {c: i for i, c in enumerate(ALPHABET)}

_lock = threading.Lock()
_last = 0


def encode(number: int) -> str:
    """A 128-bit number as 26 characters."""
    return "".join(ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def decode(text: str) -> int:
    """The number that `encode` turned into `text`."""
    number = 0
    for c in text:
        number = number << 5 | VALUES[c]
    return number


def new_id(after: str | None = None) -> str:
    """A fresh id, greater than every id this process has made and greater than `after`.

    Giving the table's greatest id as `after`, inside the write transaction, makes ids rise in
    commit order across processes and across a clock that is set back: that is what lets an id
    serve as a cursor ("comparisons since the last run") that misses nothing.
    """
    global _last
    with _lock:
        fresh = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
        floor = max(_last, decode(after) if after else 0)
        _last = fresh if fresh > floor else floor + 1
        return encode(_last)


def now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
