"""Whether a preference model's scores mean what they say: P(A over B) = sigmoid(score A - score B).

Every pair is read from its better-scored side, so its confidence lies between a half and one
(Bai et al. 2022, Fig. 9). A gap is the preferred reply's score minus the other's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hhchat.stats import sigmoid, wilson

BINS = 10
FEWEST = 12  # pairs a bin: fewer say nothing


@dataclass(frozen=True)
class Bin:
    """Pairs of like confidence: the mean confidence, and the share that was really preferred."""

    confidence: float
    share: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Calibration:
    """`error` is the expected calibration error; `temperature` divides gaps to mend them."""

    bins: tuple[Bin, ...]
    error: float
    temperature: float | None
    low: float | None
    high: float | None
    n: int


def calibrate(gaps: Sequence[float]) -> Calibration | None:
    """Reliability in bins of equal count, with Wilson intervals; None without a usable gap."""
    pairs = sorted(
        (sigmoid(abs(g)), 1.0 if g > 0 else 0.5 if g == 0 else 0.0)
        for g in gaps
        if math.isfinite(g)
    )
    n = len(pairs)
    if not n:
        return None
    count = max(1, min(BINS, n // FEWEST))
    bins = []
    for i in range(count):
        part = pairs[i * n // count : (i + 1) * n // count]
        right = math.fsum(r for _, r in part)
        low, high = wilson(right, len(part))
        confidence = math.fsum(c for c, _ in part) / len(part)
        bins.append(Bin(confidence, right / len(part), low, high, len(part)))
    error = math.fsum(b.n / n * abs(b.confidence - b.share) for b in bins)
    return Calibration(tuple(bins), error, *_temperature(gaps), n)


def _temperature(gaps: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """The temperature of highest likelihood with its interval; None where the pairs set no bound.

    The likelihood is concave in a = 1 / temperature, so its slope crosses 0 once at most.
    """
    most = 1e100  # no score is; sums of squares stay finite
    kept = [min(max(g, -most), most) for g in gaps if math.isfinite(g)]

    def slope(a: float) -> float:
        return math.fsum(g * sigmoid(-a * g) for g in kept)

    low, high = 1e-3, 1e3
    if len(kept) < FEWEST or slope(low) <= 0 or slope(high) >= 0:
        return None, None, None  # no better than guessing, or never wrong
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    a = math.sqrt(low * high)
    information = math.fsum(g * g * sigmoid(a * g) * sigmoid(-a * g) for g in kept)
    half = 1.96 / math.sqrt(information) if information > 0 else math.inf
    return 1 / a, 1 / (a + half), 1 / (a - half) if a > half else None
