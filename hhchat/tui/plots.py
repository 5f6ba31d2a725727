"""Bars and intervals from block characters: read by their shape, so colour adds nothing.

Everything here but `painted` gives plain lines of text that fit a width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from textual.content import Content

from hhchat.text import one_line

FULL, EMPTY = "█", "░"
EIGHTHS = " ▏▎▍▌▋▊▉█"
LABEL = 26  # the widest a label gets; narrower on small screens
PAINT = (
    (re.compile(f"[{FULL}{EIGHTHS[1:]}├─┤┼●◂▸]+"), "$primary"),
    (re.compile(f"{EMPTY}+"), "$frame"),
    (re.compile("┊"), "$foreground-muted"),
)
SMALLEST = 12  # columns a plot needs to say anything


@dataclass(frozen=True)
class Row:
    """A value with its interval. `words` says it in numbers."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    words: str = ""


def painted(lines: Sequence[str]) -> Content:
    """The lines as content, with quiet colours on what is drawn of block characters."""
    text = Content("\n".join(lines))
    for pattern, style in PAINT:
        for found in pattern.finditer(text.plain):
            text = text.stylize(style, found.start(), found.end())
    return text


def bar(share: float, width: int) -> str:
    """A bar filled to `share`, with eighths of a cell."""
    share = min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    head = FULL * full + (EIGHTHS[rest] if rest else "")
    return head + EMPTY * (width - len(head))


def intervals(rows: Sequence[Row], width: int, mark: float, unit: str = "") -> list[str]:
    """A line each: label, `├──●──┤` on one common axis with a line at `mark`, and the numbers.

    The last line is the axis. An end that runs out of the axis is an arrow head.
    """
    if not rows:
        return []
    label = min(LABEL, max(8, width // 4), max(cell_len(one_line(r.label, 80)) for r in rows))
    words = max(cell_len(r.words) for r in rows)
    plot = width - label - words - 3
    if plot < SMALLEST:  # no room for both: the numbers matter more
        return [f"{_fit(r.label, label)} {r.words}".rstrip() for r in rows]
    low, high = _axis(rows, mark)
    lines = [
        f"{_fit(r.label, label)} {_interval(r, low, high, mark, plot)}  {r.words}".rstrip()
        for r in rows
    ]
    return [*lines, f"{' ' * label} {_scale(low, high, mark, plot, unit)}"]


def _axis(rows: Sequence[Row], mark: float) -> tuple[float, float]:
    """From the lowest to the highest value and the mark, with room for intervals, but not for
    all of an interval that is wild: it would press the rest to a point."""
    values = [mark, *(r.value for r in rows)]
    low, high = min(values), max(values)
    span = max(high - low, 1e-9)
    ends = [e for r in rows for e in (r.low, r.high) if e is not None and math.isfinite(e)]
    reach = [e for e in ends if low - 3 * span <= e <= high + 3 * span]
    low, high = min([low, *reach]), max([high, *reach])
    if high <= low:
        return low - 1, high + 1
    room = 0.05 * (high - low)  # for the arrow heads of what leaves the axis
    return (
        low - room if len(reach) < len(ends) and min(ends) < low else low,
        high + room if len(reach) < len(ends) and max(ends) > high else high,
    )


def _interval(row: Row, low: float, high: float, mark: float, width: int) -> str:
    cells = [" "] * width
    cells[_cell(mark, low, high, width)] = "┊"
    start = _cell(row.value if row.low is None else row.low, low, high, width)
    end = _cell(row.value if row.high is None else row.high, low, high, width)
    for i in range(start, end + 1):
        cells[i] = "─" if cells[i] == " " else "┼"
    if row.low is not None:
        cells[start] = "◂" if row.low < low else "├"
    if row.high is not None:
        cells[end] = "▸" if row.high > high else "┤"
    cells[_cell(row.value, low, high, width)] = "●"
    return "".join(cells)


def _scale(low: float, high: float, mark: float, width: int, unit: str) -> str:
    def words(value: float) -> str:
        return f"{value:.0%}" if unit == "%" else f"{value:+.0f}" if value else "0"

    cells = list(words(low).ljust(width))
    right = words(high)
    middle, at = words(mark), _cell(mark, low, high, width)
    start = max(0, min(width - len(middle), at - len(middle) // 2))
    left_free = start > len(words(low)) and mark > low
    right_free = start + len(middle) < width - len(right) and mark < high
    cells[width - len(right) :] = right
    if left_free and right_free:
        cells[start : start + len(middle)] = middle
    return "".join(cells)


def _cell(value: float, low: float, high: float, width: int) -> int:
    share = (value - low) / (high - low) if math.isfinite(value) else float(value > 0)
    return min(width - 1, max(0, round(share * (width - 1))))


def _fit(text: str, width: int) -> str:
    """Padded, or cut with an ellipsis."""
    text = one_line(text, 200)
    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…"
    return set_cell_size(text, width)
