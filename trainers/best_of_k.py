"""Best-of-k fine-tuning: sample k replies a prompt, keep the PM's favourite, learn to say it.

The paper's rejection sampling (sections 2.3 and B.6) made into weights: maximum likelihood on the
winners, once over each round of fresh samples. KL of best-of-k itself is log k - (k-1)/k at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from hhchat_trainers.policy import PolicyLearner, PolicySettings, kl_readings
from hhchat_trainers.rollout import Response, logprobs_of, score_roles, tensors

from hhchat.hookspecs import hookimpl
from hhchat.model.preference import by_length
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
        scores, readings = self.scores(responses)
        # 3. the winner of each prompt
        best = scores.view(-1, hyper.k).argmax(-1).tolist()
        winners = [responses[i * hyper.k + j] for i, j in enumerate(best)]
        readings["winner_score"] = float(scores.view(-1, hyper.k).max(-1).values.mean())
        plain = responses[:: hyper.k]  # one a prompt, not chosen: what the policy says by itself
        readings |= kl_readings(
            score_roles(
                self.model, plain, self.policy, self.reference, None, budget=self.micro_tokens
            )
        )
        # 4. one step of maximum likelihood on the winners
        readings["loss"] = self.learn(winners)
        return readings, plain

    def learn(self, winners: Sequence[Response]) -> float:
        while True:
            try:
                return self._learn(winners)
            except torch.OutOfMemoryError:
                self.less_memory()

    def _learn(self, winners: Sequence[Response]) -> float:
        device, total = self.model.device, float(sum(len(w.tokens) for w in winners))
        summed = 0.0
        self.optimiser.zero_grad(set_to_none=True)
        sizes = [len(w.prompt) + len(w.tokens) for w in winners]
        for group in by_length(sizes, self.micro_tokens):
            part = tensors([winners[i] for i in group])
            hidden = self.model.trunk.hidden(
                part.rows.to(device), (self.policy,), dtype=self.model.fast
            )
            logprobs = logprobs_of(self.model, hidden[0], part.tokens_BT.to(device))
            loss = -(logprobs * part.mask_BT.to(device)).sum()
            torch.autograd.backward(loss / total)
            summed += float(loss.detach())
        self.step(math.isfinite(summed))
        return summed / total


@hookimpl
def register_trainers(register: Callable[[type], None]) -> None:
    register(BestOfK)
