"""Elo by maximum likelihood: hand-worked cases, recovery of the truth, coverage, odd data."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hhchat.elo import (
    ELO_PER_NAT,
    elo_of_score,
    elo_of_win_rate,
    fit,
    score_of_elo,
    score_of_win_rate,
    solve,
    win_rate_of_elo,
    win_rate_of_score,
)
from hhchat.types import BadInput

TRUTH = {"start": 0.0, "first": 60.0, "second": 130.0, "third": -80.0}
Games = dict[tuple[str, str], float]


def played(seed: int, truth: dict[str, float], each: int) -> Games:
    """`each` games of every pair, drawn from the model itself."""
    rng = random.Random(seed)
    games: Games = {}
    for a, b in combinations(truth, 2):
        p = win_rate_of_elo(truth[a] - truth[b])
        games[a, b] = sum(rng.random() < p for _ in range(each))
        games[b, a] = each - games[a, b]
    return games


# -- conversions


def test_the_paper_s_numbers() -> None:
    assert abs(ELO_PER_NAT - 173.718) < 1e-3
    assert win_rate_of_score(1) == pytest.approx(0.731, abs=5e-4)
    assert elo_of_score(1) == pytest.approx(174, abs=0.5)
    for rate, elo in ((0.57, 49), (0.63, 92), (0.74, 182)):
        assert elo_of_win_rate(rate) == pytest.approx(elo, abs=0.6)


@given(st.floats(-30, 30))
def test_scores_go_round(score: float) -> None:
    assert score_of_elo(elo_of_score(score)) == pytest.approx(score, abs=1e-9)
    assert win_rate_of_elo(elo_of_score(score)) == pytest.approx(win_rate_of_score(score))
    # A win rate near 1 holds few digits of the score: what is lost is what a float cannot say.
    back = score_of_win_rate(win_rate_of_score(score))
    assert back == pytest.approx(score, abs=1e-15 * math.exp(abs(score)) * 4 + 1e-9)
    assert win_rate_of_score(score) + win_rate_of_score(-score) == pytest.approx(1)


@given(st.floats(1e-9, 1 - 1e-9))
def test_win_rates_go_round(rate: float) -> None:
    assert win_rate_of_elo(elo_of_win_rate(rate)) == pytest.approx(rate, rel=1e-6)
    assert win_rate_of_score(score_of_win_rate(rate)) == pytest.approx(rate, rel=1e-6)


def test_certainty_is_infinite() -> None:
    assert score_of_win_rate(1.0) == math.inf
    assert score_of_win_rate(0.0) == -math.inf
    assert win_rate_of_elo(1e6) == 1.0
    with pytest.raises(ValueError, match="win rate"):
        score_of_win_rate(1.5)


# -- the fit


def test_two_players_by_hand() -> None:
    """63 of 100 is ln(63/37) nats; the information of 100 games is 100 p (1 - p)."""
    [group] = fit({("b", "a"): 63, ("a", "b"): 37}, anchor="a")
    rating = group.rating("b")
    assert rating.elo == pytest.approx(ELO_PER_NAT * math.log(63 / 37))
    half = 1.959964 * ELO_PER_NAT / math.sqrt(100 * 0.63 * 0.37)
    assert rating.low == pytest.approx(rating.elo - half, abs=1e-4)
    assert rating.high == pytest.approx(rating.elo + half, abs=1e-4)
    assert (rating.games, rating.wins, group.games) == (100, 63, 100)
    zero = group.rating("a")
    assert (zero.elo, zero.low, zero.high) == (0, 0, 0)
    assert [r.player for r in group.ratings] == ["b", "a"]
    assert not group.regularised


def test_the_gradient_is_zero_at_the_fit() -> None:
    """Each player's expected wins are its wins: the maximum, seen from outside."""
    games = played(5, TRUTH, 40)
    [group] = fit(games)
    for name in TRUTH:
        expected = sum(
            (games[name, other] + games[other, name])
            * win_rate_of_elo(group.rating(name).elo - group.rating(other).elo)
            for other in TRUTH
            if other != name
        )
        assert expected == pytest.approx(group.rating(name).wins, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(TRUTH)), st.integers(1, 30))
def test_the_anchor_and_the_names_do_not_matter(seed: int, anchor: str, each: int) -> None:
    games = played(seed, TRUTH, each)
    [one], [other] = fit(games), fit(games, anchor)
    renamed = {"start": "z", "first": "y", "second": "x", "third": "w"}
    [third] = fit({(renamed[a], renamed[b]): n for (a, b), n in games.items()})
    for a, b in combinations(TRUTH, 2):
        gap, same = one.difference(a, b), other.difference(a, b)
        as_named = third.difference(renamed[a], renamed[b])
        assert gap.value == pytest.approx(same.value, abs=1e-4)
        assert gap.value == pytest.approx(as_named.value, abs=1e-4)
        assert gap.low == pytest.approx(same.low, abs=1e-3)
        assert gap.high == pytest.approx(-(one.difference(b, a).low or 0.0), abs=1e-6)


def test_the_truth_is_recovered_and_the_intervals_hold_it() -> None:
    """Four players, 100 games a pair: within 65 Elo in 95% of runs, 90 to 98% of intervals."""
    worst, inside, apart = [], [], []
    for seed in range(200):
        [group] = fit(played(seed, TRUTH, 100), "start")
        worst.append(max(abs(r.elo - TRUTH[r.player]) for r in group.ratings))
        inside += [r.low <= TRUTH[r.player] <= r.high for r in group.ratings if r.player != "start"]
        for a, b in combinations(TRUTH, 2):
            gap = group.difference(a, b)
            assert gap.low is not None
            assert gap.high is not None
            apart.append(gap.low <= TRUTH[a] - TRUTH[b] <= gap.high)
    assert sum(w <= 65 for w in worst) >= 190
    for held in (inside, apart):
        assert 0.90 <= sum(held) / len(held) <= 0.98


def test_equals_are_rarely_put_in_order() -> None:
    """Four equal players: any claim of an order is wrong, and 95% of runs make none."""
    equal = dict.fromkeys(TRUTH, 0.0)
    claims = [fit(played(seed, equal, 30))[0].supported() for seed in range(200)]
    assert sum(bool(c) for c in claims) <= 20


def test_an_order_is_claimed_where_there_is_one() -> None:
    [group] = fit(played(1, {"a": 0, "b": 200, "c": 400}, 200))
    assert group.ordered
    assert set(group.supported()) == {("c", "b"), ("b", "a"), ("c", "a")}
    [few] = fit(played(1, {"a": 0, "b": 20, "c": 400}, 30))
    assert not few.ordered
    assert ("c", "a") in few.supported()


# -- odd data


def test_no_games() -> None:
    assert fit({}) == []
    assert fit({("a", "b"): 0}) == []


def test_all_wins_are_regularised_and_said() -> None:
    [group] = fit({("b", "a"): 10}, anchor="a")
    assert group.regularised
    assert group.rating("b").elo == pytest.approx(ELO_PER_NAT * math.log(10.5 / 0.5))
    assert (group.rating("b").games, group.rating("b").wins) == (10, 10)
    assert group.supported() == [("b", "a")]
    [one] = fit({("b", "a"): 1}, anchor="a")
    assert one.supported() == []


def test_a_top_that_nobody_below_ever_beat_is_regularised() -> None:
    """Everyone won and lost, and yet the two above can be raised for ever."""
    games = {("a", "b"): 3, ("b", "a"): 2, ("c", "d"): 3, ("d", "c"): 2, ("a", "c"): 4}
    [group] = fit(games)
    assert group.regularised
    assert all(abs(r.elo) < 2000 for r in group.ratings)
    [closed] = fit({**games, ("d", "b"): 1})
    assert not closed.regularised


def test_a_lopsided_match_converges() -> None:
    [group] = fit({("a", "b"): 100_000, ("b", "a"): 1}, anchor="b")
    assert not group.regularised
    assert group.rating("a").elo == pytest.approx(2000)


def test_a_long_chain_converges() -> None:
    games: Games = {}
    for i in range(30):
        games[f"p{i:02}", f"p{i + 1:02}"] = 10
        games[f"p{i + 1:02}", f"p{i:02}"] = 90
    [group] = fit(games, anchor="p00")
    step = ELO_PER_NAT * math.log(9)
    assert group.rating("p30").elo == pytest.approx(30 * step, rel=1e-6)


def test_groups_that_no_game_connects_are_apart() -> None:
    games = {("a", "b"): 3, ("b", "a"): 2, ("c", "d"): 9, ("d", "c"): 8, ("e", "d"): 1}
    groups = fit({**games, ("d", "e"): 1})
    assert [sorted(r.player for r in g.ratings) for g in groups] == [["c", "d", "e"], ["a", "b"]]
    assert [g.anchor for g in groups] == ["c", "a"]
    assert fit(games, anchor="b")[0].anchor == "b"


def test_what_makes_no_sense_is_refused() -> None:
    for games in ({("a", "a"): 1}, {("a", "b"): -1}, {("a", "b"): math.nan}):
        with pytest.raises(ValueError, match="games of"):
            fit(games)
    with pytest.raises(BadInput, match="did you mean 'start'"):
        fit({("start", "b"): 1}, anchor="strat")


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_linear_systems(size: int, seed: int) -> None:
    rng = random.Random(seed)
    matrix = [[rng.gauss(0, 1) for _ in range(size)] for _ in range(size)]
    for i in range(size):
        matrix[i][i] += 5 * (1 if matrix[i][i] > 0 else -1) * size
    wanted = [[rng.gauss(0, 1)] for _ in range(size)]
    right = [[sum(a * w[0] for a, w in zip(row, wanted, strict=True))] for row in matrix]
    got = solve(matrix, right)
    assert [g[0] for g in got] == pytest.approx([w[0] for w in wanted], abs=1e-9)
    with pytest.raises(ZeroDivisionError):
        solve([[0.0]], [[1.0]])
