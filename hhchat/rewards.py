"""Reward = the preference model plus plugin terms, weighted, with every part kept by its name.

Trainers and the evaluator use the same class, so what is optimised and what is reported are
computed by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hhchat.protocols import Objective, Scorer
from hhchat.types import Exchange, HhchatError

PREFERENCE = "preference"  # the name under which the preference model's own part is reported


@dataclass
class Reward:
    """A weighted sum of scorers. `as_scorer()` makes it a `Scorer` of its totals.

    The preference model is what the reward is: when it fails, the error goes up. A plugin's
    term is an extra: when it raises or answers nonsense it is reported once, by name, and is 0
    for the rest of this reward's life, so that a run neither dies nor changes its reward midway
    more than once.
    """

    preference: Scorer | None
    terms: Sequence[tuple[Objective, float]] = ()
    weight: float = 1.0
    report: Callable[[str], None] = field(default=lambda text: None)
    failed: dict[str, str] = field(default_factory=dict)  # term -> what went wrong

    def __post_init__(self) -> None:
        names = [term.name for term, _ in self.terms]
        for name in names:
            if names.count(name) > 1 or name == PREFERENCE:
                raise HhchatError(f"two reward terms are called {name!r}; rename one of them")
        for term, weight in self.terms:
            if not math.isfinite(weight):
                raise HhchatError(f"the weight of reward term {term.name!r} is {weight}")

    def score(
        self, exchanges: Sequence[Exchange], preference: Sequence[float] | None = None
    ) -> tuple[list[float], dict[str, list[float]]]:
        """The weighted totals, and each part before its weight, by name. `preference` is what the
        preference model says, where that is known."""
        totals = [0.0] * len(exchanges)
        parts: dict[str, list[float]] = {}
        if not exchanges:
            return totals, parts
        if preference is None and self.preference is not None:
            preference = self.preference.score(exchanges)
        if preference is not None:
            scores = _checked(preference, len(exchanges), PREFERENCE)
            _add(totals, parts, PREFERENCE, self.weight, scores)
        for term, weight in self.terms:
            _add(totals, parts, term.name, weight, self._term(term, exchanges))
        return totals, parts

    def totals(self, exchanges: Sequence[Exchange]) -> list[float]:
        """Only the sums."""
        return self.score(exchanges)[0]

    def as_scorer(self) -> Scorer:
        """This reward through the one verb that everything that judges shares."""
        return _Sum(self)

    def _term(self, term: Objective, exchanges: Sequence[Exchange]) -> list[float]:
        if term.name in self.failed:
            return [0.0] * len(exchanges)
        try:
            return _checked(term.score(exchanges), len(exchanges), term.name)
        except Exception as error:
            # A stranger's code may raise anything; its name is what the user can act on.
            why = str(error) if isinstance(error, HhchatError) else _named(error)
            self.failed[term.name] = why
            self.report(f"reward term {term.name!r} failed and counts as 0 in this run: {why}")
            return [0.0] * len(exchanges)


@dataclass(frozen=True)
class _Sum:
    reward: Reward

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        return self.reward.totals(exchanges)


def _add(
    totals: list[float],
    parts: dict[str, list[float]],
    name: str,
    weight: float,
    scores: list[float],
) -> None:
    parts[name] = scores
    for i, value in enumerate(scores):
        totals[i] += weight * value


def _checked(scores: Sequence[float], n: int, name: str) -> list[float]:
    """The scores as finite floats, one for each exchange, or an error that names the part."""
    values = [float(value) for value in scores]
    if len(values) != n:
        raise HhchatError(f"{name} gave {len(values)} scores for {n} replies")
    for i, value in enumerate(values):
        if not math.isfinite(value):
            raise HhchatError(f"{name} gave {value} for reply {i + 1} of {n}")
    return values


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
