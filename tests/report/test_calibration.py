"""How far the preference model's own certainty can be believed."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hhchat.calibration import BINS, calibrate
from hhchat.stats import sigmoid


def answers(scale: float, n: int = 4000, seed: int = 0) -> list[float]:
    """Gaps of a model that says `scale` times the true difference of utility."""
    rng = random.Random(seed)
    gaps = []
    for _ in range(n):
        true = rng.gauss(0, 1.5)
        gaps.append(scale * (true if rng.random() < sigmoid(true) else -true))
    return gaps


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_model_that_exaggerates_is_found_out_and_by_how_much(scale: float) -> None:
    found = calibrate(answers(scale))
    assert found is not None
    assert found.temperature == pytest.approx(scale, rel=0.08)
    assert found.low is not None
    assert found.high is not None
    assert found.low < scale < found.high
    assert (found.error < 0.03) == (scale == 1.0)
    above = [b.share < b.confidence for b in found.bins[3:]]
    assert scale == 1.0 or all(above) == (scale > 1) != any(not x for x in above)


def test_bins_hold_all_pairs_in_equal_numbers_with_intervals() -> None:
    found = calibrate(answers(1.0, 1003))
    assert found is not None
    assert len(found.bins) == BINS
    assert sum(b.n for b in found.bins) == found.n == 1003
    assert max(b.n for b in found.bins) - min(b.n for b in found.bins) <= 1
    assert all(b.low <= b.share <= b.high for b in found.bins)
    few = calibrate(answers(1.0, 30))
    assert few is not None
    assert len(few.bins) == 2


@pytest.mark.parametrize("gaps", [[1.0] * 50, [-1.0] * 50, [0.0] * 50, [2.0, -2.0]])
def test_no_temperature_is_made_up_where_pairs_set_no_bound(gaps: list[float]) -> None:
    found = calibrate(gaps)
    assert found is not None
    assert found.temperature is None


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=80))
@example([0.0] * 10 + [-6.9e293, -1.7976931348623157e308])
def test_no_score_whatever_breaks_it(gaps: list[float]) -> None:
    found = calibrate(gaps)
    if not any(math.isfinite(g) for g in gaps):
        assert found is None
    else:
        assert found is not None
        assert 0 <= found.error <= 1
        assert found.temperature is None or found.temperature > 0
