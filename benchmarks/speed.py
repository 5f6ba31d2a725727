"""Side by side in one run: PPO steps, preference-model pairs, chat, rollouts, int8 against fp32."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.arena import Contestant, Failed, take_turns
from benchmarks.common import Bar, Report, bars_table, chosen, parser, report_of, table
from benchmarks.inputs import prepare

PARTS = ("ppo", "pm", "chat", "rollout")


@dataclass(frozen=True)
class Entry:
    """A contestant to be set up: a name for the table, its class, and what is its own."""

    name: str
    kind: str
    own: Mapping[str, Any]
    peer: str = ""  # what must be installed for it; "" for nothing


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser("speed", __doc__ or "")
    made.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    made.add_argument(
        "--shape",
        default="5m",
        help="tiny, 5m, 60m (Llama shapes, fitted for a moment), starter, or a model folder",
    )
    made.add_argument("--rounds", type=int, default=3, help="turns of each contestant")
    made.add_argument("--threads", type=int, default=1, help="threads of each contestant")
    made.add_argument("--batch", type=int, default=32, help="replies of a PPO step, of a rollout")
    made.add_argument("--minibatches", type=int, default=4)
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--prompt", type=int, default=48, help="longest prompt, in tokens")
    made.add_argument("--reply", type=int, default=48, help="longest reply, in tokens")
    made.add_argument("--pairs", type=int, default=128, help="pairs of a preference-model pass")
    made.add_argument("--batch-pairs", type=int, default=16)
    made.add_argument("--longest-pair", type=int, default=256, help="tokens of one side of a pair")
    made.add_argument("--chat-prompts", type=int, default=32)
    made.add_argument("--chat-reply", type=int, default=64, help="longest chat reply, in tokens")
    made.add_argument("--rank", type=int, default=16, help="LoRA rank of our roles")
    made.add_argument("--fit-steps", type=int, default=60, help="steps that fit a shape's model")
    made.add_argument("--no-peers", action="store_true", help="leave TRL out")
    options = made.parse_args(arguments)
    parts = chosen(options.parts, PARTS, "part")
    if options.smoke:
        options.shape, options.rounds, options.fit_steps = "tiny", 1, 2
        options.batch, options.minibatches, options.epochs = 4, 2, 1
        options.prompt, options.reply, options.pairs, options.batch_pairs = 24, 4, 4, 2
        options.longest_pair, options.chat_prompts, options.chat_reply = 128, 1, 4
    report = report_of("speed", options)
    work = prepare(
        options.shape,
        prompts=max(options.batch, options.chat_prompts),
        longest_prompt=options.prompt,
        pairs=options.pairs,
        longest_pair=options.longest_pair,
        fit_steps=options.fit_steps,
    )
    bf16 = hardware_bf16()
    if not bf16:
        report.note("no bf16 products in hardware here: bf16 contestants are left out")
    for part in parts:
        RUNS[part](options, report, work, bf16)
        report.save()
    return 0


def hardware_bf16() -> bool:
    import torch

    from hhchat.model.base import has_bf16

    return has_bf16(torch.device("cpu"))


def compete(
    part: str,
    entries: Sequence[Entry],
    common: Mapping[str, Any],
    options: argparse.Namespace,
    report: Report,
    bf16: bool,
    *,
    even: bool = True,
) -> dict[str, Contestant]:
    """Set the contestants up, give them their turns; those that cannot run become notes."""
    ready: list[Contestant] = []
    try:
        for entry in entries:
            if entry.own.get("dtype") == "bf16" and not bf16:
                continue
            missing = "--no-peers" if entry.peer and options.no_peers else absent(entry.peer)
            if missing:
                report.note(f"{part}: {entry.name} is left out: {missing}")
                continue
            env = {"ACCELERATE_MIXED_PRECISION": "bf16"} if entry.own.get("accelerate") else {}
            path = peers.peer_paths()
            last = peers.last_ppo()
            if entry.peer == "trl-ppo" and last is not None:
                path = [last, *path]
            settings = {**common, **entry.own}
            try:
                ready.append(
                    Contestant(
                        entry.name,
                        entry.kind,
                        settings,
                        threads=options.threads,
                        path=path,
                        env=env,
                    )
                )
            except Failed as error:
                report.note(f"{part}: {entry.name} is left out: {error}")
        for line in take_turns(ready, options.rounds, even=even):
            report.note(f"{part}: failed: {line}")
    finally:
        for c in ready:
            c.close()
    report.data[part] = {c.name: c.record() for c in ready}
    return {c.name: c for c in ready if c.steps}


def absent(peer: str) -> str:
    """Why a peer cannot run here, with what would install it; '' when it can."""
    if not peer:
        return ""
    hint = "see benchmarks/README.md, Peers"
    if peer == "trl-ppo" and peers.last_ppo() is None:
        return f"TRL 1.12.0 is not in $BENCH_CACHE/{peers.LAST_PPO} ({hint})"
    if not peers.has("datasets") or (peer == "trl" and not peers.has("trl")):
        return f"TRL or datasets is not installed ({hint})"
    return ""


def ratio(
    found: Mapping[str, Contestant],
    ours: str,
    theirs: str,
    reading: Callable[[Contestant], float],
) -> float | None:
    """Ours over theirs; None when either is not there."""
    if ours not in found or theirs not in found:
        return None
    return reading(found[ours]) / reading(found[theirs])


def run_ppo(options: argparse.Namespace, report: Report, work: Path, bf16: bool) -> None:
    entries = [
        Entry("trl-as-it-runs", "trl-ppo", {"dtype": "fp32"}, "trl-ppo"),
        Entry("trl-at-its-best", "trl-ppo", {"dtype": "bf16", "accelerate": True}, "trl-ppo"),
        Entry("hhchat-fp32", "ppo", {"dtype": "fp32"}),
        Entry("hhchat-bf16", "ppo", {"dtype": "bf16"}),
        Entry("hhchat-int8", "ppo", {"dtype": "bf16" if bf16 else "fp32", "quantization": "int8"}),
    ]
    names = ("batch", "minibatches", "epochs", "reply", "rank")
    common = {"work": str(work), **{n: getattr(options, n) for n in names}}
    found = compete("ppo", entries, common, options, report, bf16)
    first = next(iter(found.values()), None)
    if first is None:
        return
    report.say(
        f"\n## PPO step: {options.batch} replies of at most {options.reply} tokens,"
        f" {options.epochs} epochs x {options.minibatches} minibatches, shape {options.shape}\n"
    )
    phases = ("rollout", "score", "update", "seal")
    report.say(
        table(
            (
                *("contestant", "CPU s", "least", f"over {first.name}", *phases),
                *("other", "length", "peak MiB", "share"),
            ),
            [
                [
                    c.name,
                    c.median("cpu"),
                    c.least,
                    first.median("cpu") / c.median("cpu"),
                    *(c.median(p) for p in phases),
                    c.median("cpu") - sum(c.median(p) for p in phases[:3]),
                    c.median("length"),
                    c.peak,
                    c.peak / first.peak if first.peak else None,
                ]
                for c in found.values()
            ],
        )
    )
    report.say(
        "\nCPU s: of a step, median of the turns; least: of the quietest turn. other: in the step"
        " but in no phase (in TRL mostly its calls of the garbage collector, whose cost does not"
        " grow with the model)."
        " seal: after the step, not in it. peak MiB: over what the imports hold.\n"
    )
    wanted = options.epochs * options.minibatches
    for c in found.values():
        taken = c.steps[0].get("optimiser_steps", wanted)
        if taken != wanted:
            report.note(f"ppo: {c.name} took {taken:.0f} optimiser steps, not {wanted}")
    best = "hhchat-bf16" if bf16 else "hhchat-fp32"

    def seconds(c: Contestant) -> float:
        return 1.0 / c.median("cpu")

    report.say(
        bars_table(
            [
                Bar("PPO step over TRL as it runs", ratio(found, best, TRL, seconds), 3.0),
                Bar("PPO step over TRL at its best", ratio(found, best, TRL_BEST, seconds), 2.2),
                Bar(
                    "peak memory of TRL as it runs",
                    ratio(found, best, TRL, lambda c: c.peak),
                    0.6,
                    at_most=True,
                ),
            ]
        )
    )


TRL, TRL_BEST = "trl-as-it-runs", "trl-at-its-best"


def run_pm(options: argparse.Namespace, report: Report, work: Path, bf16: bool) -> None:
    entries = [
        Entry("trl-fp32", "trl-reward", {"dtype": "fp32"}, "trl"),
        Entry("trl-fp32-lora", "trl-reward", {"dtype": "fp32", "peft": True}, "trl"),
        Entry("trl-bf16", "trl-reward", {"dtype": "bf16"}, "trl"),
        Entry("hhchat-pm-fp32", "pm", {"dtype": "fp32"}),
        Entry("hhchat-pm-bf16", "pm", {"dtype": "bf16"}),
        Entry(
            "hhchat-pm-int8", "pm", {"dtype": "bf16" if bf16 else "fp32", "quantization": "int8"}
        ),
    ]
    common = {"work": str(work), "batch": options.batch_pairs, "rank": options.rank}
    found = compete("pm", entries, common, options, report, bf16)
    rates(
        report,
        f"Preference model: {options.pairs} pairs, batches of {options.batch_pairs}",
        found,
        "pairs_per_s",
        [
            ("PM pairs/s in fp32 over TRL's full training", "hhchat-pm-fp32", "trl-fp32", 2.8),
            ("PM pairs/s in bf16 over TRL's in bf16", "hhchat-pm-bf16", "trl-bf16", 3.3),
        ],
        "TRL trains all weights unless it says lora; ours is always LoRA and a head.",
    )


def run_chat(options: argparse.Namespace, report: Report, work: Path, bf16: bool) -> None:
    entries = [
        Entry("generate-fp32", "generate", {"dtype": "fp32"}),
        Entry("generate-bf16", "generate", {"dtype": "bf16"}),
        Entry("hhchat-chat-fp32", "chat", {"dtype": "fp32"}),
        Entry("hhchat-chat-bf16", "chat", {"dtype": "bf16"}),
        Entry(
            "hhchat-chat-int8",
            "chat",
            {"dtype": "bf16" if bf16 else "fp32", "quantization": "int8"},
        ),
    ]
    common = {
        "work": str(work),
        "chat": True,
        "batch": options.chat_prompts,
        "reply": options.chat_reply,
        "top_p": 1.0,
    }
    found = compete("chat", entries, common, options, report, bf16)
    best = "hhchat-chat-bf16" if bf16 else "hhchat-chat-fp32"
    rates(
        report,
        f"Chat: two replies of at most {options.chat_reply} tokens to one prompt",
        found,
        "tokens_per_s",
        [
            ("two-reply chat over HF generate", best, "generate-fp32", 2.0),
            ("two-reply chat in fp32 over HF generate", "hhchat-chat-fp32", "generate-fp32", 1.8),
        ],
        "hhchat streams every token as text here, as the app does.",
    )


def run_rollout(options: argparse.Namespace, report: Report, work: Path, bf16: bool) -> None:
    entries = [
        Entry("generate-roll-fp32", "generate", {"dtype": "fp32"}),
        Entry("generate-roll-bf16", "generate", {"dtype": "bf16"}),
        Entry("generate-roll-int8", "generate", {"dtype": "fp32", "quantization": "int8"}),
        Entry("hhchat-roll-fp32", "rollout", {"dtype": "fp32"}),
        Entry("hhchat-roll-bf16", "rollout", {"dtype": "bf16"}),
        Entry(
            "hhchat-roll-int8",
            "rollout",
            {"dtype": "bf16" if bf16 else "fp32", "quantization": "int8"},
        ),
    ]
    common = {
        "work": str(work),
        "chat": False,
        "batch": options.batch,
        "reply": options.reply,
        "top_p": 1.0,
        "rank": options.rank,
    }
    found = compete("rollout", entries, common, options, report, bf16)
    best = "hhchat-roll-bf16" if bf16 else "hhchat-roll-fp32"
    rates(
        report,
        f"Rollouts: {options.batch} replies of at most {options.reply} tokens",
        found,
        "tokens_per_s",
        [
            ("rollouts over HF generate", best, "generate-roll-fp32", 2.4),
            ("rollouts in fp32 over HF generate", "hhchat-roll-fp32", "generate-roll-fp32", 1.3),
        ],
        "Tokens of the replies themselves, the end token included; merging the adapter is timed.",
    )


def rates(
    report: Report,
    title: str,
    found: Mapping[str, Contestant],
    reading: str,
    bars: Sequence[tuple[str, str, str, float]],
    remark: str,
) -> None:
    """The table of one part by a rate of its own, then its bars."""
    first = next(iter(found.values()), None)
    if first is None:
        return
    unit = reading.replace("_per_s", "/s")
    report.say(f"\n## {title}, shape {report.settings['shape']}\n")
    rows = [
        [
            c.name,
            c.median(reading),
            c.median(reading) / first.median(reading),
            c.median("cpu"),
            c.least,
            c.median("length"),
            c.peak,
        ]
        for c in found.values()
    ]
    heads = ("contestant", unit, f"over {first.name}", "CPU s", "least", "length", "MiB")
    report.say(table(heads, rows))
    report.say(f"\n{remark}\n")
    report.say(
        bars_table(
            [
                Bar(what, ratio(found, a, b, lambda c: c.median(reading)), bar)
                for what, a, b, bar in bars
            ]
        )
    )


RUNS = {"ppo": run_ppo, "pm": run_pm, "chat": run_chat, "rollout": run_rollout}

if __name__ == "__main__":
    raise SystemExit(main())
