"""DPO: the picks themselves as a loss on the policy, with no sampling in between.

Rafailov et al. 2023 (2305.18290): -log sigmoid(beta (r(chosen) - r(rejected))), r = log pi/pi_0.
The preference model only gauges and guards it, so that runs of all methods are judged alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from hhchat_trainers import state
from hhchat_trainers.descent import dealt, total_of
from hhchat_trainers.maths import preference_loss
from hhchat_trainers.pm import row_of, told_apart
from hhchat_trainers.policy import PolicyLearner, PolicySettings
from hhchat_trainers.readings import kl_readings
from hhchat_trainers.rollout import Response
from torch import Tensor

from hhchat.hookspecs import hookimpl
from hhchat.model import Model
from hhchat.model.preference import in_groups
from hhchat.model.roles import Role
from hhchat.model.taste import CONFIDENCE
from hhchat.protocols import StageResult, TrainingContext
from hhchat.settings import setting
from hhchat.types import Comparison, HhchatError


@dataclass(frozen=True)
class DPO(PolicySettings):
    """Hyperparameters of DPO; the `[dpo]` table. `batch` counts pairs."""

    name: ClassVar[str] = "dpo"
    rate_by_width: ClassVar[float] = 0.2

    updates: int = setting(100, "Updates at most; guards may end the run before.", low=1)
    batch: int = setting(16, "Pairs an update.", low=2)
    beta: float = setting(0.1, "Strength of the pull to the reference.", low=0.0)
    soft_labels: bool = setting(True, "Use the strength of a pick as a soft label.")
    check: int = setting(5, "Updates between looks at sampled replies.", low=1)
    replies: int = setting(64, "Replies sampled at each look.", low=8)

    def train(self, context: TrainingContext) -> StageResult:
        return Learner(self, context).run()


@dataclass(frozen=True)
class Pair:
    """Chosen and rejected as responses, their reference log-probabilities, and the soft label."""

    chosen: Response
    rejected: Response
    target: float


class Learner(PolicyLearner):
    """DPO's update."""

    stage = "dpo"

    def __init__(self, hyper: DPO, context: TrainingContext) -> None:
        super().__init__(hyper, context)
        self.hyper = hyper
        made = [pair_of(self.model, c, hyper.soft_labels) for c in context.comparisons]
        self.pairs = told_apart(made, context.report)
        if not self.pairs:
            raise HhchatError("no usable comparisons for DPO")
        self.sizes = [p.chosen.length + p.rejected.length for p in self.pairs]
        self.per_epoch = max(1, math.ceil(len(self.pairs) / hyper.batch))
        self.batches = lru_cache(maxsize=1)(self.deal)  # of an epoch
        self.optimise({"policy": 1.0})
        flat = [r for p in self.pairs for r in (p.chosen, p.rejected)]
        self.reference_sums = self.sums(flat, self.reference)

    def update(self, update: int) -> tuple[dict[str, float], Sequence[Response]]:
        hyper = self.hyper
        epoch, at = divmod(update, self.per_epoch)
        readings: dict[str, float] = {}
        responses: Sequence[Response] = ()
        if update % hyper.check == 0:
            responses = self.plain(update)
            readings |= self.scores(responses)[1]
            readings |= kl_readings(self.look(responses))
        readings |= self.learn(self.batches(epoch)[at])
        return readings, responses

    def deal(self, epoch: int) -> list[list[int]]:
        generator = state.generator_for(self.context.seed, "dpo", epoch)
        return dealt(self.sizes, self.per_epoch, generator)

    def plain(self, update: int) -> list[Response]:
        return self.sample(update, self.prompts(update // self.hyper.check, self.hyper.replies))

    def learn(self, chosen: Sequence[int]) -> dict[str, float]:
        """One step on these pairs, in micro-batches of like lengths."""
        flat = [r for i in chosen for r in (self.pairs[i].chosen, self.pairs[i].rejected)]
        reference = torch.stack([self.reference_sums[2 * i : 2 * i + 2] for i in chosen])
        target = torch.tensor([self.pairs[i].target for i in chosen])
        sizes = [self.sizes[i] for i in chosen]

        def loss(some: list[int]) -> tuple[Tensor, dict[str, float]]:
            sums = self.summed([r for j in some for r in flat[2 * j : 2 * j + 2]], self.policy)
            gap = self.hyper.beta * (sums.view(-1, 2) - reference[some].to(sums.device))
            losses = preference_loss(gap[:, 0], gap[:, 1], target[some].to(gap.device))
            return losses.sum(), {"right": float((gap[:, 0] > gap[:, 1]).sum())}

        found, pairs = self.descent.step(sizes, len(chosen), loss), len(chosen)
        return {
            "loss": total_of(found, "loss") / pairs,
            "accuracy": total_of(found, "right") / pairs,
        }

    def summed(self, responses: Sequence[Response], role: Role) -> Tensor:
        """Summed log-probability of each response [B]."""
        logprobs, mask, _ = self.forward(responses, role)
        return (logprobs * mask).sum(-1)

    def sums(self, responses: Sequence[Response], role: Role) -> Tensor:
        """The same [B] on the CPU, in micro-batches, each process doing its share."""

        def work(some: Sequence[Response], tokens: int) -> list[float]:
            out = torch.zeros(len(some))

            @torch.no_grad()
            def read(group: list[int]) -> None:
                out[group] = self.summed([some[i] for i in group], role).cpu()

            in_groups(self.model, [r.length for r in some], tokens, read)
            return out.tolist()

        found = self.world.spread(
            responses,
            [r.length for r in responses],
            lambda some: self.budget.fitting(lambda tokens: work(some, tokens)),
        )
        return torch.tensor(found)


def pair_of(model: Model, comparison: Comparison, soft: bool) -> Pair | None:
    """None when the two replies read the same, see `row_of`."""
    row = row_of(model, comparison)
    if row is None:
        return None
    made = [
        # a cut reply has no end to learn: reply_ids adds one for the PM alone (trap 7)
        Response(
            comparison.messages,
            row.prompt,
            ids if g.finished or len(ids) == 1 else ids[:-1],
            g.finished,
            g.text,
        )
        for ids, g in zip(row.replies, (comparison.chosen, comparison.rejected), strict=True)
    ]
    target = CONFIDENCE.get(comparison.strength, 0.9) if soft else 1.0
    return Pair(made[0], made[1], target)


@hookimpl
def register_trainers(register: Callable[[type], None]) -> None:
    register(DPO)
