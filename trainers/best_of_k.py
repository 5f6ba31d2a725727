"""Best-of-k fine-tuning: sample k replies a prompt, keep the PM's favourite, learn to say it.

The paper's rejection sampling (sections 2.3 and B.6) made into weights: maximum likelihood on the
winners, once over each round of fresh samples. KL of best-of-k itself is log k - (k-1)/k at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hhchat_trainers.descent import total_of
from hhchat_trainers.policy import PolicyLearner, PolicySettings
from hhchat_trainers.readings import kl_readings
from hhchat_trainers.rollout import Response
from torch import Tensor

from hhchat.hookspecs import hookimpl
from hhchat.protocols import StageResult, TrainingContext
from hhchat.settings import setting


@dataclass(frozen=True)
class BestOfK(PolicySettings):
    """Hyperparameters of best-of-k fine-tuning; the `[best-of-k]` table. `batch` counts winners."""

    name: ClassVar[str] = "best-of-k"

    updates: int = setting(30, "Updates at most; guards may end the run before.", low=1)
    batch: int = setting(32, "Winners an update.", low=2)
    k: int = setting(8, "Replies sampled for each winner.", low=2)

    def train(self, context: TrainingContext) -> StageResult:
        return Learner(self, context).run()


class Learner(PolicyLearner):
    """Best-of-k's update."""

    stage = "best-of-k"

    def __init__(self, hyper: BestOfK, context: TrainingContext) -> None:
        super().__init__(hyper, context)
        self.hyper = hyper
        self.optimise({"policy": 1.0})

    def update(self, update: int) -> tuple[dict[str, float], Sequence[Response]]:
        hyper = self.hyper
        # 1. each prompt k times; 2. replies and scores
        prompts = [p for p in self.prompts(update, hyper.batch) for _ in range(hyper.k)]
        responses = self.sample(update, prompts)
        scores, readings = self.scores(responses, gauged=False)
        # 3. the winner of each prompt
        best = scores.view(-1, hyper.k).argmax(-1).tolist()
        winners = [responses[i * hyper.k + j] for i, j in enumerate(best)]
        readings["winner_score"] = float(scores.view(-1, hyper.k).max(-1).values.mean())
        plain = responses[:: hyper.k]  # one a prompt, not chosen: what the policy says by itself
        readings |= self.gauge(plain)
        readings |= kl_readings(self.look(plain))
        # 4. one step of maximum likelihood on the winners
        readings["loss"] = self.learn(winners)
        return readings, plain

    def learn(self, winners: Sequence[Response]) -> float:
        total = float(sum(len(w.tokens) for w in winners))

        def loss(some: list[int]) -> tuple[Tensor, dict[str, float]]:
            logprobs, mask, _ = self.forward([winners[i] for i in some], self.policy)
            return -(logprobs * mask).sum(), {}

        return total_of(self.descent.step([w.length for w in winners], total, loss), "loss") / total


@dataclass(frozen=True)
class BestOf:
    """No training at all: the assistant says the preference model's favourite of k replies.

    What serves while picks are too few for a policy (section 2.3). The `[best-of]` table."""

    name: ClassVar[str] = "best-of"
    needs: ClassVar[tuple[str, ...]] = ("pm",)

    k: int = setting(8, "Replies drawn for each that is said.", low=2, high=64)

    def train(self, context: TrainingContext) -> StageResult:
        """Nothing is trained."""
        return StageResult((), info={"best_of": self.k})


@hookimpl
def register_trainers(register: Callable[[type], None]) -> None:
    register(BestOf)
    register(BestOfK)
