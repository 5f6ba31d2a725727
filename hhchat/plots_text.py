"""Plots of characters for a terminal: points with their fitted line, and sparklines.

Lines of text that fit a width; each piece carries what it is, so that a screen may colour it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hhchat.scales import Fit, Point, number, ticks, usable

Piece = tuple[str, str]  # text, and what it is: axis, line, early, late or last

BARS = "▁▂▃▄▅▆▇█"
EARLY, LATE, LAST = "·", "•", "★"
BRAILLE = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bits of a cell, row by column


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The last values as little bars; what is not a number is a gap."""
    recent = list(values)[-width:] if width > 0 else []
    known = [v for v in recent if math.isfinite(v)]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    return "".join(BARS[cell(v, low, high, len(BARS))] if math.isfinite(v) else " " for v in recent)


def cell(value: float, low: float, high: float, cells: int) -> int:
    """Which of `cells` equal cells between low and high a value falls in."""
    # Halved first, so that a range from -1e308 to 1e308 does not overflow.
    share = (value / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.0
    return max(0, min(cells - 1, round(share * (cells - 1))))


def scatter(
    points: Sequence[Point], width: int, height: int, up: str, along: str, line: Fit | None = None
) -> list[list[Piece]]:
    """Points in order of time with axes and the fitted line: `height` lines of at most `width`.

    The first half of the points is drawn small, the latest as a star. [] without a point or room.
    """
    known = [p for p in points if usable(p[0]) and usable(p[1])]
    rows = height - 3  # the head, the axis and its numbers
    if not known or rows < 2:
        return []
    left, right = _ends([x for x, _ in known])
    low, high = _ends([y for _, y in known])
    marks = {
        rows - 1 - cell(t, low, high, rows): number(t) for t in ticks(low, high, max(3, rows // 2))
    }
    margin = max(map(len, marks.values()), default=1)
    columns = width - margin - 2
    if columns < 8:
        return []
    grid: list[list[Piece]] = [[(" ", "axis")] * columns for _ in range(rows)]
    if line is not None:
        xs = [x for x, _ in known]
        _rule(grid, line, (min(xs), max(xs)), (left, right), (low, high))
    for at, (x, y) in enumerate(known):
        late = at >= len(known) // 2
        piece = (LATE, "late") if late else (EARLY, "early")
        if at == len(known) - 1:
            piece = (LAST, "last")
        grid[rows - 1 - cell(y, low, high, rows)][cell(x, left, right, columns)] = piece
    out: list[list[Piece]] = [[(f"{up:>{margin}}"[:width], "axis")]]
    for row, pieces in enumerate(grid):
        edge = "┤" if row in marks else "│"
        out.append([(f"{marks.get(row, ''):>{margin}} {edge}", "axis"), *_joined(pieces)])
    return [*out, *_foot(left, right, columns, margin, along)]


def _ends(values: Sequence[float]) -> Point:
    low, high = min(values), max(values)
    if high - low <= max(abs(high), abs(low)) * 1e-9:
        room = abs(high) * 0.1 or 0.5
        return low - room, high + room
    return low, high


def _rule(grid: list[list[Piece]], line: Fit, reach: Point, xs: Point, ys: Point) -> None:
    """The fitted line in dots, eight to a cell."""
    rows, columns = len(grid), len(grid[0])
    bits: dict[tuple[int, int], int] = {}
    for dot in range(2 * columns):
        x = xs[0] + dot / (2 * columns - 1) * (xs[1] - xs[0])
        y = line.slope * x + line.intercept
        if reach[0] <= x <= reach[1] and ys[0] <= y <= ys[1]:
            up = 4 * rows - 1 - cell(y, *ys, 4 * rows)
            place = (up // 4, dot // 2)
            bits[place] = bits.get(place, 0) | DOTS[up % 4][dot % 2]
    for (row, column), found in bits.items():
        grid[row][column] = (chr(BRAILLE + found), "line")


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbours of one kind as one piece, without blanks at the end."""
    found: list[Piece] = []
    last = max((i for i, (text, _) in enumerate(pieces) if text != " "), default=-1)
    for text, kind in pieces[: last + 1]:
        if found and (found[-1][1] == kind or text == " "):
            found[-1] = (found[-1][0] + text, found[-1][1])
        else:
            found.append((text, kind))
    return found


def _foot(left: float, right: float, columns: int, margin: int, along: str) -> list[list[Piece]]:
    axis, words = ["─"] * columns, [" "] * columns
    name = f" {along}"[:columns]
    free = columns - len(name)  # the name stands at the end
    for tick in ticks(left, right, max(2, columns // 12)):
        at, text = cell(tick, left, right, columns), number(tick)
        axis[at] = "┬"
        start = min(max(0, at - len(text) // 2), columns - len(text))
        clear = words[max(0, start - 1) : start + len(text) + 1]
        if start + len(text) <= free and all(c == " " for c in clear):
            words[start : start + len(text)] = text
    words[free:] = name
    pad = " " * (margin + 2)
    return [
        [(f"{' ' * (margin + 1)}└{''.join(axis)}", "axis")],
        [(pad + "".join(words).rstrip(), "axis")],
    ]
