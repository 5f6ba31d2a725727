"""The numbers under a plot: fitted lines, round ticks, thinning. For pages and terminals alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]

LARGEST = 1e30  # beyond it a reading is an overflow, and would flatten all others
MOST = 400  # points a line: more cannot be told apart


@dataclass(frozen=True)
class Fit:
    """y = slope x + intercept by least squares; r2 is the share of the variance it explains."""

    slope: float
    intercept: float
    r2: float


def number(value: float | None) -> str:
    """A number for people: four digits, no exponent where none is needed."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"  # also minus zero
    if 1e4 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.4g}"


def usable(value: float) -> bool:
    return math.isfinite(value) and abs(value) < LARGEST


def fit(points: Iterable[Point]) -> Fit | None:
    """The line of least squares; None on fewer than three points or when x or y never varies."""
    kept = [(x, y) for x, y in points if usable(x) and usable(y)]
    if len(kept) < 3:
        return None
    n = len(kept)
    middle_x = math.fsum(x for x, _ in kept) / n
    middle_y = math.fsum(y for _, y in kept) / n
    xx = math.fsum((x - middle_x) ** 2 for x, _ in kept)
    yy = math.fsum((y - middle_y) ** 2 for _, y in kept)
    xy = math.fsum((x - middle_x) * (y - middle_y) for x, y in kept)
    if xx <= 0 or yy <= 0:
        return None
    slope = xy / xx
    r2 = slope * (xy / yy)  # not over xx * yy, which is 0 for numbers that are small enough
    if not (usable(slope) and math.isfinite(r2)):
        return None
    return Fit(slope, middle_y - slope * middle_x, min(1.0, r2))


def running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Each y replaced by the mean of the `window` readings around it, fewer at the ends."""
    half = window // 2
    found = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, i - half) : i + half + 1]]
        found.append((x, math.fsum(near) / len(near)))
    return found


def thin(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most `most` points, each the mean of its neighbours: a long run stays a small page."""
    kept = [(x, y) for x, y in points if usable(x) and usable(y)]
    size = math.ceil(len(kept) / most) if kept else 1
    parts = [kept[i : i + size] for i in range(0, len(kept), size)]
    return [
        (math.fsum(x for x, _ in p) / len(p), math.fsum(y for _, y in p) / len(p)) for p in parts
    ]


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between the ends."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
