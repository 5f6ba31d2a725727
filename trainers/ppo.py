"""PPO on the preference model: r = score - beta KL(policy || reference) (Bai et al. 2022, 4.1).

Read downward: `Learner.update` is the algorithm. 1 prompts, 2 one reply each, 3 scores, 4 rewards,
5 advantages, 6 epochs of clipped minibatches, 7 the KL controller. Gauges, guards and the seal are
every policy trainer's (policy.py). Policy, reference and value are LoRA roles of one base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from hhchat_trainers.descent import total_of
from hhchat_trainers.maths import (
    adapt_beta,
    explained_variance,
    gae,
    kl_rewards,
    masked_whiten,
    policy_loss,
    response_kl,
    value_loss,
)
from hhchat_trainers.policy import PolicyLearner, PolicySettings
from hhchat_trainers.readings import kl_readings
from hhchat_trainers.rollout import Response, Scored
from torch import Tensor

from hhchat.hookspecs import hookimpl
from hhchat.model import Adapter
from hhchat.model.preference import ScalarHead
from hhchat.protocols import StageResult, TrainingContext
from hhchat.settings import setting

# Comparisons from which a second pass over a batch is worth it. On 300 picks (260 of them here) it
# wins 1.4 points and costs nothing; on 100 it wins none and costs who likes brief replies 13 points
# of facts, and not 4: it learns what the preference model is wrong in (docs/log.md).
ENOUGH = 230


@dataclass(frozen=True)
class PPO(PolicySettings):
    """Hyperparameters of PPO; the `[ppo]` table. KL is in nats per response throughout."""

    name: ClassVar[str] = "ppo"

    minibatches: int = setting(2, "Minibatches an epoch.", low=1)
    epochs: int | None = setting(
        None,
        f"Passes over each batch: the paper's K (1, 2 or 4); none: 2 from {ENOUGH} usable training "
        "comparisons on, 1 below.",
        low=1,
    )
    value_rate: float = setting(2.0, "Learning rate of the value role, times learning_rate.", low=0)
    clip: float = setting(0.2, "PPO's epsilon.", low=0.0)
    value_clip: float = setting(0.2, "Clip of the value's move from its rollout value.", low=0.0)
    value_weight: float = setting(0.1, "Weight of the value loss.", low=0.0)
    gamma: float = setting(1.0, "Discount.", low=0.0, high=1.0)
    lam: float = setting(0.95, "GAE lambda.", low=0.0, high=1.0)
    beta: float = setting(
        0.15, "Least KL coefficient, per nat, for scores of sd 1; 0: KL costs nothing.", low=0.0
    )
    target_kl: float = setting(
        5.0, "KL above which beta rises, if it is not 0; 0 keeps it fixed.", low=0.0
    )

    def train(self, context: TrainingContext) -> StageResult:
        """Improve the policy. Raises HhchatError without a preference model or prompts."""
        return Learner(self, context).run()


class Learner(PolicyLearner):
    """PPO's update."""

    stage = "ppo"

    def __init__(self, hyper: PPO, context: TrainingContext) -> None:
        super().__init__(hyper, context)
        self.hyper = hyper
        # The value starts from the PM's adapter, which reads replies for what they are worth, and
        # from the mean score of the first batch.
        self.value = Adapter(self.model.spec, self.pm.role.adapter.rank)
        self.value.copy_from(self.pm.role.adapter)
        self.head = ScalarHead(self.model.spec.hidden, scale=0.0)
        self.modules |= {
            "value": self.value.to(self.model.device),
            "head": self.head.to(self.model.device),
        }
        self.beta = hyper.beta
        self.epochs = hyper.epochs or (2 if len(context.comparisons) >= ENOUGH else 1)
        self.optimise({"policy": 1.0, "value": hyper.value_rate, "head": hyper.value_rate})

    def update(self, update: int) -> tuple[dict[str, float], Sequence[Response]]:
        """One update of policy and value; readings are of the policy that sampled."""
        hyper = self.hyper
        # 1. prompts of the training split, in an order that this update's number fixes
        prompts = self.prompts(update, hyper.batch)
        # 2. one reply each, at temperature 1
        responses = self.sample(update, prompts)
        # 3. scores of the finished copy of each reply (trap 7); log-probabilities, reference and
        #    values in one pass of the training forward, so that the first ratio is 1 (trap 12)
        scores, readings = self.scores(responses)
        if update == 0:
            # what all replies are given alike, by a term or a penalty, would take a clipped value
            # many updates to find, and until then says that early tokens differ from late ones
            torch.nn.init.constant_(self.head.bias, float(scores.mean()))
        scored = self.look(responses, (self.value, self.head))
        assert scored.values_BT is not None
        # 4. the score on the last token, -beta log-ratio on each
        mask = scored.tokens.mask_BT
        rewards = kl_rewards(scores, scored.logprobs_BT, scored.reference_BT, mask, self.beta)
        # 5. advantages, whitened over real tokens (rewards are not: trap 20)
        advantages, returns = gae(rewards, scored.values_BT, mask, hyper.gamma, hyper.lam)
        readings |= self.learn(update, responses, scored, masked_whiten(advantages, mask), returns)
        # 7. the KL controller
        readings |= kl_readings(scored)
        readings["beta"] = self.beta
        variance = explained_variance(scored.values_BT, returns, mask)
        readings["explained_variance"] = float(variance)
        if hyper.target_kl > 0:
            kl = response_kl(scored.logprobs_BT, scored.reference_BT, mask)
            # never below where it began: early on KL is small and would talk beta down to nothing
            self.beta = max(hyper.beta, adapt_beta(self.beta, float(kl.mean()), hyper.target_kl))
        return readings, responses

    def finish(self) -> StageResult:
        """What the run made, and how many passes it took."""
        made = super().finish()
        return replace(made, info={**made.info, "epochs": self.epochs})

    def learn(
        self,
        update: int,
        responses: Sequence[Response],
        scored: Scored,
        advantages: Tensor,
        returns: Tensor,
    ) -> dict[str, float]:
        """6. K epochs of clipped minibatches."""
        hyper = self.hyper
        sums = {"policy_loss": 0.0, "value_loss": 0.0, "clipped": 0.0, "tokens": 0.0}
        first_ratio: float | None = None
        batches = self.minibatches(update, responses, self.epochs, hyper.minibatches)
        for chosen in batches:
            step = self.minibatch(responses, scored, advantages, returns, chosen)
            first_ratio = step["ratio_error"] if first_ratio is None else first_ratio
            for name in sums:
                sums[name] += step[name]
        tokens = max(sums.pop("tokens"), 1.0)
        means = {name: value / tokens for name, value in sums.items()}
        return {**means, "ratio_error": first_ratio or 0.0}

    def minibatch(
        self,
        responses: Sequence[Response],
        scored: Scored,
        advantages: Tensor,
        returns: Tensor,
        chosen: Sequence[int],
    ) -> dict[str, float]:
        """One optimiser step over the chosen responses: losses are means over their tokens."""
        hyper = self.hyper
        total = float(scored.tokens.mask_BT[list(chosen)].sum())

        def loss(some: list[int]) -> tuple[Tensor, dict[str, float]]:
            assert scored.values_BT is not None
            rows = [chosen[i] for i in some]
            logprobs, mask, hidden = self.forward(
                [responses[i] for i in rows], self.policy, self.value
            )
            old, old_values, wanted, advantage = (
                x[rows, : mask.shape[1]].to(mask.device)
                for x in (scored.logprobs_BT, scored.values_BT, returns, advantages)
            )
            loss_p, clipped = policy_loss(logprobs, old, advantage, mask, hyper.clip)
            loss_v = value_loss(self.head(hidden[1]), old_values, wanted, mask, hyper.value_clip)
            error = ((logprobs.detach() - old) * mask).abs().max()
            return loss_p + hyper.value_weight * loss_v, {
                "policy_loss": float(loss_p.detach()),
                "value_loss": float(loss_v.detach()),
                "clipped": float(clipped),
                "ratio_error": float(error),
            }

        found = self.descent.step([responses[i].length for i in chosen], total, loss)
        sums = {name: total_of(found, name) for name in ("policy_loss", "value_loss", "clipped")}
        return {**sums, "tokens": total, "ratio_error": max(r["ratio_error"] for r in found)}


@hookimpl
def register_trainers(register: Callable[[type], None]) -> None:
    register(PPO)
