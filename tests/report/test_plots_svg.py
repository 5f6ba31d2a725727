"""The drawing: the fitted line, the ticks, the bins, and numbers that cannot be drawn."""

from __future__ import annotations

import math
import re

import pytest

from hhchat import plots_svg as svg
from hhchat import scales
from hhchat.plots_svg import Series, Span
from hhchat.scales import Fit


def test_fit_is_least_squares() -> None:
    assert scales.fit([(0, 1), (1, 3), (2, 5)]) == Fit(2.0, 1.0, 1.0)
    found = scales.fit([(0, 0), (1, 1), (2, 0), (3, 1)])
    assert found is not None
    assert (found.slope, found.intercept, found.r2) == pytest.approx((0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    "points",
    [[], [(0, 0), (1, 1)], [(1, 0), (1, 1), (1, 2)], [(0, 1), (1, 1), (2, 1)]],
    ids=["none", "two", "one x", "one y"],
)
def test_no_line_is_fitted_where_there_is_none(points: list[tuple[float, float]]) -> None:
    assert scales.fit(points) is None


def test_ticks_are_round_and_inside() -> None:
    assert scales.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert scales.ticks(-0.1, 0.43) == pytest.approx([0, 0.2, 0.4])
    for low, high in ((1e-9, 2e-9), (-1e20, 1e20), (99.9, 100.1)):
        assert 3 <= len(scales.ticks(low, high)) <= 12


def test_a_long_line_is_thinned_by_means() -> None:
    points = [(float(i), float(i)) for i in range(10_000)]
    thinned = scales.thin([*points, (0.0, math.nan)])
    assert len(thinned) <= scales.MOST
    assert thinned[0] == (12.0, 12.0)


def test_running_mean_is_shorter_at_the_ends() -> None:
    points = [(0.0, 0.0), (1.0, 3.0), (2.0, 6.0)]
    assert scales.running_mean(points, 3) == [(0.0, 1.5), (1.0, 3.0), (2.0, 4.5)]


def test_whole_numbers_get_bins_that_hold_equally_many() -> None:
    drawn = svg.histogram("t", {"a": [float(i) for i in range(32)]}, "x")
    assert re.findall(r"a: (\d+) from", drawn) == ["2"] * 16


def test_every_value_is_in_one_bin() -> None:
    values = [0.1 * i for i in range(101)]
    drawn = svg.histogram("t", {"a": values, "b": [3.3]}, "x")
    assert sum(map(int, re.findall(r"a: (\d+) from", drawn))) == 101
    assert re.findall(r"b: (\d+) from", drawn) == ["1"]


@pytest.mark.parametrize("value", [0.0, 5.0, -3e-12, 1e25, -7.5])
def test_one_value_is_drawn_too(value: float) -> None:
    drawn = [
        svg.lines("t", [Series("a", [(0.0, value)])], "x", "y"),
        svg.lines("t", [Series("a", [(0.0, value), (1.0, value)])], "x", "y"),
        svg.scatter("t", {0: (abs(value), value)}, None, "x", "y"),
        svg.histogram("t", {"a": [value], "b": []}, "x"),
        svg.intervals("t", [Span("a", value, -math.inf, math.inf)], 0.0),
    ]
    for one in drawn:
        assert one.startswith("<svg")
        assert "nan" not in one
        assert "inf" not in one


def test_nothing_is_drawn_of_nothing() -> None:
    nothing = [math.nan, math.inf, 1e300]
    assert svg.lines("t", [Series("a", [(0.0, v) for v in nothing])], "x", "y") == ""
    assert svg.scatter("t", {0: (math.nan, 1.0)}, None, "x", "y") == ""
    assert svg.histogram("t", {"a": nothing}, "x") == ""
    assert svg.intervals("t", [Span("a", math.nan, None, None)], 0.0) == ""


def test_names_are_escaped() -> None:
    drawn = svg.lines("<t>", [Series('"<b>', [(0.0, 1.0)], dots=True)] * 2, "<x>", "<y>")
    drawn += svg.intervals("<t>", [Span("<b>", 1.0, 0.0, 2.0)], 0.0)
    drawn += svg.histogram("<t>", {"<b>": [1.0]}, "<x>")
    assert not re.search("<[btxy]>", drawn)


def test_a_line_through_next_to_nothing_is_no_line_and_no_error() -> None:
    tiny = 2.4585919534299725e-130
    assert scales.fit([(0.0, 0.0), (0.0, 0.0), (tiny, tiny)]) in (None, Fit(1.0, 0.0, 1.0))
    assert scales.fit([(0.0, 0.0), (0.0, 0.0), (5e-324, 1e29)]) is None


def test_numbers_for_people() -> None:
    shown = [scales.number(v) for v in (None, math.nan, math.inf, -0.0, 3.0, 12345.6, 0.12345)]
    assert shown == ["–", "–", "∞", "0", "3", "12346", "0.1235"]
