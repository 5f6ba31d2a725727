"""What each lever of the preference model is worth, alone, in accuracy per pick.

A cell is one preference model fitted to the picks of one simulated user, and judged by that user's
true taste: on held-out prompts, how many of the pairs of the start's replies it ranks right, and
how often its favourite of all replies to a prompt is truly better than another one. Levers of one
user and seed share prompts, replies and noise, so that differences to the default are taken pair by
pair. Cells are kept as they finish: the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Report, chosen, parser, report_of, table
from benchmarks.levers_bank import REPLIES, Bank, bank, pick
from benchmarks.taught import USERS, interval
from hhchat.splits import split_of_messages
from hhchat.types import Comparison

if TYPE_CHECKING:
    import torch

    from hhchat.model import Model, PreferenceModel


@dataclass(frozen=True)
class Lever:
    """One departure from the default: settings of `[pm]`, labels, pairs, and what is averaged."""

    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    confidence: Mapping[int, float] = field(default_factory=dict)  # by strength
    candidates: int = 2
    plain: float = 0.25
    ensemble: bool = False


BOLD = {2: 0.75, 3: 0.9, 4: 0.97}
FROZEN = {"learning_rate": 0.0}  # fits in a second, so that a lever is cheap to look at
LEVERS = {
    "default": Lever("as `hhchat train` does it"),
    "before": Lever(
        "random head, three times the rate, bolder labels: the default until these were measured",
        {"head_start": 0.0, "learning_rate": 3e-4},
        BOLD,
    ),
    "active-4": Lever("of 4 candidates the pair that teaches most, a quarter plain", candidates=4),
    "ensemble": Lever("mean of the full model and the two halves", ensemble=True),
    "random-head": Lever("no head start", {"head_start": 0.0}),
    "faster": Lever("three times the learning rate", {"learning_rate": 1e-4}),
    "no-prior": Lever("from the bare base", {"prior": "none"}),
    "two-epochs": Lever("two passes over the picks", {"epochs": 2}),
    "frozen": Lever("the prior's features as they are, the head alone", FROZEN),
    "frozen-hard": Lever("frozen, strength ignored", {**FROZEN, "soft_labels": False}),
    "frozen-bold": Lever("frozen, strengths as 0.75, 0.9, 0.97", FROZEN, BOLD),
    "frozen-ridge-0.1": Lever("frozen, a third of the ridge", {**FROZEN, "head_start": 0.1}),
    "frozen-ridge-1": Lever("frozen, three times the ridge", {**FROZEN, "head_start": 1.0}),
    "frozen-ensemble": Lever(
        "frozen, mean of the full model and the halves", FROZEN, ensemble=True
    ),
    "frozen-active-4": Lever("frozen, of 4 candidates, a quarter plain", FROZEN, candidates=4),
    "frozen-active-8": Lever("frozen, of 8 candidates, a quarter plain", FROZEN, candidates=8),
}
TEST_PROMPTS = 240


def picks_of(
    model: Model, of: Bank, user: str, seed: int, count: int, lever: Lever
) -> list[Comparison]:
    """`count` picks as training finds them: none held out, none of the weakest strength."""
    rng = random.Random(f"{seed}:{user}")
    turns = random.Random(f"{seed}:{user}:plain")
    asker = None
    if lever.candidates > 2:
        from hhchat.model import PreferenceModel
        from hhchat.model.asking import LocalAsker

        asker = LocalAsker(lambda: PreferenceModel.load(model, model.folder / "prior"))
    found: list[Comparison] = []
    for place in range(min(count, len(of.prompts))):
        heldout = split_of_messages(of.prompts[place].messages) == "heldout"
        pair, purpose = (0, 1), "plain"
        if asker is not None and not heldout and turns.random() >= lever.plain:
            some = of.replies[place][: lever.candidates]
            two = asker.choose(of.prompts[place].messages, some)
            if two is not None:
                pair, purpose = two, "active"
        made = replace(pick(of, user, place, pair, rng, purpose), id=f"{place:06d}")
        first, second = made.replies
        if heldout or made.strength == 1 or first.text.split() == second.text.split():
            continue
        found.append(made)
        if asker is not None:
            asker.learn([made])
    return found


def scores_of(
    model: Model, test: Bank, pm: PreferenceModel, frozen: dict[str, torch.Tensor] | None
) -> torch.Tensor:
    """[prompts, replies] scores of the test bank. Features that no lever moves are kept."""
    import torch

    from hhchat.model.preference import judged, reply_ids

    kept = None if frozen is None else frozen.get("features")
    if kept is None:
        rows = [
            judged(model, p.messages, [reply_ids(model, g) for g in row])
            for p, row in zip(test.prompts, test.replies, strict=True)
        ]
        if frozen is None:
            return torch.tensor(pm.raw(rows))
        kept = frozen["features"] = torch.stack(pm.features(rows))
    return (kept @ pm.role.head.weight.detach()).float()


KEPT: dict[str, torch.Tensor] = {}


def judged_by(scores: torch.Tensor, truth: Sequence[Sequence[float]]) -> dict[str, float]:
    """Share of truly different pairs ranked right; how often the favourite beats another reply."""
    import torch

    utility = torch.tensor(truth)
    better = utility[:, :, None] - utility[:, None, :] > 1e-9
    right = scores[:, :, None] > scores[:, None, :]
    favourite = utility.gather(1, scores.argmax(1, keepdim=True))
    wins = (favourite > utility).double() + 0.5 * (favourite == utility).double()
    of_others = (wins.sum(1) - 0.5) / (utility.shape[1] - 1)
    return {
        "accuracy": float((right & better).sum() / better.sum()),
        "best": float(of_others.mean()),
    }


def cell(
    model: Model, test: Bank, of: Bank, name: str, user: str, picks: int, seed: int
) -> dict[str, Any]:
    """Fit and judge one preference model."""
    from hhchat_trainers import pm as trainer
    from hhchat_trainers.descent import Budget

    from hhchat.model import taste
    from hhchat.protocols import TrainingContext

    lever = LEVERS[name]
    hyper = trainer.PM(**lever.settings)
    usual = dict(taste.CONFIDENCE)
    started = time.process_time()
    with tempfile.TemporaryDirectory(prefix="hhchat-levers-") as state:
        context = TrainingContext(
            *(model, [], [], [], [], Path(state), {}, Path(state)), log=lambda m: None, seed=seed
        )
        try:
            taste.CONFIDENCE.update(lever.confidence)
            found = picks_of(model, of, user, seed, picks, lever)
            pairs = [p for c in found if (p := trainer.pair_of(model, c, hyper.soft_labels))]
            parts = {"full": pairs}
            if lever.ensemble:
                parts |= trainer.halves(pairs, seed)
            scores, budget = [], Budget()
            read = hyper.read(model, pairs, budget)
            for which, part in parts.items():
                made = hyper.fit(context, budget, which, part, read, [], 0, 1)
                still = hyper.learning_rate == 0
                raw = scores_of(model, test, made, KEPT if still else None)
                scores.append((raw - raw.mean()) / raw.std())
        finally:
            taste.CONFIDENCE.update(usual)
    return {
        **{"lever": name, "user": user, "picks": picks, "seed": seed, "pairs": len(pairs)},
        **judged_by(sum(scores[1:], scores[0]) / len(scores), test.utilities[user]),
        "cpu": time.process_time() - started,
    }


def key_of(place: Mapping[str, Any]) -> str:
    return "/".join(str(place[k]) for k in ("lever", "picks", "user", "seed"))


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser("levers", __doc__ or "")
    made.add_argument("--levers", default=",".join(LEVERS), help=f"of {', '.join(LEVERS)}")
    made.add_argument("--users", default=",".join(USERS), help=f"of {', '.join(USERS)}")
    made.add_argument("--picks", default="50,150,300", help="numbers of picks")
    made.add_argument("--seeds", type=int, default=5, help="how many")
    made.add_argument("--minutes", type=float, default=0, help="stop after these; 0: when done")
    options = made.parse_args(arguments)
    names, users = (
        chosen(options.levers, list(LEVERS), "lever"),
        chosen(options.users, USERS, "user"),
    )
    sizes, prompts, most = [int(n) for n in options.picks.split(",")], TEST_PROMPTS, 360
    if options.smoke:
        names, users, sizes, options.seeds = names[:3], users[:1], [12], 1
        prompts, most = 4, 14
    from hhchat.model import load_model

    model = load_model("starter", quantization="none", device="cpu")
    replies = 4 if options.smoke else REPLIES
    test = bank(model, "heldout", 0, prompts, replies)
    report = report_of("levers", options)
    cells: dict[str, Any] = {}
    if report.out is not None and report.out.is_file():
        cells = json.loads(report.out.read_text())["results"]["cells"]
    report.data["cells"] = cells
    wanted = [
        {"lever": name, "user": user, "picks": n, "seed": seed}
        for seed in range(options.seeds)
        for n in sizes
        for name in names
        for user in users
    ]
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    banks: dict[int, Bank] = {}
    for number, place in enumerate(wanted, 1):
        if key_of(place) in cells:
            continue
        if time.monotonic() > end:
            break
        print(f"[{number}/{len(wanted)}] {key_of(place)}", file=sys.stderr, flush=True)
        seed = int(place["seed"])
        if seed not in banks:
            banks = {seed: bank(model, "train", seed, most, replies)}
        cells[key_of(place)] = cell(
            *(model, test, banks[seed], place["lever"], place["user"], place["picks"], seed)
        )
        fill(report, cells)
    fill(report, cells)
    print("\n".join(report.texts))
    return 0


def fill(report: Report, cells: Mapping[str, Mapping[str, Any]]) -> None:
    """Each lever's means, and its difference to the default cell by cell; saved."""
    rows = []
    for size in sorted({c["picks"] for c in cells.values()}):
        for name in LEVERS:
            some = [c for c in cells.values() if (c["lever"], c["picks"]) == (name, size)]
            if not some:
                continue
            usual = "frozen" if name.startswith("frozen-") else "default"
            ours = {key_of({**c, "lever": usual}): c for c in some}
            twins = [(c, cells[k]) for k, c in ours.items() if k in cells]
            gained = [[c[what] - d[what] for c, d in twins] for what in ("accuracy", "best")]
            rows.append(
                [
                    *(size, name, len(some)),
                    *(f"{100 * statistics.fmean(c[w] for c in some):.1f}" for w in JUDGED),
                    *("" if name == "default" else interval(g) for g in gained),
                    statistics.fmean(c["cpu"] for c in some),
                ]
            )
    heads = ("picks", "lever", "cells", "accuracy %", "best of 8 %", "accuracy - usual", "best")
    report.texts = [
        "Accuracy: pairs of the start's replies to held-out prompts that are ranked as the user"
        " truly would. Best of 8: how often the favourite of 8 replies is truly better than another"
        " of them. Differences to `default`, and of `frozen-` to `frozen`, in points, same user and"
        " seed, with 95% intervals.\n",
        table((*heads, "CPU s"), rows),
        "",
        *(f"- {name}: {lever.about}" for name, lever in LEVERS.items()),
    ]
    report.save()


JUDGED = ("accuracy", "best")

if __name__ == "__main__":
    raise SystemExit(main())
