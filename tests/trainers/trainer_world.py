"""A small world to train in: a tiny Llama that speaks in words, and a user who likes one of them.

Everything is real and small: a model in transformers format, comparisons drawn from it by the
engine, contexts as the pipeline makes them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from hhchat_trainers.pm import PM
from hhchat_trainers.ppo import PPO

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))

from tiny_models import make_model

from hhchat.model import LocalEngine, Model, load_model
from hhchat.protocols import StageResult, TrainingContext
from hhchat.types import Comparison, Draw, Message, Metric, Prompt, Sampling

WORDS = ["the", "cat", "dog", "sat", "on", "mat", "ran", "home", "see", "you", "hello", "why"]
LIKED = "cat"
SEED = 9


def make_speaker(folder: Path, steps: int = 120) -> None:
    """A tiny Llama taught for a few seconds to answer words with two to six words and an end."""
    torch.set_num_threads(1)
    oracle = make_model(folder, "llama")
    model = load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in oracle.named_parameters():
            if "norm" not in name:
                p.mul_(0.3)
    optimiser = torch.optim.AdamW(oracle.parameters(), lr=6e-3)
    oracle.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 6e-3 * (1 - 0.9 * step / steps)
        rows, marks = [], []
        for _ in range(16):
            asked, said = _words(generator, 1, 4), _words(generator, 2, 6)
            prompt = model.render.prompt([Message("user", asked)])
            reply = [*model.render.reply(said), model.render.end_id]
            rows.append(prompt + reply)
            marks.append([-100] * len(prompt) + reply)
        width = max(map(len, rows))
        ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
        labels = torch.tensor([m + [-100] * (width - len(m)) for m in marks])
        loss = oracle(ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    oracle.eval().save_pretrained(str(folder))


def _words(generator: torch.Generator, low: int, high: int) -> str:
    count = int(torch.randint(low, high + 1, (1,), generator=generator))
    index = torch.randint(0, len(WORDS), (count,), generator=generator)
    return " ".join(WORDS[i] for i in index.tolist())


def load(folder: Path, quantization: str = "none", dtype: str = "fp32") -> Model:
    return load_model(str(folder), quantization=quantization, dtype=dtype, device="cpu")


def prompts(count: int, start: int = 0) -> list[Prompt]:
    """Prompts of one to four words; no two of the first two thousand are alike."""
    made = []
    for i in range(start, start + count):
        words = [WORDS[i % 12], WORDS[i // 12 % 12], WORDS[i // 144 % 12]]
        made.append(Prompt((Message("user", " ".join(words[: 1 + (i >= 12) + (i >= 144)])),)))
    return made


def likes(text: str) -> bool:
    return LIKED in text.split()


def liked_share(texts: Sequence[str]) -> float:
    return sum(map(likes, texts)) / len(texts)


def comparisons(model: Model, count: int, start: int = 0, strength: int | None = 4) -> list[Any]:
    """Pairs of the model's own replies of which exactly one has the liked word; it was picked."""
    engine = LocalEngine(model)
    made: list[Comparison] = []
    at = start
    while len(made) < count:
        asked = prompts(64, at)
        draws = [
            Draw(p.messages, 7919 * (at + i) + j, Sampling(max_new_tokens=12))
            for i, p in enumerate(asked)
            for j in (0, 1)
        ]
        replies = engine.generate(draws)
        for i, prompt in enumerate(asked):
            one, two = replies[2 * i], replies[2 * i + 1]
            if likes(one.text) == likes(two.text) or len(made) == count:
                continue
            best = 0 if likes(one.text) else 1
            made.append(
                Comparison(
                    prompt.messages,
                    (one, two),
                    picked=best,
                    preferred=best,
                    strength=strength,
                    conversation=f"c{at + i}",
                    id=f"{at + i}",
                )
            )
        at += 64
    return made


def pm(**changes: Any) -> PM:
    settings: dict[str, Any] = {
        "rank": 4,
        "learning_rate": 3e-3,
        "head_rate": 3.0,
        "weight_decay": 0.0,
        "epochs": 1,
        "batch_pairs": 8,
        "warmup": 0.1,
        "soft_labels": False,
        "halves": True,
        "anchors": 32,
        "max_new_tokens": 12,
        "patience": 0,
    }
    return PM(**{**settings, **changes})


def ppo(**changes: Any) -> PPO:
    settings: dict[str, Any] = {
        "updates": 3,
        "batch": 16,
        "minibatches": 2,
        "epochs": 2,
        "rank": 4,
        "learning_rate": 2e-3,
        "value_rate": 1.0,
        "warmup": 0.0,
        "clip": 0.2,
        "value_clip": 0.2,
        "value_weight": 0.1,
        "gamma": 1.0,
        "lam": 0.95,
        "beta": 0.05,
        "target_kl": 0.0,
        "max_kl": 1e9,
        "unfinished_penalty": 1.0,
        "max_new_tokens": 12,
        "grad_norm": 1.0,
        "patience": 0,
        "smoothing": 1.0,
        "max_length_ratio": 1e9,
        "min_length_ratio": 0.0,
        "max_unfinished": 2.0,
        "min_distinct": 0.0,
        "micro_tokens": 4096,
        "evaluate": 8,
    }
    return PPO(**{**settings, **changes})


@dataclass
class Ran:
    """A stage that ran, with all that it said."""

    context: TrainingContext
    metrics: list[Metric]
    told: list[str]
    result: StageResult | None = None

    def values(self, name: str) -> list[float]:
        return [m.value for m in self.metrics if m.name == name]

    @property
    def numbers(self) -> list[tuple[str, int, str, float]]:
        return [(m.stage, m.step, m.name, m.value) for m in self.metrics]


@dataclass
class World:
    """What a run is made of; `train` runs one stage in a folder of its own."""

    model: Model
    comparisons: list[Comparison]
    heldout: list[Comparison]
    prompts: list[Prompt]
    heldout_prompts: list[Prompt]
    folder: Path
    stages: dict[str, Path] = field(default_factory=dict)

    def halves(self) -> list[Path]:
        return sorted(self.stages["pm"].glob("half-*")) if "pm" in self.stages else []

    def context(self, name: str, **changes: Any) -> Ran:
        out = self.folder / name / "out"
        out.mkdir(parents=True, exist_ok=True)
        metrics: list[Metric] = []
        told: list[str] = []
        context = TrainingContext(
            model=self.model,
            comparisons=self.comparisons,
            heldout=self.heldout,
            prompts=self.prompts,
            heldout_prompts=self.heldout_prompts,
            out=out,
            stages=self.stages,
            gauges={half.name[5:]: half for half in self.halves()},
            state=self.folder / name / "state",
            log=metrics.append,
            report=told.append,
            seed=SEED,
        )
        return Ran(replace(context, **changes), metrics, told)

    def train(self, trainer: Any, name: str, **changes: Any) -> Ran:
        ran = self.context(name, **changes)
        ran.result = trainer.train(ran.context)
        return ran


def make_world(speaker: Path, folder: Path, *, pairs: int = 48, **loading: str) -> World:
    model = load(speaker, **loading)
    return World(
        model,
        comparisons(model, pairs),
        comparisons(model, 16, start=1000),
        prompts(40),
        prompts(16, 1500),
        folder,
    )


def same_files(one: Path, two: Path, pattern: str = "*.safetensors") -> bool:
    """Both folders hold the same tensors, bit for bit."""
    names = [sorted(str(p.relative_to(f)) for p in f.rglob(pattern)) for f in (one, two)]
    assert names[0] == names[1] != []
    return all((one / n).read_bytes() == (two / n).read_bytes() for n in names[0])
