"""The preference model: pairwise logistic loss on the user's picks (Bai et al. 2022, section 3).

Read downward: 1 turn comparisons into ids, 2 fit the full model and one on each half of the picks,
3 measure it on picks it has not seen, 4 anchor its scores on replies of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from hhchat_trainers import state
from hhchat_trainers.adam import Adam, Group
from hhchat_trainers.descent import Budget, Descent, dealt, fewer_rows, total_of
from hhchat_trainers.maths import preference_loss, warm_up
from hhchat_trainers.rollout import roll_out

from hhchat.hookspecs import hookimpl
from hhchat.model import LocalEngine, Model, PreferenceModel
from hhchat.model.fitting import until_it_fits
from hhchat.model.preference import (
    Judged,
    PreferenceRole,
    ScalarHead,
    judged,
    pack,
    reply_ids,
    size_of,
)
from hhchat.model.taste import CONFIDENCE, RIDGE, fit_taste
from hhchat.parallel import ALONE
from hhchat.protocols import StageResult, TrainingContext
from hhchat.settings import setting
from hhchat.stats import wilson
from hhchat.types import BadInput, Cancelled, Comparison, HhchatError, Measurement, Metric

T = TypeVar("T")


@dataclass(frozen=True)
class PM:
    """Hyperparameters of the preference model; the `[pm]` table."""

    name: ClassVar[str] = "pm"
    shares_work: ClassVar[bool] = True

    prior: str = setting(
        "auto",
        "A preference model to start from, as a folder; auto: the one beside the base model, "
        "where there is one; none: the bare base.",
    )
    rank: int = setting(16, "LoRA rank of the adapter, where no prior sets it.", low=1)
    learning_rate: float | None = setting(
        None,
        "Peak learning rate; none: 0.0077 / width from a prior (3e-5 for the starter), else "
        "0.077 / width. 0: the prior's features stay as they are, and the head is its start.",
        low=0.0,
    )
    head_start: float = setting(
        RIDGE,
        "Ridge of the fit on the prior's features that the head starts from, in mean squared "
        "differences; 0: a random head.",
        low=0.0,
    )
    head_rate: float = setting(
        50.0, "Learning rate of the scalar head, times learning_rate, at width 256.", low=0.0
    )
    weight_decay: float = setting(0.01, "AdamW weight decay.", low=0.0)
    epochs: int = setting(1, "Passes over the picks; more overfit a few hundred of them.", low=1)
    batch_pairs: int = setting(4, "Pairs an update.", low=1)
    warmup: float = setting(0.1, "Share of the updates that warm up.", low=0.0, high=1.0)
    soft_labels: bool = setting(True, "Use the strength of a pick as a soft label.")
    halves: bool = setting(True, "Fit two more models on two halves of the picks, as gauges.")
    anchors: int = setting(256, "Replies of the reference on which scores are anchored.", low=8)
    max_new_tokens: int = setting(128, "Longest anchor reply, in tokens.", low=1)
    patience: int = setting(
        2, "Checks in a row without a better held-out loss that are borne; 0: all.", low=0
    )

    def check(self) -> None:
        """Raises BadInput for a prior that is not there."""
        if self.prior not in ("auto", "none"):
            _prior_at(Path(self.prior).expanduser())

    def train(self, context: TrainingContext) -> StageResult:
        """Fit, measure, anchor. Raises HhchatError when no pair is left to learn from."""
        model = context.model
        pairs = told_apart(
            (pair_of(model, c, self.soft_labels) for c in context.comparisons), context.report
        )
        heldout = [p for c in context.heldout if (p := pair_of(model, c, self.soft_labels))]
        if len(pairs) < 2:
            raise HhchatError(f"only {len(pairs)} usable comparisons for the preference model")

        # 2. the full model, then one on each half of the picks (section 4.2)
        parts = {"full": pairs}
        if self.halves and len(pairs) >= 8:
            parts |= halves(pairs, state.seed_for(context.seed, "halves"))
            if len(parts) == 1:
                context.report(
                    "all picks are of one conversation: no halves of them, and so no gauges"
                )
        total = sum(self.updates(len(p)) for p in parts.values())
        models: dict[str, PreferenceModel] = {}
        budget = Budget(context.model.micro, context.report, context.world or ALONE)
        read = self.read(model, pairs, budget)
        done = 0
        for which, part in parts.items():
            stop_on = heldout if which == "full" else []
            models[which] = self.fit(context, budget, which, part, read, stop_on, done, total)
            done += self.updates(len(part))

        # 3. what it knows of picks it has not seen
        tested = {"heldout": gaps_by_id(models["full"], heldout, budget)}
        measured = measure([gap for _, gap in tested["heldout"]], "pm_accuracy")
        if "a" in models:
            tested["cross"] = cross(models["a"], models["b"], parts["a"], parts["b"], budget)
            crossed = [gap for _, gap in tested["cross"]]
            if crossed:
                measured.append(accuracy("pm_cross_accuracy", crossed))
        for m in measured:
            context.log(Metric("pm", total, m.name, m.value))
        known = [p for p in pairs if not p.active] if "a" in models else heldout
        if known:
            context.log(Metric("pm", total, "pm_length_accuracy", length_accuracy(known)))

        # 4. scores are anchored on the reference's replies (B.2), the same ones for every model
        prompts = [*context.prompts]
        if prompts:
            self.anchor(context, budget, models, prompts)
        for which, made in models.items():
            folder = context.out if which == "full" else context.out / f"half-{which}"
            made.info = {"pairs": len(parts[which]), "seed": context.seed}
            if budget.world.main:
                made.save(folder)
        gauges = {which: str(context.out / f"half-{which}") for which in models if which != "full"}
        info = {"gauges": gauges, "tested": tested}
        return StageResult(tuple(measured), preference=context.out, info=info)

    def updates(self, pairs: int) -> int:
        return self.per_epoch(pairs) * self.epochs

    def per_epoch(self, pairs: int) -> int:
        return max(1, math.ceil(pairs / self.batch_pairs))

    def fit(
        self,
        context: TrainingContext,
        budget: Budget,
        which: str,
        pairs: Sequence[Pair],
        read: Mapping[Pair, torch.Tensor],
        heldout: Sequence[Pair],
        done: int,
        total: int,
    ) -> PreferenceModel:
        """One PM from the base, sealed after every update and resumed from where it was; `read` is
        what the prior reads in the pairs."""
        model = context.model
        seed = state.seed_for(context.seed, "pm", which)
        made = PreferenceModel(model, self.start(model, seed))
        role = made.role
        primed = bool(read)
        if primed:
            self.prime(made, pairs, read)
        head = [*role.head.parameters(), role.context_end]
        width = model.spec.hidden
        usual = (0.0077 if primed else 0.077) / width
        peak = usual if self.learning_rate is None else self.learning_rate
        if primed and not peak:
            context.log(Metric("pm", done, "progress", (done + self.updates(len(pairs))) / total))
            return made
        groups = [
            Group(list(role.adapter.parameters()), weight_decay=self.weight_decay),
            # Adam moves a readout of H inputs by H times its rate: the wider, the slower
            Group(head, self.head_rate * 256 / width),
        ]
        optimiser = Adam(groups)
        descent = Descent(optimiser, budget)
        folder = context.state / which
        updates, first = self.updates(len(pairs)), 0
        best: tuple[float, dict[str, torch.Tensor]] | None = None
        stale = 0
        sealed = state.unseal(folder)
        if sealed is not None:
            tensors, numbers = sealed
            state.restore_module("role", role, tensors)
            optimiser.restore(state.under("adam/", tensors))
            first, stale = int(numbers["update"]), int(numbers["stale"])
            budget.tokens, descent.bad = int(numbers["micro_tokens"]), int(numbers["bad_losses"])
            if numbers["best"] is not None:
                kept = {k: v for k, v in tensors.items() if k.startswith("best/")}
                best = (float(numbers["best"]), kept)
        per_epoch = self.per_epoch(len(pairs))
        check = max(1, per_epoch // 4)
        # Inside a single epoch the loss over a few held-out pairs is mostly noise.
        enough = 12 if self.epochs > 1 else 50
        stopping = self.patience > 0 and len(heldout) >= enough
        batches = lru_cache(maxsize=1)(
            lambda epoch: self.batches(pairs, state.generator_for(seed, "order", epoch))
        )
        for update in range(first, updates):
            if budget.settle(context.stopped()):
                raise Cancelled("stopped; `hhchat train --resume` goes on from here")
            epoch, at = divmod(update, per_epoch)
            batch = [pairs[i] for i in batches(epoch)[at]]
            optimiser.rate = peak * warm_up(update, updates, self.warmup)
            loss, right = self.update(made, descent, batch)
            log(context, done + update, which, {"loss": loss, "accuracy": right})
            context.log(Metric("pm", done + update, "progress", (done + update + 1) / total))
            if descent.spoilt and best is None:
                # the last seal is from before the loss, or the step, that was one too many
                before, _ = state.unseal(folder) or ({}, {})
                if not before or not before["adam/steps"].any():
                    raise HhchatError(
                        f"no preference model came of it: {descent.why}; lower [pm] learning_rate"
                    )
                state.restore_module("role", role, before)
            due = (update + 1) % check == 0 or update + 1 == updates
            if stopping and due and not descent.spoilt:
                now = heldout_loss(made, heldout, budget)
                log(context, done + update, which, {"heldout_loss": now})
                if best is None or now < best[0]:
                    kept = state.module_tensors("best", role)
                    best, stale = (now, {k: v.clone() for k, v in kept.items()}), 0
                else:
                    stale += 1
            # sealed as through when it stops early, so that a resumed run does not go on with it
            through = descent.spoilt or (stopping and stale > self.patience)
            state.seal(
                folder,
                {
                    **state.module_tensors("role", role),
                    **{f"adam/{k}": v for k, v in optimiser.tensors().items()},
                    **({} if best is None else best[1]),
                },
                {
                    "update": updates if through else update + 1,
                    "best": best[0] if best else None,
                    "stale": stale,
                    "micro_tokens": budget.tokens,
                    "bad_losses": descent.bad,
                },
                budget.world,
            )
            if through:
                if descent.spoilt:
                    name = "pm" if which == "full" else f"pm (half {which})"
                    context.report(f"{name} stopped at update {update + 1}: {descent.why}")
                break
        if best is not None:
            state.restore_module("best", role, best[1])
        return made

    def start(self, model: Model, seed: int) -> PreferenceRole:
        """A fresh role on the base, or on the prior (the paper's PMP, A.2), with a fresh head."""
        folder = prior_of(model, self.prior)
        if folder is None:
            return PreferenceRole(model, self.rank, seed=seed)
        role = PreferenceModel.load(model, folder).role
        role.head = ScalarHead(model.spec.hidden, seed=seed)
        return role.to(model.device)

    def read(self, model: Model, pairs: Sequence[Pair], budget: Budget) -> dict[Pair, torch.Tensor]:
        """Each pair's difference [H] in the prior's features, once for all that start from it;
        {} where none does."""
        folder = prior_of(model, self.prior)
        if folder is None or not self.head_start:
            return {}
        prior, rows = PreferenceModel.load(model, folder), [p.row for p in pairs]
        features = budget.world.spread(
            rows,
            [size_of(row) for row in rows],
            lambda some: budget.fitting(lambda tokens: prior.features(some, tokens=tokens)),
        )
        return {pair: f[0] - f[1] for pair, f in zip(pairs, features, strict=True)}

    def prime(
        self, made: PreferenceModel, pairs: Sequence[Pair], read: Mapping[Pair, torch.Tensor]
    ) -> None:
        """Start the head from what the picks say of the prior's features, before any moves.

        A random head spends the first dozens of picks on finding the features again."""
        targets = torch.tensor([p.target for p in pairs])
        try:
            taste = fit_taste(torch.stack([read[p] for p in pairs]), targets, self.head_start)
        except ValueError as error:
            raise HhchatError(f"the preference model cannot read this base: {error}") from None
        with torch.no_grad():
            made.role.head.weight.copy_(taste.weights)

    def batches(self, pairs: Sequence[Pair], generator: torch.Generator) -> list[list[int]]:
        """Pairs of each update of an epoch."""
        return dealt([size_of(p.row) for p in pairs], self.per_epoch(len(pairs)), generator)

    def update(
        self, made: PreferenceModel, descent: Descent, batch: Sequence[Pair]
    ) -> tuple[float, float]:
        """One optimiser step on a batch of pairs -> (loss, share ranked right)."""

        def loss(some: list[int]) -> tuple[torch.Tensor, dict[str, float]]:
            scores = made.forward(pack([batch[i].row for i in some]).to(made.model.device))
            target = torch.tensor([batch[i].target for i in some], device=scores.device)
            losses = preference_loss(scores[:, 0], scores[:, 1], target)
            return losses.sum(), {"right": float((scores[:, 0] > scores[:, 1]).sum())}

        found = descent.step([size_of(p.row) for p in batch], len(batch), loss)
        return total_of(found, "loss") / len(batch), total_of(found, "right") / len(batch)

    def anchor(
        self,
        context: TrainingContext,
        budget: Budget,
        models: dict[str, PreferenceModel],
        prompts: Sequence[Any],
    ) -> None:
        """Mean and sd of each PM's raw scores on the same replies of the bare base."""
        engine = LocalEngine(context.model)
        chosen = torch.randperm(len(prompts), generator=state.generator_for(0, "anchor"))
        # several replies a prompt where there are few: one reply has no spread
        wanted = max(min(len(chosen), self.anchors), min(self.anchors, 32))
        some = [prompts[int(chosen[i % len(chosen)])] for i in range(wanted)]
        seeds = [state.seed_for(0, "anchor", i) for i in range(len(some))]
        replies = until_it_fits(
            lambda: roll_out(engine, None, some, seeds, self.max_new_tokens, budget.world),
            fewer_rows(engine, budget.report),
        )
        rows = [
            judged(context.model, r.messages, [reply_ids(context.model, r.text)]) for r in replies
        ]
        judges = list(models.values())
        scores = torch.tensor(budget.scores(judges, rows)).squeeze(-1)  # [replies, judges]
        for made, raw in zip(judges, scores.unbind(1), strict=True):
            made.anchor = (float(raw.mean()), float(raw.std().clamp_min(1e-3)))


def prior_of(model: Model, prior: str) -> Path | None:
    """Folder of the prior that `prior` names, or None. Raises BadInput when it is not there."""
    if prior == "none":
        return None
    if prior == "auto":
        folder = model.folder / "prior"
        return folder if (folder / "pm.json").is_file() else None
    return _prior_at(Path(prior).expanduser())


def _prior_at(folder: Path) -> Path:
    if (folder / "pm.json").is_file():
        return folder
    raise BadInput(f"[pm] prior: {folder} is not a preference model; give a folder, auto or none")


@dataclass(frozen=True, eq=False)
class Pair:
    """A comparison as ids: the conversation once, chosen then rejected; target of the loss."""

    row: Judged
    target: float
    talk: str = ""  # the conversation it is of
    id: str = ""  # the comparison's
    active: bool = False  # chosen to teach: it tests nothing


def pair_of(model: Model, comparison: Comparison, soft: bool) -> Pair | None:
    """None when the two replies read the same, see `row_of`."""
    row = row_of(model, comparison)
    if row is None:
        return None
    target = CONFIDENCE[comparison.strength] if soft else 1.0
    asked = (m.content for m in comparison.messages if m.role == "user")
    talk = comparison.conversation or next(asked, "")  # an import has its first question
    return Pair(row, target, talk, comparison.id, comparison.purpose == "active")


def row_of(model: Model, comparison: Comparison) -> Judged | None:
    """A comparison as ids, chosen then rejected, as far as they fit; None when the two replies are
    the same (they teach nothing, trap 2)."""
    replies = [reply_ids(model, r) for r in (comparison.chosen, comparison.rejected)]
    row = judged(model, comparison.messages, replies)
    return None if row.replies[0] == row.replies[1] else row


def told_apart(made: Iterable[T | None], report: Callable[[str], None]) -> list[T]:
    """Those that the model can tell apart; how many it can not is reported."""
    found = list(made)
    pairs = [pair for pair in found if pair is not None]
    if same := len(found) - len(pairs):
        report(f"{same} pairs are left out: both replies read the same to the model")
    return pairs


def halves(pairs: Sequence[Pair], seed: int) -> dict[str, list[Pair]]:
    """Two halves by whole conversations, so that no turn of one is tested on its neighbours."""
    talks: dict[str, list[Pair]] = {}
    for pair in pairs:
        talks.setdefault(pair.talk, []).append(pair)
    names = list(talks)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    found: dict[str, list[Pair]] = {"a": [], "b": []}
    for i in order:
        found["a" if len(found["a"]) <= len(found["b"]) else "b"] += talks[names[i]]
    return found if found["a"] and found["b"] else {}


def gaps(made: PreferenceModel, pairs: Sequence[Pair], budget: Budget | None = None) -> list[float]:
    """Score of chosen minus rejected, a pair each."""
    found = (budget or Budget()).scores([made], [p.row for p in pairs])
    return [line[0] - line[1] for (line,) in found]


def heldout_loss(made: PreferenceModel, pairs: Sequence[Pair], budget: Budget) -> float:
    gap = torch.tensor(gaps(made, pairs, budget))
    return float(preference_loss(gap, torch.zeros_like(gap)).mean())


def accuracy(name: str, found: Sequence[float]) -> Measurement:
    right = sum(1.0 if g > 0 else 0.5 if g == 0 else 0.0 for g in found)
    low, high = wilson(right, len(found))
    return Measurement(name, right / len(found), low, high, len(found))


def length_accuracy(pairs: Sequence[Pair]) -> float:
    """Share that length alone ranks right, longer or shorter first, whichever is right more often:
    a preference model that does no better may have learnt length and nothing else (trap 23)."""
    gaps = [len(p.row.replies[0]) - len(p.row.replies[1]) for p in pairs]
    longer = sum(1.0 if g > 0 else 0.5 if g == 0 else 0.0 for g in gaps) / len(gaps)
    return max(longer, 1 - longer)


def gaps_by_id(
    made: PreferenceModel, pairs: Sequence[Pair], budget: Budget | None = None
) -> list[tuple[str, float]]:
    """(id of the comparison, score of chosen minus rejected) of each pair, for the run's page."""
    found = gaps(made, pairs, budget)
    return [(pair.id, gap) for pair, gap in zip(pairs, found, strict=True)]


def cross(
    a: PreferenceModel,
    b: PreferenceModel,
    part_a: Sequence[Pair],
    part_b: Sequence[Pair],
    budget: Budget | None = None,
) -> list[tuple[str, float]]:
    """Each half's model on the other half's picks: all picks are tested, each by a model that has
    not seen it, at the price of models that saw only half of the data. Pairs that were chosen to
    teach are left out: they are harder than what the assistant says by itself."""
    fair_a, fair_b = ([p for p in part if not p.active] for part in (part_a, part_b))
    return [*gaps_by_id(a, fair_b, budget), *gaps_by_id(b, fair_a, budget)]


def measure(found: Sequence[float], name: str) -> list[Measurement]:
    """Accuracy with its interval and the loss, of gaps; [] of none."""
    if not found:
        return []
    gap = torch.tensor(found)
    loss = float(preference_loss(gap, torch.zeros_like(gap)).mean())
    return [accuracy(name, found), Measurement("pm_loss", loss, n=len(found))]


def log(context: TrainingContext, step: int, which: str, values: dict[str, float]) -> None:
    suffix = "" if which == "full" else f"_half_{which}"
    for name, value in values.items():
        context.log(Metric("pm", step, name + suffix, value))


@hookimpl
def register_trainers(register: Callable[[type], None]) -> None:
    register(PM)
