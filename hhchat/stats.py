"""Numbers with the intervals they deserve: Wilson, bootstrap, win rates, Elo.

Standard library only. All intervals are two-sided and 95% unless `level` says otherwise.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

from hhchat.types import Measurement

ELO_PER_NAT = 400 / math.log(10)  # 173.7: a preference-model score difference of 1 in Elo points


def z_of(level: float) -> float:
    """How many standard errors a two-sided interval of this level reaches: 1.96 for 0.95."""
    return statistics.NormalDist().inv_cdf(0.5 + level / 2)


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share; `successes` may be fractional (a tie is half a win)."""
    if n <= 0:
        return 0.0, 1.0
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n}")
    z, p = z_of(level), successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At 0 and n the formula gives exactly 0 and 1; rounding must not push it past the share.
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def bootstrap(
    values: Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean by resampling (percentile); the same seed gives the same interval.

    For a paired comparison give the differences: pairing is what makes 200 prompts enough.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values to resample")
    if n == 1:
        return -math.inf, math.inf  # one value says nothing about how far the mean may lie
    rng = random.Random(seed)
    means = sorted(math.fsum(rng.choices(values, k=n)) / n for _ in range(resamples))
    return quantile(means, (1 - level) / 2), quantile(means, (1 + level) / 2)


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values, interpolated between neighbours."""
    if not ordered:
        raise ValueError("no values")
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def mean(values: Sequence[float]) -> float:
    """The plain mean, summed without rounding drift; nan of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def share(name: str, successes: float, n: int, level: float = 0.95) -> Measurement:
    """A share with its Wilson interval."""
    low, high = wilson(successes, n, level)
    return Measurement(name, successes / n if n else math.nan, low, high, n)


def mean_of(
    name: str, values: Sequence[float], unit: str = "", level: float = 0.95, seed: int = 0
) -> Measurement:
    """A mean with its bootstrap interval."""
    low, high = bootstrap(values, level, seed=seed)
    return Measurement(name, mean(values), low, high, len(values), unit)


def win_rate(
    name: str, first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> Measurement:
    """How often the first of each pair scores higher; a tie counts half.

    Wilson with half wins: ties only shrink the true variance, so the interval errs on the wide
    side and stays sensible at 0 and 1, where the bootstrap's collapses to a point.
    """
    wins = math.fsum(
        1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(first, second, strict=True)
    )
    return share(name, wins, len(first), level)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x) without overflow at either end."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    e = math.exp(x)
    return e / (1 + e)


def win_rate_of_score(difference: float) -> float:
    """The chance that the reply scored `difference` higher is preferred (Bradley-Terry)."""
    return sigmoid(difference)


def elo_of_score(difference: float) -> float:
    """A preference-model score difference in Elo points: 1 is 174."""
    return ELO_PER_NAT * difference


def elo_of_win_rate(rate: float) -> float:
    """The Elo difference that gives this win rate: 0.57 is 49, 0.63 is 92, 1 is infinite."""
    if not 0 <= rate <= 1:
        raise ValueError(f"a win rate of {rate} is not between 0 and 1")
    if rate in (0, 1):
        return math.copysign(math.inf, rate - 0.5)
    return ELO_PER_NAT * (math.log(rate) - math.log1p(-rate))


def win_rate_of_elo(difference: float) -> float:
    """P(A beats B) = 1 / (1 + 10^(-(E_A - E_B) / 400))."""
    return sigmoid(difference / ELO_PER_NAT)
