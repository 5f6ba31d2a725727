"""PPO on the preference model: r = score - beta KL(policy || reference) (Bai et al. 2022, 4.1).

Read downward: `train` is the loop, `Learner.update` the algorithm. An update is 1 prompts,
2 one reply each, 3 scores, 4 rewards, 5 advantages, 6 epochs of clipped minibatches, 7 the KL
controller, 8 gauges and guards, 9 the seal. Policy, reference and value are LoRA roles of one base.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from hhchat_trainers import state
from hhchat_trainers.maths import (
    adapt_beta,
    explained_variance,
    gae,
    kl_rewards,
    masked_mean,
    masked_whiten,
    policy_loss,
    response_k3,
    response_kl,
    value_loss,
    warm_up,
)
from hhchat_trainers.rollout import Response, Scored, logprobs_of, roll_out, score_roles, tensors
from torch import Tensor

from hhchat.hookspecs import hookimpl
from hhchat.model import (
    Adapter,
    LocalEngine,
    PreferenceModel,
    load_adapter,
    save_adapter,
)
from hhchat.model.preference import ScalarHead, by_length, judged, reply_ids
from hhchat.protocols import StageResult, TrainingContext
from hhchat.rewards import Reward
from hhchat.settings import setting
from hhchat.types import Cancelled, HhchatError, Measurement, Metric, Prompt


@dataclass(frozen=True)
class PPO:
    """Hyperparameters of PPO; the `[ppo]` table. KL is in nats per response throughout."""

    name: ClassVar[str] = "ppo"

    updates: int = setting(50, "Updates at most; guards may end the run before.", low=1)
    batch: int = setting(64, "Responses an update.", low=2)
    minibatches: int = setting(2, "Minibatches an epoch.", low=1)
    epochs: int = setting(4, "Passes over each batch: the paper's K.", low=1)
    rank: int = setting(16, "LoRA rank of policy and value.", low=1)
    learning_rate: float = setting(4e-4, "Peak learning rate of the policy.", low=0.0)
    value_rate: float = setting(2.0, "Learning rate of the value role, times learning_rate.", low=0)
    warmup: float = setting(0.05, "Share of the updates that warm up.", low=0.0, high=1.0)
    clip: float = setting(0.2, "PPO's epsilon.", low=0.0)
    value_clip: float = setting(0.2, "Clip of the value's move from its rollout value.", low=0.0)
    value_weight: float = setting(0.1, "Weight of the value loss.", low=0.0)
    gamma: float = setting(1.0, "Discount.", low=0.0, high=1.0)
    lam: float = setting(0.95, "GAE lambda.", low=0.0, high=1.0)
    beta: float = setting(0.05, "First KL coefficient, per nat, for scores of sd 1.", low=0.0)
    target_kl: float = setting(5.0, "KL the controller steers to; 0 keeps beta fixed.", low=0.0)
    max_kl: float = setting(8.0, "KL budget: above it the run stops.", low=0.0)
    unfinished_penalty: float = setting(2.0, "Taken off the score of a reply cut by length.", low=0)
    max_new_tokens: int = setting(128, "Longest rollout reply, in tokens.", low=1)
    grad_norm: float = setting(1.0, "Gradient norm limit of each role.", low=0.0)
    patience: int = setting(15, "Updates without a better gauge before stopping; 0: never.", low=0)
    smoothing: float = setting(0.3, "Weight of the newest reading in the smoothed gauge.", low=0.01)
    max_length_ratio: float = setting(2.5, "Stop when replies grow longer than this, times.", low=1)
    min_length_ratio: float = setting(0.2, "Stop when replies grow shorter than this, times.")
    max_unfinished: float = setting(
        0.1, "Stop when unfinished replies rise by more than this share."
    )
    min_distinct: float = setting(0.3, "Stop when distinct replies fall under this share.", low=0.0)
    micro_tokens: int = setting(
        4096, "Padded tokens a forward at most; halved when memory runs out."
    )
    evaluate: int = setting(128, "Held-out prompts for the closing measurements.", low=8)

    def train(self, context: TrainingContext) -> StageResult:
        """Improve the policy. Raises HhchatError without a preference model or prompts."""
        if "pm" not in context.stages:
            raise HhchatError("ppo needs a preference model: put 'pm' before it in [train] stages")
        if not context.prompts:
            raise HhchatError("ppo has no training prompts: chat a little, or `hhchat prompts add`")
        learner = Learner(self, context)
        stop = ""
        for update in range(learner.restore(), self.updates):
            if context.stopped():
                raise Cancelled("stopped; `hhchat train --resume` goes on from here")
            stop = learner.update(update)
            learner.seal(update + 1, stop)
            if stop:
                context.report(f"ppo stopped after update {update + 1}: {stop}")
                break
        return learner.finish()


@dataclass
class Learner:
    """What PPO carries from update to update; everything in it is sealed."""

    hyper: PPO
    context: TrainingContext
    beta: float = 0.0
    best: tuple[float, int] | None = None  # smoothed gauge and update of the best policy
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    smooth: float | None = None
    first: dict[str, float] = field(default_factory=dict)  # readings of the first update
    bad_losses: int = 0
    stop: str = ""

    def __post_init__(self) -> None:
        hyper, context = self.hyper, self.context
        self.model = context.model
        device = self.model.device
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
            self.reference.to(device).requires_grad_(False)
            self.policy.copy_from(self.reference)
        # The value starts from the PM's adapter, which reads replies for what they are worth.
        self.value = Adapter(spec, self.pm.role.adapter.rank)
        self.value.copy_from(self.pm.role.adapter)
        self.head = ScalarHead(spec.hidden, scale=0.0)
        for module in (self.policy, self.value, self.head):
            module.to(device)
        self.optimiser = torch.optim.AdamW(
            [
                {"params": list(self.policy.parameters()), "factor": 1.0},
                {"params": list(self.value.parameters()), "factor": hyper.value_rate},
                {"params": list(self.head.parameters()), "factor": hyper.value_rate},
            ],
            lr=hyper.learning_rate,
            betas=(0.9, 0.95),
            eps=1e-5,  # trap 22
            weight_decay=0.0,
        )
        self.beta = hyper.beta
        self.engine = LocalEngine(self.model)
        self.micro_tokens = hyper.micro_tokens
        self.reward = Reward(self.scorer(self.pm), context.terms, report=context.report)

    # the algorithm

    def update(self, update: int) -> str:
        """One update; the reason to stop, or ''."""
        hyper, context = self.hyper, self.context
        sampler = {k: v.clone() for k, v in state.module_tensors("policy", self.policy).items()}
        # 1. prompts of the training split, in an order that this update's number fixes
        prompts = self.prompts(update)
        # 2. one reply each, at temperature 1
        seeds = [state.seed_for(context.seed, "rollout", update, i) for i in range(len(prompts))]
        responses = roll_out(self.engine, self.policy, prompts, seeds, hyper.max_new_tokens)
        # 3. log-probabilities, reference and values in one pass of the training forward, so that
        #    the first ratio is 1 (trap 12); scores of the finished copy of each reply (trap 7)
        scored = score_roles(
            self.model,
            responses,
            self.policy,
            self.reference,
            (self.value, self.head),
            budget=self.micro_tokens,
        )
        totals, parts = self.reward.score([r.exchange for r in responses])
        ended = torch.tensor([r.ended for r in responses])
        scores = torch.tensor(totals) - hyper.unfinished_penalty * (~ended).float()
        # 4. the score on the last token, -beta log-ratio on each
        mask = scored.tokens.mask_BT
        rewards = kl_rewards(scores, scored.logprobs_BT, scored.reference_BT, mask, self.beta)
        # 5. advantages, whitened over real tokens (rewards are not: trap 20)
        assert scored.values_BT is not None
        advantages, returns = gae(rewards, scored.values_BT, mask, hyper.gamma, hyper.lam)
        learned = self.learn(update, responses, scored, masked_whiten(advantages, mask), returns)
        # 7. the KL controller
        kl = response_kl(scored.logprobs_BT, scored.reference_BT, mask)
        readings = {
            "score": float(scores.mean()),
            "kl": float(kl.mean()),
            "kl_k3": float(response_k3(scored.logprobs_BT, scored.reference_BT, mask).mean()),
            "kl_per_token": float(kl.sum() / mask.sum()),
            "beta": self.beta,
            "length": float(mask.sum(-1).mean()),
            "unfinished": float((~ended).float().mean()),
            "distinct": len({r.text for r in responses}) / len(responses),
            "explained_variance": float(explained_variance(scored.values_BT, returns, mask)),
            "entropy": float(-masked_mean(scored.logprobs_BT, mask)),
            **{f"reward_{name}": sum(v) / len(v) for name, v in parts.items()},
            **learned,
        }
        if hyper.target_kl > 0:
            self.beta = adapt_beta(self.beta, readings["kl"], hyper.target_kl)
        # 8. the halves' PMs judge the same replies; the policy never sees their gradients
        exchanges = [r.exchange for r in responses]
        gauge = []
        for name, half in self.gauges.items():
            value = sum(self.scorer(half).score(exchanges)) / len(exchanges)
            readings[f"gauge_{name}"] = value
            gauge.append(value)
        judged_by = sum(gauge) / len(gauge) if gauge else readings["score"]
        stop = self.guard(update, readings, judged_by, sampler)
        readings["gauge"] = judged_by
        readings["progress"] = (update + 1) / hyper.updates
        for name, number in readings.items():
            context.log(Metric("ppo", update, name, number))
        return stop

    def learn(
        self,
        update: int,
        responses: Sequence[Response],
        scored: Scored,
        advantages: Tensor,
        returns: Tensor,
    ) -> dict[str, float]:
        """6. K epochs of clipped minibatches. A non-finite loss skips its step."""
        hyper = self.hyper
        factor = warm_up(update, hyper.updates, hyper.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = hyper.learning_rate * group["factor"] * factor
        sums: dict[str, float] = {"policy_loss": 0.0, "value_loss": 0.0, "clipped": 0.0}
        steps, tokens, first_ratio = 0, 0.0, 0.0
        size = math.ceil(len(responses) / hyper.minibatches)
        for epoch in range(hyper.epochs):
            generator = state.generator_for(self.context.seed, "minibatch", update, epoch)
            order = torch.randperm(len(responses), generator=generator).tolist()
            for at in range(0, len(order), size):
                chosen = order[at : at + size]
                step = self.minibatch(responses, scored, advantages, returns, chosen)
                if steps == 0:
                    first_ratio = step.pop("ratio_error")
                else:
                    step.pop("ratio_error")
                for name in sums:
                    sums[name] += step[name]
                tokens += step["tokens"]
                steps += 1
        return {
            **{name: value / max(tokens, 1.0) for name, value in sums.items()},
            "ratio_error": first_ratio,
        }

    def minibatch(
        self,
        responses: Sequence[Response],
        scored: Scored,
        advantages: Tensor,
        returns: Tensor,
        chosen: Sequence[int],
    ) -> dict[str, float]:
        """One optimiser step over the chosen responses, in micro-batches of like lengths."""
        while True:
            try:
                return self._minibatch(responses, scored, advantages, returns, chosen)
            except torch.OutOfMemoryError:
                if self.micro_tokens < 64:
                    raise HhchatError("out of memory even one reply at a time") from None
                self.micro_tokens //= 2
                self.optimiser.zero_grad(set_to_none=True)
                if self.model.device.type == "cuda":
                    torch.cuda.empty_cache()
                self.context.report(f"out of memory: micro-batches of {self.micro_tokens} tokens")

    def _minibatch(
        self,
        responses: Sequence[Response],
        scored: Scored,
        advantages: Tensor,
        returns: Tensor,
        chosen: Sequence[int],
    ) -> dict[str, float]:
        hyper, device = self.hyper, self.model.device
        mask_all = scored.tokens.mask_BT
        total = float(mask_all[list(chosen)].sum())
        out = {"policy_loss": 0.0, "value_loss": 0.0, "clipped": 0.0, "ratio_error": 0.0}
        self.optimiser.zero_grad(set_to_none=True)
        assert scored.values_BT is not None
        sizes = [len(responses[i].prompt) + len(responses[i].tokens) for i in chosen]
        for group in by_length(sizes, self.micro_tokens):
            rows = [chosen[i] for i in group]
            part = tensors([responses[i] for i in rows])
            width = part.tokens_BT.shape[1]
            mask = part.mask_BT.to(device)

            def cut(x: Tensor, rows: list[int] = rows, width: int = width) -> Tensor:
                return x[rows, :width].to(device)

            hidden = self.model.trunk.hidden(
                part.rows.to(device), (self.policy, self.value), dtype=self.model.fast
            )
            logprobs = logprobs_of(self.model, hidden[0], part.tokens_BT.to(device))
            values = self.head(hidden[1])
            old = cut(scored.logprobs_BT)
            loss_p, clipped = policy_loss(logprobs, old, cut(advantages), mask, hyper.clip)
            loss_v = value_loss(values, cut(scored.values_BT), cut(returns), mask, hyper.value_clip)
            loss = (loss_p + hyper.value_weight * loss_v) / total
            torch.autograd.backward(loss)
            out["policy_loss"] += float(loss_p.detach())
            out["value_loss"] += float(loss_v.detach())
            out["clipped"] += float(clipped)
            error = float(((logprobs.detach() - old) * mask).abs().max())
            out["ratio_error"] = max(out["ratio_error"], error)
        norms = [
            torch.nn.utils.clip_grad_norm_(list(m.parameters()), hyper.grad_norm)
            for m in (self.policy, self.value, self.head)
        ]
        if all(bool(torch.isfinite(n)) for n in norms) and math.isfinite(out["policy_loss"]):
            self.optimiser.step()
            self.bad_losses = 0
        else:
            self.bad_losses += 1
            self.context.report("a loss was not finite: that minibatch was skipped")
        out["tokens"] = total
        return out

    # gauges and guards

    def guard(
        self,
        update: int,
        readings: dict[str, float],
        gauge: float,
        sampler: dict[str, Tensor],
    ) -> str:
        """Remember the best policy by the gauge; the reason to stop, or ''.

        `sampler` is the policy that the readings describe: the one before this update."""
        hyper = self.hyper
        if not self.first:
            self.first = {k: readings[k] for k in ("length", "unfinished", "distinct")}
        if self.bad_losses >= 2:
            return "two losses in a row were not finite"
        if not math.isfinite(gauge):
            return "the gauge is not finite"
        if readings["kl"] > hyper.max_kl:
            return f"KL {readings['kl']:.1f} is over the budget of {hyper.max_kl:g} nats"
        if readings["unfinished"] > self.first["unfinished"] + hyper.max_unfinished:
            return f"{readings['unfinished']:.0%} of the replies do not end"
        ratio = readings["length"] / max(self.first["length"], 1.0)
        if not hyper.min_length_ratio <= ratio <= hyper.max_length_ratio:
            return f"replies are {ratio:.2f} times as long as at the start"
        if readings["distinct"] < hyper.min_distinct * self.first["distinct"]:
            return f"only {readings['distinct']:.0%} of the replies are distinct"
        weight = hyper.smoothing if self.smooth is not None else 1.0
        before = self.smooth if self.smooth is not None else gauge
        self.smooth = (1 - weight) * before + weight * gauge
        readings["gauge_smooth"] = self.smooth
        if self.best is None or self.smooth > self.best[0]:
            self.best = (self.smooth, update)
            self.best_tensors = sampler
        elif hyper.patience and update - self.best[1] >= hyper.patience:
            return f"the gauge has not risen for {hyper.patience} updates"
        return ""

    def scorer(self, pm: PreferenceModel) -> _Normalised:
        return _Normalised(pm)

    def prompts(self, update: int) -> list[Prompt]:
        """This update's prompts: the pool in shuffled passes, no prompt twice in a pass."""
        pool, size = self.context.prompts, self.hyper.batch
        out: list[Prompt] = []
        at = update * size
        while len(out) < size:
            lap, place = divmod(at + len(out), len(pool))
            generator = state.generator_for(self.context.seed, "prompts", lap)
            order = torch.randperm(len(pool), generator=generator)
            out += [pool[i] for i in order[place : place + size - len(out)].tolist()]
        return out

    # state

    def seal(self, update: int, stop: str) -> None:
        state.seal(
            self.context.state,
            {
                **state.module_tensors("policy", self.policy),
                **state.module_tensors("value", self.value),
                **state.module_tensors("head", self.head),
                **state.optimiser_tensors("adam", self.optimiser),
                **{f"best/{k}": v for k, v in self.best_tensors.items()},
            },
            {
                "update": self.hyper.updates if stop else update,
                "beta": self.beta,
                "best": self.best,
                "smooth": self.smooth,
                "first": self.first,
                "bad_losses": self.bad_losses,
                "micro_tokens": self.micro_tokens,
                "stop": stop,
            },
        )
        self.stop = stop

    def restore(self) -> int:
        """Go on from the sealed state; the update to do next."""
        sealed = state.unseal(self.context.state)
        if sealed is None:
            return 0
        tensors_, numbers = sealed
        state.restore_module("policy", self.policy, tensors_)
        state.restore_module("value", self.value, tensors_)
        state.restore_module("head", self.head, tensors_)
        state.restore_optimiser("adam", self.optimiser, tensors_)
        best = {k.removeprefix("best/"): v for k, v in tensors_.items() if k.startswith("best/")}
        self.best_tensors = best
        self.beta = float(numbers["beta"])
        self.best = None if numbers["best"] is None else tuple(numbers["best"])
        self.smooth = numbers["smooth"]
        self.first = dict(numbers["first"])
        self.bad_losses = int(numbers["bad_losses"])
        self.micro_tokens = int(numbers["micro_tokens"])
        self.stop = str(numbers["stop"])
        return int(numbers["update"])

    # the end

    def finish(self) -> StageResult:
        """Take the best policy by the gauge, measure it beside the reference, and save it."""
        context, hyper = self.context, self.hyper
        if self.best_tensors:
            state.restore_module("policy", self.policy, self.best_tensors)
        prompts = list(context.heldout_prompts or context.prompts)
        order = torch.randperm(len(prompts), generator=state.generator_for(0, "closing")).tolist()
        some = [prompts[i] for i in order[: hyper.evaluate]]
        seeds = [state.seed_for(0, "closing", i) for i in range(len(some))]
        after = roll_out(self.engine, self.policy, some, seeds, hyper.max_new_tokens)
        before = roll_out(self.engine, self.reference, some, seeds, hyper.max_new_tokens)
        scored = score_roles(self.model, after, self.policy, self.reference, None)
        kl = response_kl(scored.logprobs_BT, scored.reference_BT, scored.tokens.mask_BT)
        measured = [mean_of("kl", kl, "nats/response")]
        for name, half in self.gauges.items():
            gain = torch.tensor(self.scorer(half).score([r.exchange for r in after]))
            gain = gain - torch.tensor(self.scorer(half).score([r.exchange for r in before]))
            measured.append(mean_of(f"gauge_gain_{name}", gain, "sd"))
        save_adapter(self.policy, context.out, self.model.name)
        info: dict[str, Any] = {
            "best_update": None if self.best is None else self.best[1],
            "stop": self.stop,
            "beta": self.beta,
        }
        (context.out / "ppo.json").write_text(json.dumps(info, indent=1))
        return StageResult(tuple(measured), policy=context.out, info=info)


@dataclass(frozen=True)
class _Normalised:
    """A PM's scores with mean 0 and sd 1 on the reference's replies, frozen before RL (trap 19)."""

    pm: PreferenceModel

    def score(self, exchanges: Sequence[Any]) -> list[float]:
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


@hookimpl
def register_trainers(register: Callable[[type], None]) -> None:
    register(PPO)
