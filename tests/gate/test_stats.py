"""Intervals that are too narrow promote noise; ones that are too wide never promote."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hhchat import stats

RATES = st.floats(0.001, 0.999)


@pytest.mark.parametrize(("rate", "elo"), [(0.57, 49), (0.63, 92), (0.74, 182), (0.5, 0)])
def test_win_rates_become_the_papers_elo_differences(rate: float, elo: float) -> None:
    assert round(stats.elo_of_win_rate(rate)) == elo


def test_one_unit_of_score_is_174_elo_and_73_percent() -> None:
    assert round(stats.elo_of_score(1)) == 174
    assert round(stats.win_rate_of_score(1), 3) == 0.731


@given(RATES)
def test_elo_and_win_rate_are_inverses(rate: float) -> None:
    assert stats.win_rate_of_elo(stats.elo_of_win_rate(rate)) == pytest.approx(rate)


@given(st.floats(-1e6, 1e6))
def test_no_score_difference_overflows(difference: float) -> None:
    assert 0 <= stats.win_rate_of_score(difference) <= 1
    assert stats.sigmoid(difference) + stats.sigmoid(-difference) == pytest.approx(1)


def test_certain_wins_are_infinitely_far_ahead_and_nonsense_is_refused() -> None:
    assert stats.elo_of_win_rate(1) == math.inf
    assert stats.elo_of_win_rate(0) == -math.inf
    with pytest.raises(ValueError, match="not between"):
        stats.elo_of_win_rate(1.5)


def test_wilson_agrees_with_a_published_value() -> None:
    low, high = stats.wilson(10, 20)
    assert (round(low, 4), round(high, 4)) == (0.2993, 0.7007)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.floats(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_between_0_and_1(case: tuple[float, int]) -> None:
    wins, n = case
    low, high = stats.wilson(wins, n)
    assert 0 <= low <= wins / n <= high <= 1


def test_wilson_of_nothing_is_everything() -> None:
    assert stats.wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes"):
        stats.wilson(3, 2)


@pytest.mark.parametrize(("p", "n"), [(0.5, 30), (0.7, 60), (0.95, 40)])
def test_wilson_covers_the_truth_about_95_times_in_100(p: float, n: int) -> None:
    rng = random.Random(1)
    covered = 0
    for _ in range(1500):
        low, high = stats.wilson(sum(rng.random() < p for _ in range(n)), n)
        covered += low <= p <= high
    assert 0.92 < covered / 1500 < 0.985


def test_the_bootstrap_covers_the_truth_about_95_times_in_100() -> None:
    rng = random.Random(2)
    covered = 0
    for trial in range(200):
        values = [rng.gauss(0.3, 1) for _ in range(100)]
        low, high = stats.bootstrap(values, resamples=300, seed=trial)
        covered += low <= 0.3 <= high
    assert covered > 180


def test_the_bootstrap_agrees_with_the_normal_interval_on_many_values() -> None:
    rng = random.Random(3)
    values = [rng.gauss(1, 2) for _ in range(400)]
    low, high = stats.bootstrap(values)
    half = 1.96 * statistics.stdev(values) / 20
    assert low == pytest.approx(statistics.mean(values) - half, abs=0.05)
    assert high == pytest.approx(statistics.mean(values) + half, abs=0.05)
    assert stats.bootstrap(values) == (low, high)  # the same seed, the same interval


def test_a_single_value_proves_nothing() -> None:
    assert stats.bootstrap([3.0]) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="no values"):
        stats.bootstrap([])


def test_ties_count_half_and_identical_assistants_win_half() -> None:
    rate = stats.win_rate("w", [1, 1, 2, 0], [1, 0, 3, 0])
    assert (rate.value, rate.n) == (0.5, 4)
    same = stats.win_rate("w", [1.0] * 50, [1.0] * 50)
    assert same.value == 0.5
    assert same.low is not None
    assert same.low < 0.5
    with pytest.raises(ValueError, match="zip"):
        stats.win_rate("w", [1], [1, 2])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_lie_inside_the_values(values: list[float], q: float) -> None:
    ordered = sorted(values)
    assert ordered[0] <= stats.quantile(ordered, q) <= ordered[-1]
