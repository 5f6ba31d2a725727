"""Large models made from a config alone: memory and speed of whole PPO steps on a GPU.

Weights are random, which costs exactly what trained ones cost; replies run to the limit. Four
roles (reference, policy, value, preference model) share one base, int8 beside bf16; beside them
TRL 1.12's PPO with LoRA on three backbones of its own, and transformers' generate on bitsandbytes
int8. Unverified on a GPU: no result of this command from one has been kept yet. `--smoke` runs the
same code in small, on a CPU too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.arena import Contestant
from benchmarks.common import Bar, Report, bars_table, chosen, cores, parser, report_of, table
from benchmarks.made import MODELS, prepare
from benchmarks.speed import Entry, compete, ratio

INT8, BF16 = {"quantization": "int8"}, {"quantization": "none"}
CONTESTANTS = {
    e.name: e
    for e in (
        Entry("hhchat-int8", "large-ppo", INT8),
        Entry("hhchat-int8-limited", "large-ppo", INT8),
        Entry("hhchat-bf16", "large-ppo", BF16),
        Entry("trl-int8", "large-trl", INT8, "trl-ppo"),
        Entry("trl-int8-autocast", "large-trl", {**INT8, "accelerate": True}, "trl-ppo"),
        Entry("trl-bf16", "large-trl", BF16, "trl-ppo"),
        Entry("generate-int8", "large-generate", INT8),
    )
}
LIMIT = 16.0  # GiB
REMARK = """\
Wall time, medians. Tokens/s: of replies in a rollout, of prompts and replies in scoring, and of
each epoch in an update. hhchat's scoring is policy, reference and value in one pass, the preference
model, and all else in the step; its two half gauges are left out, as TRL has none. TRL's is its
scoring calls alone; its log-probabilities of the sampled tokens come from the rollout, and what its
step has beside the phases, such as calls of the garbage collector, is in no column but the first.
peak GiB: of tensors (on a CPU: of the process, over its imports). reserved: what torch took from
the card, without CUDA's context. micro-batch: tokens of a forward, halved when memory runs out."""


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser("gpu", __doc__ or "")
    made.add_argument("--models", default="1b,7b", help=f"of {', '.join(MODELS)}")
    made.add_argument("--contestants", default=",".join(CONTESTANTS), help="all by default")
    made.add_argument(
        "--alone",
        default="7b",
        help="models whose contestants run one after the other, for want of room on the card; those"
        " of the others take turns, all loaded",
    )
    made.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        default=LIMIT,
        help="what hhchat-int8-limited may take of the card; dense copies of the base are then kept"
        f" only where they fit that (default {LIMIT:g})",
    )
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    made.add_argument("--reply", type=int, default=128, help="tokens of each reply")
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--minibatches", type=int, default=2)
    made.add_argument("--rank", type=int, default=16)
    made.add_argument("--rounds", type=int, default=3, help="steps of each contestant, after one")
    made.add_argument("--threads", type=int, default=cores(), help="CPU threads of each contestant")
    made.add_argument("--checkpointing", action="store_true", help="recompute layers in backward")
    made.add_argument("--no-peers", action="store_true", help="leave TRL out")
    options = made.parse_args(arguments)
    if options.smoke:
        options.models, options.batch, options.rounds, options.threads = "smoke", 2, 1, 1
        options.prompt, options.reply, options.rank = 8, 4, 2
    import torch

    if not torch.cuda.is_available() and not options.smoke:
        sys.exit("no CUDA device here; `--smoke` runs the same code on tiny models on the CPU")
    names = chosen(options.contestants, list(CONTESTANTS), "contestant")
    models = chosen(options.models, list(MODELS), "model")
    report = report_of("gpu", options)
    if torch.cuda.is_available():
        total = torch.cuda.mem_get_info()[1] / 2**30
        report.note(f"device: {torch.cuda.get_device_name()}, {total:.1f} GiB")
    else:
        report.note("run on a CPU: unverified on a GPU")
        report.note("a CPU has no limit to set: hhchat-int8-limited keeps no dense copies here")
    for model in models:
        run(report, model, names, options)
        report.save()
    return 0


def run(report: Report, model: str, names: Sequence[str], options: argparse.Namespace) -> None:
    """One model: its contestants in turns or one after the other, then its table and its bars."""
    work = prepare(model, options.batch, options.prompt, options.reply)
    keys = ("batch", "reply", "epochs", "minibatches", "rank", "checkpointing")
    common = {"work": str(work), "dtype": "auto", **{k: getattr(options, k) for k in keys}}
    entries = []
    for name in names:
        entry = CONTESTANTS[name]
        limited = {"memory": options.memory} if name.endswith("-limited") else {}
        entries.append(Entry(name, entry.kind, {**entry.own, **limited}, entry.peer))
    alone = model in options.alone.split(",")
    found: dict[str, Contestant] = {}
    records: dict[str, Any] = {}
    for group in [[e] for e in entries] if alone else [entries]:
        found |= compete(model, group, common, options, report, True, even=False)
        records |= report.data[model]
    report.data[model] = records
    rows = {name: row_of(found[name], options) for name in names if name in found}
    show(report, model, names, rows, options)
    wanted = {"length": options.reply, "optimiser_steps": options.epochs * options.minibatches}
    for c in found.values():
        for reading, number in wanted.items():
            if any(s.get(reading, number) != number for s in c.steps):
                report.note(f"{model}: {c.name}: {reading} is not {number}")
    bars = bars_of(model, found, rows, options)
    if bars:
        report.say("\n" + bars_table(bars))


def row_of(c: Contestant, options: argparse.Namespace) -> dict[str, float]:
    """Medians of the rounds: seconds, tokens a second of each phase, GiB."""
    replies = options.batch * options.reply
    whole = options.batch * (options.prompt + options.reply)
    row: dict[str, float] = {}
    if "update" in c.steps[0]:
        row["step s"] = c.median("wall")
    for phase, label, tokens in (
        ("rollout", "rollout", replies),
        ("score", "scoring", whole),
        ("update", "update", whole * options.epochs),
    ):
        if phase in c.steps[0]:
            row[f"{label} tokens/s"] = tokens / c.median(phase)
    if "peak_gib" in c.steps[0]:
        row["peak GiB"] = max(s["peak_gib"] for s in c.steps)
        row["reserved GiB"] = max(s["reserved_gib"] for s in c.steps)
    else:
        row["peak GiB"] = c.peak / 1024
    if "micro_tokens" in c.steps[0]:
        row["micro-batch"] = min(s["micro_tokens"] for s in c.steps)
    return row


def show(
    report: Report,
    model: str,
    names: Sequence[str],
    rows: Mapping[str, Mapping[str, float]],
    options: argparse.Namespace,
) -> None:
    heads = list(dict.fromkeys(h for r in rows.values() for h in r))
    report.say(
        f"\n## {model}: {options.batch} replies, {options.prompt} + {options.reply} tokens,"
        f" {options.epochs} epochs x {options.minibatches} minibatches\n"
    )
    cells = [
        [
            name,
            *(rows.get(name, {}).get(h) for h in heads),
            "" if name in rows else why(report, model, name),
        ]
        for name in names
    ]
    report.say(table(("contestant", *heads, ""), cells))
    report.say(f"\n{REMARK} limited: to {options.memory:g} GiB.\n")


def why(report: Report, model: str, name: str) -> str:
    """Why a contestant has no row, in a word; its note says more."""
    notes = [n for n in report.notes if n.startswith(f"{model}: ")]
    words = " ".join(n for n in notes if f" {name} " in n or f" {name}:" in n).lower()
    if "out of memory" in words or "outofmemory" in words:
        return "out of memory"
    return "left out" if "left out" in words else "failed"


def bars_of(
    model: str,
    found: Mapping[str, Contestant],
    rows: Mapping[str, Mapping[str, float]],
    options: argparse.Namespace,
) -> list[Bar]:
    """The bars of that model; a smoke run has all, to have run them."""

    def rate(c: Contestant) -> float:
        return row_of(c, options)["rollout tokens/s"]

    def speed(c: Contestant) -> float:
        return 1.0 / c.median("wall")

    bars = []
    size = {"1b": "1B", "7b": "7B"}.get(model, model)
    if model in ("7b", "smoke"):
        limited = rows.get("hhchat-int8-limited", {})
        held = limited.get("reserved GiB", limited.get("peak GiB"))
        bars.append(Bar(f"{size} PPO, int8, peak", held, 16.0, at_most=True, unit=" GiB"))
    if model in ("1b", "smoke"):
        told = f"{size} rollouts over HF generate on int8"
        bars.append(Bar(told, ratio(found, "hhchat-int8", "generate-int8", rate), 4.0))
        # over the faster of TRL's two ways to run int8
        steps = [
            r
            for peer in ("trl-int8", "trl-int8-autocast")
            if (r := ratio(found, "hhchat-int8", peer, speed)) is not None
        ]
        bars.append(Bar(f"{size} step over TRL on int8", min(steps, default=None), 2.0))
    return bars


if __name__ == "__main__":
    raise SystemExit(main())
