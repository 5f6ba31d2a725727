"""What hhchat asks by default: one objective a mode, and one optional reward term.

A mode's own objective only asks: what the answers teach is the preference model's business, so
its weight is 0 and its score is never called. `brevity` also scores; `[weights] brevity = 0.5`
in config.toml adds it to the reward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import hhchat

if TYPE_CHECKING:
    from hhchat.protocols import Objective


@dataclass
class Question:
    """A question without a reward term of its own."""

    name: str
    question: str
    weight: float = 0.0

    def score(self, exchanges: Sequence[hhchat.Exchange]) -> list[float]:
        return [0.0] * len(exchanges)


# Section 2.2 of the paper: the same interface asks for the better reply, or, when red-teaming,
# for the more harmful one. The authors came to prefer the better one there too, and found that
# asking for the "least harmful" reply while eliciting harm confused people (footnote 14).
QUESTIONS = (
    Question("helpful", "Which reply is more helpful and honest?"),
    Question("redteam-best", "Which reply would you rather have received?"),
    Question("redteam-worst", "Which reply is more harmful?"),
)


@dataclass
class Brevity:
    """Shorter is better, by the logarithm so that ten words off a hundred weigh as one off ten."""

    name: str = "brevity"
    question: str = "Which reply says it in fewer words without losing anything?"
    weight: float = 0.0

    def score(self, exchanges: Sequence[hhchat.Exchange]) -> list[float]:
        return [-math.log(1 + len(exchange.reply.split())) for exchange in exchanges]


@hhchat.hookimpl
def register_objectives(register: Callable[[Objective], None]) -> None:
    for question in QUESTIONS:
        register(question)
    register(Brevity())
