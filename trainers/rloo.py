"""RLOO: PPO without a critic. k replies a prompt; each is compared with the mean of the others.

Ahmadian et al. 2024 (2402.14740): the reward is score - beta KL of the whole reply, the baseline is
leave-one-out, and the step is PPO's clipped one on each token. Same plumbing as PPO, no value role.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hhchat_trainers.descent import total_of
from hhchat_trainers.maths import adapt_beta, leave_one_out, policy_loss, response_kl
from hhchat_trainers.policy import PolicyLearner, PolicySettings
from hhchat_trainers.readings import kl_readings
from hhchat_trainers.rollout import Response, Scored
from torch import Tensor

from hhchat.hookspecs import hookimpl
from hhchat.protocols import StageResult, TrainingContext
from hhchat.settings import setting


@dataclass(frozen=True)
class RLOO(PolicySettings):
    """Hyperparameters of RLOO; the `[rloo]` table."""

    name: ClassVar[str] = "rloo"

    samples: int = setting(4, "Replies a prompt.", low=2)
    minibatches: int = setting(2, "Minibatches an epoch.", low=1)
    epochs: int = setting(2, "Passes over each batch.", low=1)
    clip: float = setting(0.2, "Clip of the probability ratio.", low=0.0)
    beta: float = setting(
        0.15, "Least KL coefficient, per nat, for scores of sd 1; 0: KL costs nothing.", low=0.0
    )
    target_kl: float = setting(
        5.0, "KL above which beta rises, if it is not 0; 0 keeps it fixed.", low=0.0
    )

    def train(self, context: TrainingContext) -> StageResult:
        return Learner(self, context).run()


class Learner(PolicyLearner):
    """RLOO's update."""

    stage = "rloo"

    def __init__(self, hyper: RLOO, context: TrainingContext) -> None:
        super().__init__(hyper, context)
        self.hyper = hyper
        self.beta = hyper.beta
        self.optimise({"policy": 1.0})

    def update(self, update: int) -> tuple[dict[str, float], Sequence[Response]]:
        hyper = self.hyper
        # 1. each prompt k times, next to each other; 2. one reply each
        distinct = self.prompts(update, max(1, hyper.batch // hyper.samples))
        responses = self.sample(update, [p for p in distinct for _ in range(hyper.samples)])
        # 3. log-probabilities and scores
        scored = self.look(responses)
        scores, readings = self.scores(responses)
        # 4. the reward of a whole reply; 5. its advantage over the others of its prompt
        mask = scored.tokens.mask_BT
        kl = response_kl(scored.logprobs_BT, scored.reference_BT, mask)
        advantage = leave_one_out(scores - self.beta * kl, hyper.samples)
        advantage = advantage / advantage.std().clamp_min(1e-6)
        # 6. clipped epochs
        readings |= self.learn(update, responses, scored, advantage)
        readings |= kl_readings(scored)
        readings["beta"] = self.beta
        if hyper.target_kl > 0:
            self.beta = max(hyper.beta, adapt_beta(self.beta, float(kl.mean()), hyper.target_kl))
        return readings, responses

    def learn(
        self, update: int, responses: Sequence[Response], scored: Scored, advantage_B: Tensor
    ) -> dict[str, float]:
        hyper = self.hyper
        losses, clipped, tokens = 0.0, 0.0, 0.0
        batches = self.minibatches(update, responses, hyper.epochs, hyper.minibatches)
        for chosen in batches:
            step = self.minibatch(responses, scored, advantage_B, chosen)
            losses, clipped, tokens = losses + step[0], clipped + step[1], tokens + step[2]
        return {"policy_loss": losses / tokens, "clipped": clipped / tokens}

    def minibatch(
        self,
        responses: Sequence[Response],
        scored: Scored,
        advantage_B: Tensor,
        chosen: Sequence[int],
    ) -> tuple[float, float, float]:
        """One step -> (sum of losses, clipped tokens, tokens)."""
        total = float(scored.tokens.mask_BT[list(chosen)].sum())

        def loss(some: list[int]) -> tuple[Tensor, dict[str, float]]:
            rows = [chosen[i] for i in some]
            logprobs, mask, _ = self.forward([responses[i] for i in rows], self.policy)
            old = scored.logprobs_BT[rows, : mask.shape[1]].to(mask.device)
            advantage = advantage_B[rows].to(mask.device).unsqueeze(-1).expand_as(old)
            summed, clipped = policy_loss(logprobs, old, advantage, mask, self.hyper.clip)
            return summed, {"clipped": float(clipped)}

        found = self.descent.step([responses[i].length for i in chosen], total, loss)
        return total_of(found, "loss"), total_of(found, "clipped"), total


@hookimpl
def register_trainers(register: Callable[[type], None]) -> None:
    register(RLOO)
