"""A model room without a model, and trainers that train nothing: the story around them is real.

A reply is a text with a number in it, its quality. A fake policy shifts the mean of that number,
a fake preference model reads it. Everything is written to and read back from real folders.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hhchat import hookimpl
from hhchat.backend import Memory, Resolve
from hhchat.config import Config, from_document
from hhchat.plugins import Plugins
from hhchat.protocols import StageResult, TrainingContext
from hhchat.store import Store
from hhchat.types import (
    Cancelled,
    Comparison,
    Delta,
    Draw,
    Exchange,
    Generation,
    HhchatError,
    Measurement,
    Message,
    Metric,
    Outdated,
    Prompt,
)


@dataclass
class FakeModel:
    identity: str = "fake@1"


@dataclass
class FakeEngine:
    resolve: Resolve
    base: str = "fake@1"

    def generate(self, draws: Sequence[Draw]) -> list[Generation]:
        return [self._one(draw) for draw in draws]

    def sample(
        self, draws: Sequence[Draw], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Delta]:
        for row, generation in enumerate(self.generate(draws)):
            yield Delta(row, generation.text, generation)

    def _one(self, draw: Draw) -> Generation:
        name, folder = self.resolve(draw.snapshot)
        told = json.loads((folder / "policy.json").read_text()) if folder else {}
        rng = random.Random(draw.seed)
        value = rng.gauss(told.get("quality", 0.0), 1.0)
        words = " ".join(["word"] * int(told.get("length", 5)))
        ended = rng.random() >= told.get("unfinished", 0.0)
        text = f"quality {value:.6f} {words}"
        return Generation(text, (), ended, snapshot=name, base=self.base, seed=draw.seed)


def quality(text: str) -> float:
    return float(text.split()[1])


@dataclass
class FakePreference:
    sign: float

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        return [self.sign * quality(e.reply) for e in exchanges]


@dataclass
class FakeBackend:
    fits: bool = True
    loads: int = 0
    identity: str = "fake@1"

    def load(self, config: Config) -> Any:
        self.loads += 1
        return FakeModel(self.identity)

    def engine(self, model: Any, resolve: Resolve) -> FakeEngine:
        return FakeEngine(resolve, model.identity)

    def preference(self, model: Any, folder: Path) -> FakePreference:
        return FakePreference(json.loads((folder / "pm.json").read_text())["sign"])

    def memory(self, config: Config, stages: object = None) -> Memory:
        return Memory(8 << 30, (16 if self.fits else 4) << 30, "cpu", "Try a smaller one")


@dataclass(frozen=True)
class FakePM:
    """Learns nothing and says so well."""

    name: ClassVar[str] = "fakepm"
    accuracy: float = 0.8
    sign: float = 1.0
    halves: bool = True

    def train(self, context: TrainingContext) -> StageResult:
        (context.out / "pm.json").write_text(json.dumps({"sign": self.sign}))
        count(context.state.parent / "fakepm-runs")
        n = 100
        context.log(Metric(self.name, 0, "updates", 1))
        context.log(Metric(self.name, 0, "accuracy", self.accuracy))
        measured = Measurement("pm_accuracy", self.accuracy, n=n)
        info: dict[str, Any] = {"n": len(context.comparisons)}
        for half in "ab" if self.halves else "":
            (context.out / f"half-{half}").mkdir(exist_ok=True)
            (context.out / f"half-{half}" / "pm.json").write_text(json.dumps({"sign": self.sign}))
            info.setdefault("gauges", {})[half] = str(context.out / f"half-{half}")
        return StageResult([measured], preference=context.out, info=info)


@dataclass(frozen=True)
class FakePPO:
    """Counts to `updates`, sealing after each; then has a policy of the quality it was told."""

    name: ClassVar[str] = "fakeppo"
    needs: ClassVar[tuple[str, ...]] = ("fakepm",)
    updates: int = 3
    seconds: float = 0.0
    quality: float = 1.0
    length: int = 5
    unfinished: float = 0.0
    kl: float = 2.0
    crash: str = ""
    kill_at: int = -1
    stop: str = ""
    gauge_sign: float = 0.0

    def train(self, context: TrainingContext) -> StageResult:
        sealed = context.state / "state.json"
        done = json.loads(sealed.read_text())["done"] if sealed.exists() else 0
        context.log(Metric(self.name, 0, "updates", self.updates))
        for step in range(done, self.updates):
            if context.stopped():
                raise Cancelled("stopped")
            time.sleep(self.seconds)
            if self.crash == "outdated":
                raise Outdated("sealed by another version")
            if self.crash == "stranger":
                raise ZeroDivisionError("no samples left\nin the batch")
            if self.crash:
                raise HhchatError(self.crash)
            # The same update always gives the same numbers, resumed or not.
            context.log(Metric(self.name, step, "score", random.Random(step).random()))
            if step == self.kill_at and not (context.out / "killed").exists():
                (context.out / "killed").write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
            aside = sealed.with_suffix(".tmp")
            aside.write_text(json.dumps({"done": step + 1}))
            aside.replace(sealed)
        folder = context.out / "policy"
        folder.mkdir(exist_ok=True)
        told = {"quality": self.quality, "length": self.length, "unfinished": self.unfinished}
        (folder / "policy.json").write_text(json.dumps(told))
        info: dict[str, Any] = {}
        if self.gauge_sign:
            gauge = context.out / "half"
            gauge.mkdir(exist_ok=True)
            (gauge / "pm.json").write_text(json.dumps({"sign": self.gauge_sign}))
            info["gauges"] = {"half": str(gauge)}
        measured = Measurement("kl", self.kl, unit="nats/response")
        return StageResult([measured], policy=folder, stop=self.stop or None, info=info)


class FakeTrainers:
    @hookimpl
    def register_trainers(self, register: Any) -> None:
        register(FakePM)
        register(FakePPO)


def count(path: Path) -> None:
    path.write_text(str(int(path.read_text()) + 1 if path.exists() else 1))


class FewPlugins(Plugins):
    """Only what a test registers: the installed trainers would import torch in every process."""

    def load_groups(self, groups: Sequence[str], *, env: Any = None) -> None:
        pass


def plugins(*more: object) -> Plugins:
    made = FewPlugins(report=lambda text: None)
    made.register(FakeTrainers(), "fakes")
    for number, plugin in enumerate(more):
        made.register(plugin, f"more{number}")
    return made


def config(**tables: Any) -> Config:
    document: dict[str, Any] = {
        "model": {"path": "fake"},
        "train": {"stages": ["fakepm", "fakeppo"], "eval_prompts": 40},
    }
    for name, table in tables.items():
        document[name] = {**document.get(name, {}), **table}
    return from_document(document)


def fill(store: Store, picks: int = 60, prompts: int = 400, seed: int = 0) -> None:
    """Picks on numbered questions, and prompts of which about a tenth are held out."""
    rng = random.Random(seed)
    for i in range(picks):
        a, b = (Generation(f"quality {rng.gauss(0, 1):.6f} word {j}") for j in (0, 1))
        better = 0 if quality(a.text) > quality(b.text) else 1
        store.record(
            Comparison(
                messages=(Message("user", f"question number {i}"),),
                replies=(a, b),
                picked=better,  # type: ignore[arg-type]
                outcome="left" if better == 0 else "right",
                source="simulated",
            )
        )
    store.add_prompts([Prompt((Message("user", f"prompt number {i}"),)) for i in range(prompts)])
