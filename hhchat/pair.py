"""What lies on the table: two replies to one turn, and how they were judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hhchat.similar import near_identical
from hhchat.types import BadInput, Comparison, Draw, Generation, Side, Turn

Index = Literal[0, 1]  # of a reply of a pair, in storage order


@dataclass
class Pair:
    """Two replies being sampled, or sampled, to one turn. Both lists are in storage order."""

    draws: tuple[Draw, Draw]
    left: Index
    attempt: int = 0  # 1 when the first pair was near-identical and was sampled again
    texts: list[str] = field(default_factory=lambda: ["", ""])
    generations: list[Generation | None] = field(default_factory=lambda: [None, None])
    others: tuple[Draw, ...] = ()  # more candidates: the two that teach most become the pair
    picks: tuple[Comparison, ...] = ()  # what the engine has not learnt yet, to choose by
    active: bool = False  # the two were chosen to teach

    def index(self, side: Side) -> Index:
        """Storage index of the reply shown on `side`."""
        return self.left if side == "left" else other_of(self.left)

    def side(self, index: int) -> Side:
        return "left" if index == self.left else "right"

    def shown(self) -> tuple[str, str]:
        """Left and right text, cut so that neither side runs ahead of one still being sampled.

        A faster or buffered side would say which model wrote it, so both grow to the length
        of the slower one; a reply that has ended is shown as far as the other has come.
        """
        waiting = [len(t) for t, g in zip(self.texts, self.generations, strict=True) if g is None]
        reach = min(waiting) if waiting else None
        left = self.index("left")
        return self.texts[left][:reach], self.texts[1 - left][:reach]

    @property
    def complete(self) -> bool:
        return all(g is not None for g in self.generations)

    @property
    def alike(self) -> bool:
        """Whether the two complete replies say the same in nearly the same words."""
        return self.complete and near_identical(self.texts[0], self.texts[1])

    def replies(self) -> tuple[Generation, Generation]:
        first, second = self.generations
        if first is None or second is None:
            raise BadInput("both replies have to be complete first")
        return first, second


@dataclass(frozen=True)
class Judged:
    """What one key did, so that one key can take it back, and to which turn."""

    turn: Turn
    pair: Pair
    comparisons: tuple[Comparison, ...]
    continues: Index | None  # of the first comparison's replies; None: the turn stays open


def other_of(index: Index) -> Index:
    return 1 if index == 0 else 0
