"""Elo by maximum likelihood: which player the picks put first, and whether they support it.

A player with Elo E has rating r = E ln 10 / 400. N_A picks of A over B and N_B of B over A have
the log-likelihood of section B.5,

    -N_A log(1 + e^(r_B - r_A)) - N_B log(1 + e^(r_A - r_B)),

which Newton's method maximises; the inverse of its Hessian gives the intervals. Ties and unsure
picks are no games and have to be left out before. Only differences are known, so one player of
each group that is connected by games is the anchor at 0. Standard library only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hhchat.stats import (
    ELO_PER_NAT,
    elo_of_score,
    elo_of_win_rate,
    sigmoid,
    win_rate_of_elo,
    win_rate_of_score,
    z_of,
)
from hhchat.types import BadInput, Measurement, nearest

__all__ = [
    "ELO_PER_NAT",
    "Group",
    "Rating",
    "elo_of_score",
    "elo_of_win_rate",
    "fit",
    "score_of_elo",
    "score_of_win_rate",
    "win_rate_of_elo",
    "win_rate_of_score",
]

PSEUDO = 0.5  # games lent to either side of each pair that met, where the likelihood has no top
STEPS = 100
TOLERANCE = 1e-10

Games = Mapping[tuple[str, str], float]  # (winner, loser) -> how often
Matrix = list[list[float]]


def score_of_elo(difference: float) -> float:
    """An Elo difference as a difference of preference-model scores: 174 is 1."""
    return difference / ELO_PER_NAT


def score_of_win_rate(rate: float) -> float:
    """The score difference that gives this win rate: 0.731 is 1."""
    return score_of_elo(elo_of_win_rate(rate))


@dataclass(frozen=True)
class Rating:
    """A player's Elo against the anchor, with its interval."""

    player: str
    elo: float
    low: float
    high: float
    games: int
    wins: int


@dataclass(frozen=True)
class Group:
    """Players connected by games, best first. Nothing is known between two groups."""

    ratings: tuple[Rating, ...]
    anchor: str
    level: float
    regularised: bool  # someone only won or only lost: the intervals are a guess
    _variance: Mapping[tuple[str, str], float] = field(repr=False, default_factory=dict)

    @property
    def games(self) -> int:
        return sum(r.wins for r in self.ratings)

    def rating(self, player: str) -> Rating:
        return next(r for r in self.ratings if r.player == player)

    def difference(self, first: str, second: str, level: float | None = None) -> Measurement:
        """How much more Elo `first` has than `second`; narrower than their two intervals say,
        because both of those hold the anchor's own uncertainty."""
        gap = self.rating(first).elo - self.rating(second).elo
        half = z_of(level or self.level) * math.sqrt(self._variance[first, second]) * ELO_PER_NAT
        return Measurement("elo", gap, gap - half, gap + half, self.games, "Elo")

    def supported(self) -> list[tuple[str, str]]:
        """The pairs (better, worse) that the data tells apart.

        With k players there are k(k-1)/2 chances to be fooled, so each pair gets its share of
        them (Bonferroni): the whole list is free of error at `level`.
        """
        names = [r.player for r in self.ratings]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        level = 1 - (1 - self.level) / max(1, len(pairs))
        found = []
        for a, b in pairs:
            low = self.difference(a, b, level).low
            if low is not None and low > 0:
                found.append((a, b))
        return found

    @property
    def ordered(self) -> bool:
        """Whether every player is told apart from the next: the ranking can be believed."""
        names = [r.player for r in self.ratings]
        return set(pairwise(names)) <= set(self.supported())


def fit(games: Games, anchor: str | None = None, level: float = 0.95) -> list[Group]:
    """The ratings of everyone who played, one group for each connected set, the largest first.

    `anchor` is at 0 in its own group; the others are anchored at their name that sorts first.
    """
    played = {pair: n for pair, n in games.items() if n}
    for (winner, loser), n in played.items():
        if winner == loser or not (math.isfinite(n) and n > 0):
            raise ValueError(f"{n} games of {winner!r} over {loser!r}")
    names = sorted({name for pair in played for name in pair})
    if anchor is not None and names and anchor not in names:
        raise BadInput(f"{anchor!r} has played no game: {nearest(anchor, names)}")
    groups = []
    for members in _connected(names, played):
        zero = anchor if anchor in members else members[0]
        assert zero is not None
        groups.append(_group(members, zero, played, level))
    return sorted(groups, key=lambda g: (anchor is None or g.anchor != anchor, -g.games, g.anchor))


def _group(members: Sequence[str], anchor: str, games: Games, level: float) -> Group:
    mine = {pair: n for pair, n in games.items() if pair[0] in members}
    weights: dict[tuple[str, str], float] = dict(mine)
    regularised = not _has_maximum(members, mine)
    if regularised:
        for a, b in {tuple(sorted(pair)) for pair in mine}:
            weights[a, b] = weights.get((a, b), 0.0) + PSEUDO
            weights[b, a] = weights.get((b, a), 0.0) + PSEUDO
    free = [name for name in members if name != anchor]
    ratings, covariance = _maximise(free, weights)
    at = {name: i for i, name in enumerate(free)}

    def covered(a: str, b: str) -> float:
        return covariance[at[a]][at[b]] if a in at and b in at else 0.0

    variance = {
        (a, b): max(0.0, covered(a, a) + covered(b, b) - 2 * covered(a, b))
        for a in members
        for b in members
    }
    z = z_of(level)
    rows = []
    for name in members:
        elo = ELO_PER_NAT * ratings.get(name, 0.0)
        half = ELO_PER_NAT * z * math.sqrt(variance[name, anchor])
        wins = sum(n for (winner, _), n in mine.items() if winner == name)
        losses = sum(n for (_, loser), n in mine.items() if loser == name)
        rows.append(Rating(name, elo, elo - half, elo + half, round(wins + losses), round(wins)))
    rows.sort(key=lambda r: (-r.elo, r.player))
    return Group(tuple(rows), anchor, level, regularised, variance)


def _maximise(free: Sequence[str], games: Games) -> tuple[dict[str, float], Matrix]:
    """Ratings of the free players (the anchor's is 0) and their covariance, by Newton's method.

    The log-likelihood is concave; a step that overshoots its top is halved until it does not.
    """
    at = {name: i for i, name in enumerate(free)}
    size = len(free)
    r = [0.0] * size
    best = _likelihood(r, at, games)
    information: Matrix = []
    for _ in range(STEPS):
        gradient, information = _derivatives(r, at, games)
        step = solve(information, [[g] for g in gradient])
        scale = 1.0
        while True:
            there = [x + scale * s[0] for x, s in zip(r, step, strict=True)]
            value = _likelihood(there, at, games)
            if value >= best or scale < 1e-12:
                break
            scale /= 2
        r, best = there, max(best, value)
        if max((abs(scale * s[0]) for s in step), default=0.0) < TOLERANCE:
            break
    _, information = _derivatives(r, at, games)
    identity = [[float(i == j) for j in range(size)] for i in range(size)]
    return dict(zip(free, r, strict=True)), solve(information, identity)


def _likelihood(r: Sequence[float], at: Mapping[str, int], games: Games) -> float:
    total = 0.0
    for (winner, loser), n in games.items():
        gap = _of(r, at, winner) - _of(r, at, loser)
        total -= n * (math.log1p(math.exp(-gap)) if gap > 0 else math.log1p(math.exp(gap)) - gap)
    return total


def _derivatives(
    r: Sequence[float], at: Mapping[str, int], games: Games
) -> tuple[list[float], Matrix]:
    """Gradient of the log-likelihood, and its negated Hessian: the observed information."""
    gradient = [0.0] * len(r)
    information = [[0.0] * len(r) for _ in r]
    for (winner, loser), n in games.items():
        missed = sigmoid(_of(r, at, loser) - _of(r, at, winner))
        weight = n * missed * (1 - missed)
        i, j = at.get(winner), at.get(loser)
        if i is not None:
            gradient[i] += n * missed
            information[i][i] += weight
        if j is not None:
            gradient[j] -= n * missed
            information[j][j] += weight
        if i is not None and j is not None:
            information[i][j] -= weight
            information[j][i] -= weight
    return gradient, information


def _of(r: Sequence[float], at: Mapping[str, int], name: str) -> float:
    index = at.get(name)
    return 0.0 if index is None else r[index]


def solve(matrix: Matrix, right: Matrix) -> Matrix:
    """`matrix`^-1 `right` by Gaussian elimination with partial pivoting; both are left alone."""
    size = len(matrix)
    rows = [[*matrix[i], *right[i]] for i in range(size)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        if rows[pivot][column] == 0.0:
            raise ZeroDivisionError("the matrix is singular")
        rows[column], rows[pivot] = rows[pivot], rows[column]
        head = rows[column]
        for i in range(size):
            if i != column and rows[i][column]:
                factor = rows[i][column] / head[column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], head, strict=True)]
    return [[value / rows[i][i] for value in rows[i][size:]] for i in range(size)]


def _connected(names: Sequence[str], games: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The sets of players that games connect, whoever won them."""
    beside: dict[str, set[str]] = defaultdict(set)
    for a, b in games:
        beside[a].add(b)
        beside[b].add(a)
    left, found = dict.fromkeys(names), []
    while left:
        reached = _reach(next(iter(left)), beside)
        found.append(sorted(reached))
        for name in reached:
            left.pop(name)
    return found


def _has_maximum(members: Sequence[str], games: Iterable[tuple[str, str]]) -> bool:
    """Whether wins lead from everyone to everyone. Where not, some players can be raised above
    the rest for ever, and the likelihood rises with them (Zermelo, Ford)."""
    beat: dict[str, set[str]] = defaultdict(set)
    lost: dict[str, set[str]] = defaultdict(set)
    for winner, loser in games:
        beat[winner].add(loser)
        lost[loser].add(winner)
    everyone = set(members)
    return _reach(members[0], beat) == everyone and _reach(members[0], lost) == everyone


def _reach(start: str, beside: Mapping[str, set[str]]) -> set[str]:
    reached, todo = {start}, [start]
    while todo:
        for name in beside.get(todo.pop(), ()):
            if name not in reached:
                reached.add(name)
                todo.append(name)
    return reached
