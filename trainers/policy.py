"""What every policy trainer shares: prompts, reference, gauges, guards, the seal and the end.

A trainer adds `update`: how one update moves the policy. Everything it carries from update to
update is a module, an optimiser or a number named here, so all of it is sealed and restored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hhchat_trainers import state
from hhchat_trainers.glimpse import Glimpse
from hhchat_trainers.maths import response_k3, response_kl, warm_up
from hhchat_trainers.rollout import Response, Scored, roll_out, score_roles
from torch import Tensor, nn

from hhchat.model import Adapter, LocalEngine, PreferenceModel, load_adapter, save_adapter
from hhchat.model.preference import judged, reply_ids
from hhchat.protocols import StageResult, TrainingContext
from hhchat.rewards import Reward
from hhchat.settings import setting
from hhchat.types import Cancelled, Exchange, HhchatError, Measurement, Metric, Prompt


@dataclass(frozen=True)
class PolicySettings:
    """Settings of every policy trainer. KL is in nats per response throughout."""

    # Peak learning rate times width: what suits LoRA scales with 1 / width (0.3 is 1.2e-3 at 256).
    rate_by_width: ClassVar[float] = 0.3

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
    grad_norm: float = setting(1.0, "Gradient norm limit of each role.", low=0.0)
    patience: int = setting(15, "Updates without a better gauge before stopping; 0: never.", low=0)
    smoothing: float = setting(0.3, "Weight of the newest reading in the smoothed gauge.", low=0.01)
    max_length_ratio: float = setting(2.5, "Stop when replies grow longer than this, times.", low=1)
    min_length_ratio: float = setting(0.2, "Stop when replies grow shorter than this, times.")
    max_unfinished: float = setting(0.1, "Stop when unfinished replies rise by more than this.")
    min_distinct: float = setting(0.3, "Stop when distinct replies fall under this share.", low=0.0)
    micro_tokens: int = setting(4096, "Padded tokens a forward; halved when memory runs out.")
    evaluate: int = setting(128, "Held-out prompts for the closing measurements.", low=8)


class PolicyLearner:
    """One run of a policy trainer; `run` is its story."""

    stage = ""

    def __init__(self, hyper: PolicySettings, context: TrainingContext) -> None:
        if "pm" not in context.stages:
            raise HhchatError(f"{self.stage} needs a preference model: put 'pm' before it")
        if not context.prompts:
            raise HhchatError("no training prompts: chat a little, or `hhchat prompts add`")
        self.settings, self.context = hyper, context
        self.model = context.model
        folder = context.stages["pm"]
        self.pm = PreferenceModel.load(self.model, folder)
        self.gauges = {
            name: PreferenceModel.load(self.model, folder / f"half-{name}")
            for name in ("a", "b")
            if (folder / f"half-{name}").is_dir()
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
        self.reward = Reward(Normalised(self.pm), context.terms, report=context.report)
        self.micro_tokens = hyper.micro_tokens
        given = hyper.learning_rate
        self.peak = hyper.rate_by_width / spec.hidden if given is None else given
        self.beta = 0.0
        self.best: tuple[float, int] | None = None  # smoothed gauge and update of the best policy
        self.best_tensors: dict[str, Tensor] = {}
        self.smooth: float | None = None
        self.first: dict[str, float] = {}  # readings of the first update
        self.bad_losses = 0
        self.stop = ""

    def optimise(self, factors: dict[str, float]) -> None:
        """AdamW over the modules, each with its factor of the learning rate."""
        self.optimiser = torch.optim.AdamW(
            [
                {"params": list(self.modules[name].parameters()), "factor": factor}
                for name, factor in factors.items()
            ],
            lr=self.peak,
            betas=(0.9, 0.95),
            eps=1e-5,  # trap 22: the default makes early updates aggressive
            weight_decay=0.0,
        )

    def update(self, update: int) -> tuple[dict[str, float], Sequence[Response]]:
        """Move the policy once -> readings, and replies sampled before the move (may be empty)."""
        raise HhchatError(f"{self.stage} has no update")

    def run(self) -> StageResult:
        """Updates until the end or a guard; then the best policy by the gauge is saved."""
        first = self.restore()
        glimpse = Glimpse(self.context, self.engine, self.reference, self.settings.max_new_tokens)
        for update in range(first, self.settings.updates):
            if self.context.stopped():
                raise Cancelled("stopped; `hhchat train --resume` goes on from here")
            sampler = {k: v.clone() for k, v in state.module_tensors("", self.policy).items()}
            self.best_tensors = self.best_tensors or sampler  # kept if it stops before any gauge
            self.schedule(update)
            readings, responses = self.update(update)
            if responses:
                self.stop = self.judge(update, readings, responses, sampler)
            readings["progress"] = (update + 1) / self.settings.updates
            for name, number in readings.items():
                self.context.log(Metric(self.stage, update, name, number))
            self.seal(update + 1)
            glimpse.look(update, self.policy)
            if self.stop:
                self.context.report(f"{self.stage} stopped at update {update + 1}: {self.stop}")
                break
        return self.finish()

    # pieces of an update

    def schedule(self, update: int) -> None:
        factor = warm_up(update, self.settings.updates, self.settings.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = self.peak * group["factor"] * factor

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
        return roll_out(self.engine, self.policy, prompts, seeds, self.settings.max_new_tokens)

    def scores(self, responses: Sequence[Response]) -> tuple[Tensor, dict[str, float]]:
        """Reward [B] before KL, a penalty on replies that do not end, and the parts' means."""
        totals, parts = self.reward.score([r.exchange for r in responses])
        cut = torch.tensor([not r.ended for r in responses])
        scores = torch.tensor(totals) - self.settings.unfinished_penalty * cut.float()
        readings = {f"reward_{name}": sum(v) / len(v) for name, v in parts.items()}
        readings["score"] = float(scores.mean())
        return scores, readings

    def step(self, finite: bool) -> None:
        """Clip each module's gradients and step; one that is not finite is skipped and counted."""
        norms = [
            torch.nn.utils.clip_grad_norm_(list(m.parameters()), self.settings.grad_norm)
            for m in self.modules.values()
        ]
        if finite and all(bool(torch.isfinite(n)) for n in norms):
            self.optimiser.step()
            self.bad_losses = 0
        else:
            self.bad_losses += 1
            self.context.report("a loss was not finite: that minibatch was skipped")

    def less_memory(self) -> None:
        """Halve the micro-batches after an out-of-memory error."""
        if self.micro_tokens < 64:
            raise HhchatError("out of memory even one reply at a time")
        self.micro_tokens //= 2
        self.optimiser.zero_grad(set_to_none=True)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self.context.report(f"out of memory: micro-batches of {self.micro_tokens} tokens from here")

    # gauges and guards

    def judge(
        self,
        update: int,
        readings: dict[str, float],
        responses: Sequence[Response],
        sampler: dict[str, Tensor],
    ) -> str:
        """Read the half PMs, keep the best policy, and give the reason to stop, or ''.

        `sampler` is the policy that the replies are of: the one before this update. The policy is
        trained on the full PM only, so the halves are its train and test gauges (section 4.2)."""
        exchanges = [r.exchange for r in responses]
        found = []
        for name, half in self.gauges.items():
            value = sum(Normalised(half).score(exchanges)) / len(exchanges)
            readings[f"gauge_{name}"] = value
            found.append(value)
        gauge = sum(found) / len(found) if found else readings["score"]
        readings["gauge"] = gauge
        readings |= shape_readings(responses)
        stop = self.guard(readings)
        if stop:
            return stop
        weight = 1.0 if self.smooth is None else self.settings.smoothing
        before = gauge if self.smooth is None else self.smooth
        self.smooth = (1 - weight) * before + weight * gauge
        readings["gauge_smooth"] = self.smooth
        if self.best is None or self.smooth > self.best[0]:
            self.best, self.best_tensors = (self.smooth, update), sampler
        elif self.settings.patience and update - self.best[1] >= self.settings.patience:
            return f"the gauge has not risen for {self.settings.patience} updates"
        return ""

    def guard(self, readings: dict[str, float]) -> str:
        hyper = self.settings
        if not self.first:
            self.first = {k: readings[k] for k in ("length", "unfinished", "distinct")}
        ratio = readings["length"] / max(self.first["length"], 1.0)
        if self.bad_losses >= 2:
            return "two losses in a row were not finite"
        if not math.isfinite(readings["gauge"]):
            return "the gauge is not finite"
        if readings.get("kl", 0.0) > hyper.max_kl:
            return f"KL {readings['kl']:.1f} is over the budget of {hyper.max_kl:g} nats"
        if readings["unfinished"] > self.first["unfinished"] + hyper.max_unfinished:
            return f"{readings['unfinished']:.0%} of the replies do not end"
        if not hyper.min_length_ratio <= ratio <= hyper.max_length_ratio:
            return f"replies are {ratio:.2f} times as long as at the start"
        if readings["distinct"] < hyper.min_distinct * self.first["distinct"]:
            return f"only {readings['distinct']:.0%} of the replies are distinct"
        return ""

    # state

    def seal(self, update: int) -> None:
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            tensors |= state.module_tensors(name, module)
        tensors |= state.optimiser_tensors("adam", self.optimiser)
        tensors |= {f"best{k}": v for k, v in self.best_tensors.items()}
        numbers = {
            "update": self.settings.updates if self.stop else update,
            "beta": self.beta,
            "best": self.best,
            "smooth": self.smooth,
            "first": self.first,
            "bad_losses": self.bad_losses,
            "micro_tokens": self.micro_tokens,
            "stop": self.stop,
        }
        state.seal(self.context.state, tensors, numbers)

    def restore(self) -> int:
        """Go on from the sealed state, if there is one; the update to do next."""
        sealed = state.unseal(self.context.state)
        if sealed is None:
            return 0
        tensors, numbers = sealed
        for name, module in self.modules.items():
            state.restore_module(name, module, tensors)
        state.restore_optimiser("adam", self.optimiser, tensors)
        self.best_tensors = {
            k.removeprefix("best"): v for k, v in tensors.items() if k.startswith("best/")
        }
        self.beta = float(numbers["beta"])
        self.best = None if numbers["best"] is None else (numbers["best"][0], numbers["best"][1])
        self.smooth = numbers["smooth"]
        self.first = dict(numbers["first"])
        self.bad_losses = int(numbers["bad_losses"])
        self.micro_tokens = int(numbers["micro_tokens"])
        self.stop = str(numbers["stop"])
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
        after = roll_out(self.engine, self.policy, some, seeds, hyper.max_new_tokens)
        scored = score_roles(self.model, after, self.policy, self.reference, None)
        kl = response_kl(scored.logprobs_BT, scored.reference_BT, scored.tokens.mask_BT)
        measured = [mean_of("kl", kl, "nats/response")]
        save_adapter(self.policy, context.out, self.model.name)
        info: dict[str, Any] = {
            "best_update": None if self.best is None else self.best[1],
            "stop": self.stop,
            "beta": self.beta,
        }
        (context.out / f"{self.stage}.json").write_text(json.dumps(info, indent=1))
        # reply by reply for the run's page, whose histogram is of what the gate reads as `kl`
        replies = {"kl": kl.tolist(), "tokens": [len(r.tokens) for r in after]}
        return StageResult(tuple(measured), policy=context.out, info={**info, "replies": replies})


def shape_readings(responses: Sequence[Response]) -> dict[str, float]:
    """Length in tokens, share cut by the limit, share of distinct replies."""
    n = len(responses)
    return {
        "length": sum(len(r.tokens) for r in responses) / n,
        "unfinished": sum(not r.ended for r in responses) / n,
        "distinct": len({r.text for r in responses}) / n,
    }


def kl_readings(scored: Scored) -> dict[str, float]:
    """KL to the reference, per response (k1 and the never negative k3) and per token."""
    mask = scored.tokens.mask_BT
    kl = response_kl(scored.logprobs_BT, scored.reference_BT, mask)
    return {
        "kl": float(kl.mean()),
        "kl_k3": float(response_k3(scored.logprobs_BT, scored.reference_BT, mask).mean()),
        "kl_per_token": float(kl.sum() / mask.sum()),
        "entropy": float(-(scored.logprobs_BT * mask).sum() / mask.sum()),
    }


@dataclass(frozen=True)
class Normalised:
    """A PM's scores with mean 0 and sd 1 on the reference's replies, frozen before RL (trap 19)."""

    pm: PreferenceModel

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        mean, sd = self.pm.anchor
        rows = [
            judged(self.pm.model, e.messages, [reply_ids(self.pm.model, e.reply)])
            for e in exchanges
        ]
        return [(line[0] - mean) / sd for line in self.pm.raw(rows)]


def mean_of(name: str, values: Tensor, unit: str) -> Measurement:
    """Mean with a 95% normal interval."""
    n = len(values)
    mean = float(values.mean())
    half = 1.96 * float(values.std()) / math.sqrt(n) if n > 1 else math.inf
    return Measurement(name, mean, mean - half, mean + half, n, unit)
