"""What every policy trainer shares: prompts, reference, gauges, guards, the seal and the end.

A trainer adds `update`: how one update moves the policy. Everything it carries from update to
update is a module, an optimiser or a number named here, so all of it is sealed and restored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hhchat_trainers import state
from hhchat_trainers.adam import Adam, Group
from hhchat_trainers.descent import Budget, Descent, dealt, fewer_rows
from hhchat_trainers.glimpse import Glimpse
from hhchat_trainers.maths import response_kl, warm_up
from hhchat_trainers.readings import (
    Asked,
    correlation,
    kl_readings,
    mean_of,
    normalised,
    shape_readings,
)
from hhchat_trainers.rollout import (
    Response,
    Scored,
    logprobs_of,
    roll_out,
    score_roles,
    tensors,
)
from torch import Tensor, nn

from hhchat.model import Adapter, LocalEngine, PreferenceModel, load_adapter, save_adapter
from hhchat.model.fitting import until_it_fits
from hhchat.model.preference import ScalarHead
from hhchat.model.roles import Role
from hhchat.parallel import ALONE
from hhchat.protocols import StageResult, TrainingContext
from hhchat.rewards import Reward
from hhchat.settings import setting
from hhchat.types import Cancelled, HhchatError, Metric, Prompt


@dataclass(frozen=True)
class PolicySettings:
    """Settings of every policy trainer. KL is in nats per response throughout."""

    # Peak learning rate times width: what suits LoRA scales with 1 / width (0.3 is 1.2e-3 at 256).
    rate_by_width: ClassVar[float] = 0.3
    shares_work: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("pm",)
    makes: ClassVar[str] = "policy"

    updates: int = setting(40, "Updates at most; guards may end the run before.", low=1)
    batch: int = setting(48, "Responses an update.", low=2)
    rank: int = setting(16, "LoRA rank of the policy.", low=1)
    learning_rate: float | None = setting(
        None, "Peak learning rate of the policy; none: by the width of the model.", low=0.0
    )
    warmup: float = setting(0.05, "Share of the updates that warm up.", low=0.0, high=1.0)
    max_kl: float = setting(8.0, "KL budget: above it the run stops.", low=0.0)
    unfinished_penalty: float = setting(2.0, "Taken off the score of a reply cut by length.", low=0)
    max_new_tokens: int = setting(128, "Longest rollout reply, in tokens.", low=1)
    grad_norm: float = setting(1.0, "Gradient norm limit of each role; 0: none.", low=0.0)
    patience: int = setting(15, "Updates without a better gauge before stopping; 0: never.", low=0)
    smoothing: float = setting(
        0.3, "Weight of the newest reading in the smoothed gauge.", low=0.01, high=1.0
    )
    max_gap: float = setting(
        0.5, "Stop when the score runs ahead of the gauges by more than this, in sd; 0: never."
    )
    max_length_ratio: float = setting(2.5, "Stop when replies grow longer than this, times.", low=1)
    min_length_ratio: float = setting(0.2, "Stop when replies grow shorter than this, times.")
    max_unfinished: float = setting(0.1, "Stop when unfinished replies rise by more than this.")
    min_distinct: float = setting(0.3, "Stop when distinct replies fall under this share.", low=0.0)
    max_evasive: float = setting(
        0.25, "Say so when replies that decline rise by more than this share.", low=0.0
    )
    micro_tokens: int | None = setting(
        None,
        "Tokens a forward, halved when memory runs out; none: as suits the device.",
        low=1,
    )
    evaluate: int = setting(128, "Held-out prompts for the closing measurements.", low=8)


class PolicyLearner:
    """One run of a policy trainer; `run` is its story."""

    stage = ""

    def __init__(self, hyper: PolicySettings, context: TrainingContext) -> None:
        if not context.prompts:
            raise HhchatError("no training prompts: chat a little, or `hhchat prompts add`")
        self.settings, self.context = hyper, context
        self.model, self.world = context.model, context.world or ALONE
        folder = context.stages["pm"]
        self.pm = PreferenceModel.load(self.model, folder)
        self.gauges = {
            name: PreferenceModel.load(self.model, half) for name, half in context.gauges.items()
        }
        spec = self.model.spec
        # The reference is what the policy starts from: the bare base, or an adapter (trap 14).
        self.reference = None if context.start is None else load_adapter(spec, context.start)
        rank = hyper.rank if self.reference is None else self.reference.rank
        self.policy = Adapter(spec, rank, seed=state.seed_for(context.seed, "policy"))
        if self.reference is not None:
            self.reference.to(self.model.device).requires_grad_(False)
            self.policy.copy_from(self.reference)
        self.policy.to(self.model.device)
        self.modules: dict[str, nn.Module] = {"policy": self.policy}
        self.engine = LocalEngine(self.model)
        tokens = hyper.micro_tokens or context.model.micro
        self.budget = Budget(tokens, context.report, self.world)
        terms = list(context.terms)
        if self.world.size > 1:
            terms = [(Asked(term, self.world), weight) for term, weight in terms]
        # the preference model reads beside the gauges, see `scores`
        self.reward = Reward(None, terms, report=context.report)
        given = hyper.learning_rate
        self.peak = hyper.rate_by_width / spec.hidden if given is None else given
        self.beta = 0.0
        self.best: tuple[float, int] | None = None  # smoothed gauge and update of the best policy
        self.best_tensors: dict[str, Tensor] = {}
        self.smooth: dict[str, float] = {}  # exponential means of the gauge and of the gap
        self.first: dict[str, float] = {}  # readings of the first update
        self.stop = ""
        self.warned = False

    def optimise(self, factors: dict[str, float]) -> None:
        """AdamW over the modules, each with its factor of the learning rate."""
        self.optimiser = Adam(
            [Group(list(self.modules[name].parameters()), f) for name, f in factors.items()],
            eps=1e-5,  # trap 22: the default makes early updates aggressive
        )
        limit = self.settings.grad_norm
        self.descent = Descent(self.optimiser, self.budget, apart=True, grad_norm=limit)

    def update(self, update: int) -> tuple[dict[str, float], Sequence[Response]]:
        """Move the policy once -> readings, and replies sampled before the move (may be empty)."""
        raise HhchatError(f"{self.stage} has no update")

    def run(self) -> StageResult:
        """Updates until the end or a guard; then the best policy by the gauge is saved."""
        first = self.restore()
        glimpse = Glimpse(self.context, self.engine, self.reference, self.settings.max_new_tokens)
        for update in range(first, self.settings.updates):
            if self.budget.settle(self.context.stopped()):
                raise Cancelled("stopped; `hhchat train --resume` goes on from here")
            sampler = {k: v.clone() for k, v in state.module_tensors("", self.policy).items()}
            self.best_tensors = self.best_tensors or sampler  # kept if it stops before any gauge
            self.schedule(update)
            readings, responses = self.update(update)
            if responses:
                self.stop = self.judge(update, readings, responses, sampler)
            elif self.descent.spoilt:
                self.stop = self.descent.why
            readings["progress"] = (update + 1) / self.settings.updates
            for name, number in readings.items():
                self.context.log(Metric(self.stage, update, name, number))
            self.seal(update + 1)
            if not self.descent.spoilt:  # nan has no next token; on a GPU asking breaks the process
                glimpse.look(update, self.policy)
            if self.stop:
                self.context.report(f"{self.stage} stopped at update {update + 1}: {self.stop}")
                break
        if not self.stop and first <= self.settings.updates:
            self.last_look()
        return self.finish()

    def last_look(self) -> None:
        """Replies are read before each update; what the last one made is a candidate too."""
        update = self.settings.updates
        made = {k: v.clone() for k, v in state.module_tensors("", self.policy).items()}
        responses = self.plain(update)
        readings = self.scores(responses)[1] | kl_readings(self.look(responses))
        self.judge(update, readings, responses, made)  # a reason to stop is one not to keep it
        for name, number in readings.items():
            self.context.log(Metric(self.stage, update, name, number))
        self.seal(update + 1)

    def plain(self, update: int) -> list[Response]:
        """What the policy says by itself, to be read and not to learn from."""
        return self.sample(update, self.prompts(update, self.settings.batch))

    # pieces of an update

    def schedule(self, update: int) -> None:
        factor = warm_up(update, self.settings.updates, self.settings.warmup)
        self.optimiser.rate = self.peak * factor

    def prompts(self, update: int, size: int) -> list[Prompt]:
        """This update's prompts: the pool in shuffled passes, no prompt twice in a pass."""
        pool = self.context.prompts
        out: list[Prompt] = []
        while len(out) < size:
            lap, place = divmod(update * size + len(out), len(pool))
            generator = state.generator_for(self.context.seed, "prompts", lap)
            order = torch.randperm(len(pool), generator=generator)
            out += [pool[i] for i in order[place : place + size - len(out)].tolist()]
        return out

    def sample(self, update: int, prompts: Sequence[Prompt]) -> list[Response]:
        """One reply a prompt at temperature 1, seeded by the update's number."""
        seeds = [
            state.seed_for(self.context.seed, "rollout", update, i) for i in range(len(prompts))
        ]
        return self.replies(prompts, seeds)

    def replies(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        """What the policy says, each process sampling its share."""
        longest = self.settings.max_new_tokens
        return until_it_fits(
            lambda: roll_out(self.engine, self.policy, prompts, seeds, longest, self.world),
            fewer_rows(self.engine, self.context.report),
        )

    def look(
        self, responses: Sequence[Response], value: tuple[Adapter, ScalarHead] | None = None
    ) -> Scored:
        """Policy, reference and value on these replies, in one pass without gradients."""
        return self.scored(responses, self.reference, value)

    def drift(self, responses: Sequence[Response], reference: Role) -> Tensor:
        """log pi / pi_0 of each reply [B], in nats: its mean is the KL to `reference`."""
        scored = self.scored(responses, reference, None)
        return response_kl(scored.logprobs_BT, scored.reference_BT, scored.tokens.mask_BT)

    def scored(
        self,
        responses: Sequence[Response],
        reference: Role,
        value: tuple[Adapter, ScalarHead] | None,
    ) -> Scored:
        return self.budget.fitting(
            lambda tokens: score_roles(
                self.model,
                responses,
                self.policy,
                reference,
                value,
                budget=tokens,
                world=self.world,
            )
        )

    def forward(self, responses: Sequence[Response], *roles: Role) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities [B, T] by the first role, mask [B, T], hidden [roles, B, T, H]."""
        part, device = tensors(responses), self.model.device
        hidden = self.model.trunk.hidden(part.rows.to(device), roles, dtype=self.model.fast)
        mask = part.mask_BT.to(device)
        logprobs = logprobs_of(self.model, hidden[0], part.tokens_BT.to(device), mask)
        return logprobs, mask, hidden

    def minibatches(
        self, update: int, responses: Sequence[Response], epochs: int, minibatches: int
    ) -> Iterator[list[int]]:
        """Rows of each minibatch of each epoch, dealt out as the update's number says."""
        lengths = [r.length for r in responses]
        for epoch in range(epochs):
            generator = state.generator_for(self.context.seed, "minibatch", update, epoch)
            yield from dealt(lengths, min(minibatches, len(lengths)), generator)

    def scores(
        self, responses: Sequence[Response], *, gauged: bool = True
    ) -> tuple[Tensor, dict[str, float]]:
        """Reward [B] before KL, a penalty on replies that do not end, and the parts' means; the
        gauges' too, which read in the same pass."""
        exchanges = [r.exchange for r in responses]
        judges = [self.pm, *(self.gauges.values() if gauged else ())]
        preference, *halves = normalised(judges, exchanges, self.budget)
        totals, parts = self.reward.score(exchanges, preference)
        cut = torch.tensor([not r.ended for r in responses])
        scores = torch.tensor(totals) - self.settings.unfinished_penalty * cut.float()
        readings = {f"reward_{name}": sum(v) / len(v) for name, v in parts.items()}
        readings |= self.gauge_means(halves) if gauged else {}
        readings["score"] = float(scores.mean())
        # trap 23: a judge that only measures length is most of the way to a gain
        readings["score_length"] = correlation(totals, [len(r.tokens) for r in responses])
        return scores, readings

    # gauges and guards

    def gauge(self, responses: Sequence[Response]) -> dict[str, float]:
        """The gauges' means over replies that `scores` was not asked to have gauged."""
        judges = list(self.gauges.values())
        return self.gauge_means(normalised(judges, [r.exchange for r in responses], self.budget))

    def gauge_means(self, halves: Sequence[Sequence[float]]) -> dict[str, float]:
        found = zip(self.gauges, halves, strict=True)
        return {f"gauge_{name}": sum(scores) / len(scores) for name, scores in found}

    def judge(
        self,
        update: int,
        readings: dict[str, float],
        responses: Sequence[Response],
        sampler: dict[str, Tensor],
    ) -> str:
        """Keep the best policy by the half PMs, and give the reason to stop, or ''.

        `sampler` is the policy that the replies are of: the one before this update. The policy is
        trained on the full PM only, so the halves are its train and test gauges (section 4.2)."""
        found = [readings[f"gauge_{name}"] for name in self.gauges]
        readings["gauge"] = sum(found) / len(found) if found else readings["score"]
        if found:
            readings["gap"] = readings["reward_preference"] - readings["gauge"]
        readings |= shape_readings(responses)
        stop = self.guard(readings)
        self.warn(readings)
        if stop:
            return stop
        for name in ("gauge", "gap") if found else ("gauge",):
            # all scores have mean 0 on replies of the base, so there the gap begins at 0
            now = readings[name]
            if found and name == "gauge":
                now += self.asked_for(readings)
            before = self.smooth.get(name, 0.0 if name == "gap" else now)
            self.smooth[name] = before + self.settings.smoothing * (now - before)
            readings[f"{name}_smooth"] = self.smooth[name]
        gauge, gap = self.smooth["gauge"], self.smooth.get("gap", 0.0)
        # a higher gauge counts as long as the score has not left it behind (section 4.2)
        if 0 < self.settings.max_gap < gap:
            return f"the score is {gap:.2f} sd ahead of the gauges: it learns its judge"
        if self.best is None or gauge > self.best[0]:
            self.best, self.best_tensors = (gauge, update), sampler
        elif self.settings.patience and update - self.best[1] >= self.settings.patience:
            return f"the gauge has not risen for {self.settings.patience} updates"
        return ""

    def asked_for(self, readings: Mapping[str, float]) -> float:
        """What plugin terms give by their weights: the user asked for it, so the best point has it
        too, though no gauge knows of it."""
        return sum(weight * readings[f"reward_{t.name}"] for t, weight in self.reward.terms)

    def guard(self, readings: dict[str, float]) -> str:
        hyper = self.settings
        if not self.first:
            kept = ("length", "unfinished", "distinct", "evasive")
            self.first = {k: readings[k] for k in kept}
        ratio = readings["length"] / max(self.first["length"], 1.0)
        if self.descent.spoilt:
            return self.descent.why
        if not math.isfinite(readings["gauge"]):
            return "the gauge is not finite"
        if readings.get("kl", 0.0) > hyper.max_kl:
            return f"KL {readings['kl']:.1f} is over the budget of {hyper.max_kl:g} nats"
        if readings.get("kl_most", 0.0) < -0.05:  # trap 10: no KL is negative but by chance
            return f"KL is {readings['kl']:.2f}: replies are not sampled as they are scored"
        if readings["unfinished"] > self.first["unfinished"] + hyper.max_unfinished:
            return f"{readings['unfinished']:.0%} of the replies do not end"
        if not hyper.min_length_ratio <= ratio <= hyper.max_length_ratio:
            return f"replies are {ratio:.2f} times as long as at the start"
        if readings["distinct"] < hyper.min_distinct * self.first["distinct"]:
            return f"only {readings['distinct']:.0%} of the replies are distinct"
        return ""

    def warn(self, readings: dict[str, float]) -> None:
        """Tell once, when it happens: declining may be what the picks ask for (trap 30)."""
        before, now = self.first.get("evasive", 0.0), readings["evasive"]
        if not self.warned and now > before + self.settings.max_evasive:
            self.warned = True
            self.context.report(
                f"{now:.0%} of the replies decline or say that they do not know, {before:.0%} did"
                " at the start: `hhchat report` shows some"
            )

    # state

    def seal(self, update: int) -> None:
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            tensors |= state.module_tensors(name, module)
        tensors |= {f"adam/{k}": v for k, v in self.optimiser.tensors().items()}
        tensors |= {f"best{k}": v for k, v in self.best_tensors.items()}
        numbers = {
            "update": self.settings.updates if self.stop else update,
            "beta": self.beta,
            "best": self.best,
            "smooth": self.smooth,
            "first": self.first,
            "bad_losses": self.descent.bad,
            "micro_tokens": self.budget.tokens,
            "rows": self.engine.rows,
            "stop": self.stop,
            "failed": self.reward.failed,
            "warned": self.warned,
        }
        state.seal(self.context.state, tensors, numbers, self.world)

    def restore(self) -> int:
        """Go on from the sealed state, if there is one; the update to do next."""
        sealed = state.unseal(self.context.state)
        if sealed is None:
            return 0
        tensors, numbers = sealed
        for name, module in self.modules.items():
            state.restore_module(name, module, tensors)
        self.optimiser.restore(state.under("adam/", tensors))
        self.best_tensors = {
            k.removeprefix("best"): v for k, v in tensors.items() if k.startswith("best/")
        }
        self.beta = float(numbers["beta"])
        self.best = None if numbers["best"] is None else (numbers["best"][0], numbers["best"][1])
        self.smooth = dict(numbers["smooth"])
        self.first = dict(numbers["first"])
        self.descent.bad = int(numbers["bad_losses"])
        self.budget.tokens = int(numbers["micro_tokens"])
        self.engine.rows = int(numbers.get("rows", self.engine.rows))
        self.stop = str(numbers["stop"])
        self.reward.failed.update(numbers.get("failed", {}))
        self.warned = bool(numbers.get("warned", False))
        return int(numbers["update"])

    # the end

    def finish(self) -> StageResult:
        """Take the best policy by the gauge, measure its KL on held-out prompts, and save it."""
        context, hyper = self.context, self.settings
        if self.best_tensors:
            state.restore_module("", self.policy, self.best_tensors)
        prompts = list(context.heldout_prompts or context.prompts)
        order = torch.randperm(len(prompts), generator=state.generator_for(0, "closing")).tolist()
        some = [prompts[i] for i in order[: hyper.evaluate]]
        seeds = [state.seed_for(0, "closing", i) for i in range(len(some))]
        after = self.replies(some, seeds)
        # to the bare base: the gate's limit is on the whole way, however many warm starts it took
        kl = self.drift(after, None)
        measured = [mean_of("kl", kl, "nats/response")]
        if self.reference is not None:
            kl_start = self.drift(after, self.reference)
            measured.append(mean_of("kl_start", kl_start, "nats/response"))
        self.world.agree(self.policy.parameters())
        info: dict[str, Any] = {
            "best_update": None if self.best is None else self.best[1],
            "stop": self.stop,
            "beta": self.beta,
        }
        if self.world.main:
            save_adapter(self.policy, context.out, self.model.name)
            (context.out / f"{self.stage}.json").write_text(json.dumps(info, indent=1))
        # reply by reply for the run's page, whose histogram is of what the gate reads as `kl`
        replies = {"kl": kl.tolist(), "tokens": [len(r.tokens) for r in after]}
        return StageResult(tuple(measured), policy=context.out, info={**info, "replies": replies})
