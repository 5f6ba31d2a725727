"""On few picks the preference model serves by itself: behind the gate, and the user is told."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pipeline_fakes import FakeBackend, FakeEngine, FakePM, FakePPO, config, fill, plugins, quality

from hhchat import hookimpl, pipeline
from hhchat.backend import Resolve
from hhchat.protocols import StageResult, TrainingContext
from hhchat.snapshots import Resolver
from hhchat.store import Store
from hhchat.types import Draw, Generation, HhchatError


@dataclass(frozen=True)
class PM(FakePM):
    name: ClassVar[str] = "pm"


@dataclass(frozen=True)
class PPO(FakePPO):
    name: ClassVar[str] = "ppo"
    needs: ClassVar[tuple[str, ...]] = ("pm",)


@dataclass(frozen=True)
class BestOf:
    name: ClassVar[str] = "best-of"
    k: int = 6

    def train(self, context: TrainingContext) -> StageResult:
        return StageResult([], info={"best_of": self.k})


class Trainers:
    @hookimpl
    def register_trainers(self, register: Any) -> None:
        for trainer in (PM, PPO, BestOf):
            register(trainer)


class Serving(FakeEngine):
    """Says the best of as many replies as the snapshot serves."""

    def _one(self, draw: Draw) -> Generation:
        assert isinstance(self.resolve, Resolver)
        k = self.resolve.best_of(draw.snapshot)
        made = [super(Serving, self)._one(replace(draw, seed=draw.seed + i)) for i in range(k)]
        return max(made, key=lambda g: quality(g.text))


class Backend(FakeBackend):
    def engine(self, model: Any, resolve: Resolve) -> FakeEngine:
        return Serving(resolve, model.identity)


def train(store: Store, stages: list[str] | None = None, **tables: Any) -> tuple[Any, list[str]]:
    lines: list[str] = []
    tables["train"] = {"stages": ["pm", "ppo"], "min_ppo": 100, **tables.get("train", {})}
    run = pipeline.train(
        store,
        config(**tables),
        plugins(Trainers()),
        stages=stages,
        backend=Backend(),
        on_event=lambda e: lines.append(e.text),
    )
    return run, lines


def test_below_the_least_the_best_of_several_replies_is_served_and_ppo_says_why_not(
    store: Store, home: Path
) -> None:
    fill(store, picks=60)
    run, lines = train(store)
    assert run.state == "promoted", run.reason
    assert run.stages == ("pm", "best-of")
    assert any("PPO steps aside below 100" in line and "min_ppo" in line for line in lines)
    told = json.loads((home / "snapshots" / run.snapshot / "snapshot.json").read_text())
    assert (told["policy"], told["best_of"]) == (None, 6)
    resolver = Resolver(store)
    assert resolver.best_of("current") == 6
    assert resolver.best_of("base") == 1
    told["best_of"] = 1_000_000  # a damaged file must not sample for ever
    (home / "snapshots" / run.snapshot / "snapshot.json").write_text(json.dumps(told))
    with pytest.raises(HhchatError, match="best_of"):
        Resolver(store).best_of("current")


def test_a_new_preference_model_alone_keeps_the_favourite_of_several_and_is_compared(
    store: Store, home: Path
) -> None:
    fill(store, picks=60)
    first, _ = train(store, ["pm", "best-of"])
    assert first.state == "promoted", first.reason
    worse, _ = train(store, ["pm"], pm={"sign": -1.0})  # whose favourite is the worst
    assert worse.state == "refused"
    same, _ = train(store, ["pm"])
    told = json.loads((home / "snapshots" / same.snapshot / "snapshot.json").read_text())
    assert (told["policy"], told["best_of"]) == (None, 6)
    found = store.snapshot(same.snapshot).info["measurements"]
    assert found["score_gain"]["value"] == 0.0  # the same favourites
    assert found["kl"]["value"] == 0.0
    assert found["kl_best_of"]["value"] == pytest.approx(0.958, abs=1e-3)


def test_choosing_among_a_drifted_policy_s_replies_counts_both_drifts(store: Store) -> None:
    fill(store, picks=60)
    first, _ = train(store, ["pm", "ppo"], ppo={"kl": 9.5})
    assert first.state == "promoted", first.reason
    run, _ = train(store, ["pm", "best-of"])
    assert run.state == "refused"
    assert "drifted 10.5 nats" in run.reason


def test_the_gate_refuses_a_favourite_that_is_not_better(store: Store) -> None:
    fill(store, picks=60)
    run, _ = train(store, pm={"sign": -1.0})
    assert run.state == "refused"
    assert "clearly higher" in run.reason
    assert store.current() is None


def test_with_enough_picks_or_when_it_is_named_ppo_runs(store: Store) -> None:
    fill(store, picks=60)
    run, lines = train(store, train={"min_ppo": 20})
    assert run.stages == ("pm", "ppo")
    assert not any("aside" in line for line in lines)
    run, lines = train(store, ["pm", "ppo"])
    assert run.stages == ("pm", "ppo")


def test_a_dry_run_tells_the_stages_that_would_run(store: Store) -> None:
    fill(store, picks=60)
    made = config(train={"stages": ["pm", "ppo"], "min_ppo": 100})
    told = pipeline.plan(store, made, plugins(Trainers()), backend=Backend())
    assert [s.name for s in told.stages] == ["pm", "best-of"]
    assert any("steps aside" in line for line in told.warnings)
