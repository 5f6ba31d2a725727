"""A run that is stopped or killed and goes on ends as the run that was left alone: bit for bit."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trainer_world as tw
from hhchat_trainers import readings, state
from hhchat_trainers.adam import Adam, Group

from hhchat.model import LocalEngine
from hhchat.types import Cancelled, HhchatError


def last_said(numbers: list) -> dict:
    """Metrics by stage, step and name; an update that was done twice must have said the same."""
    found: dict = {}
    for stage, step, name, value in numbers:
        assert found.setdefault((stage, step, name), value) == value, (stage, step, name)
    return found


def shown(info):
    """What a stage says of itself, without the folders that it wrote to."""
    return {k: v for k, v in info.items() if k != "gauges"}


@pytest.mark.parametrize(
    ("stage", "threads"), [("pm", "1"), ("ppo", "1"), ("ppo", "2")], ids=["pm", "ppo", "ppo-lanes"]
)
def test_a_run_killed_at_random_points_ends_bit_for_bit_as_the_run_left_alone(
    stage, threads, speaker, judged_world, tmp_path
):
    script = Path(__file__).parent / "killed_runs.py"
    judge = judged_world.stages["pm"]
    done = subprocess.run(
        [sys.executable, str(script), str(speaker), str(judge), str(tmp_path / "runs"), stage, "6"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["killed"] >= 2
    whole, killed = (tmp_path / "runs" / name for name in ("whole", "killed"))
    assert tw.same_files(whole / "stage" / "out", killed / "stage" / "out")
    assert tw.same_files(whole / "stage" / "out", killed / "stage" / "out", "*.json")
    assert tw.same_files(whole / "stage" / "state", killed / "stage" / "state")
    said = [
        last_said(
            [json.loads(x) for x in (f / "metrics.jsonl").read_text().splitlines() if x[-1:] == "]"]
        )
        for f in (whole, killed)
    ]
    assert said[0] == said[1]


def goes_on(world: tw.World, trainer, every: int, **changes) -> tw.Ran:
    """Train, asked to stop before every n-th update, until it is through; with all it ever said."""
    numbers: list = []
    told: list[str] = []
    for _ in range(100):
        asked = iter(range(every))
        ran = world.context(
            "often", stopped=lambda asked=asked: next(asked, None) is None, **changes
        )
        try:
            ran.result = trainer.train(ran.context)
        except Cancelled:
            numbers += ran.metrics
            told += ran.told
            continue
        ran.metrics[:0] = numbers
        ran.told[:0] = told
        return ran
    raise AssertionError("it never ends")


@pytest.mark.parametrize(
    "trainer",
    [
        tw.pm(epochs=2, halves=True),
        tw.pm(epochs=10, patience=1, learning_rate=2e-2, halves=True),  # stops early by itself
        tw.ppo(updates=4, target_kl=0.5),
        tw.ppo(updates=6, max_kl=0.02, learning_rate=1e-2),  # a guard ends it
    ],
    ids=["pm", "pm-stopping-early", "ppo", "ppo-guarded"],
)
def test_a_run_stopped_before_each_update_ends_as_the_run_left_alone(world, trainer):
    world.comparisons = world.comparisons[:32]
    alone = world.train(trainer, "alone")
    often = goes_on(world, trainer, 1)
    assert tw.same_files(alone.context.out, often.context.out)
    assert last_said(often.numbers) == last_said(alone.numbers)
    assert often.result.measurements == alone.result.measurements
    assert shown(often.result.info) == shown(alone.result.info)


class Brief:
    """Pays for few words."""

    name, question = "brief", "?"

    def score(self, exchanges):
        return [-3.0 * len(e.reply.split()) for e in exchanges]


def test_a_guard_still_goes_by_the_first_update_where_a_run_was_stopped_after_it(world):
    hyper = tw.ppo(updates=8, learning_rate=1e-2, min_length_ratio=0.5)
    alone = world.train(hyper, "alone", terms=[(Brief(), 1.0)])
    assert "times as long as at the start" in alone.result.info["stop"]
    often = goes_on(world, hyper, 1, terms=[(Brief(), 1.0)])
    assert shown(often.result.info) == shown(alone.result.info)


@pytest.mark.parametrize(
    "trainer",
    [
        tw.pm(halves=False, patience=0),
        tw.ppo(updates=6, minibatches=1, epochs=1),
    ],
    ids=["pm", "ppo"],
)
def test_a_run_stopped_between_two_bad_losses_goes_on_with_one_and_with_less_memory(
    trainer, world, monkeypatch
):
    whole, seen = world.model.trunk.hidden, []

    def hidden(*arguments, **named):
        out = whole(*arguments, **named)
        if torch.is_grad_enabled() and any(x.requires_grad for x in out):
            seen.append(None)
            if len(seen) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            if len(seen) in (4, 5):  # of the third and the fourth update
                return [x * math.nan for x in out]
        return out

    monkeypatch.setattr(world.model.trunk, "hidden", hidden)
    alone = world.train(trainer, "alone")
    assert any("stopped at update 4: two losses" in line for line in alone.told)
    seen.clear()
    often = goes_on(world, trainer, 1)
    assert any("stopped at update 4: two losses" in line for line in often.told)
    assert tw.same_files(alone.context.out, often.context.out)
    assert tw.same_files(alone.context.state, often.context.state)


@pytest.mark.parametrize(
    "trainer", [tw.pm(batch_pairs=16, anchors=16), tw.ppo(updates=3)], ids=["pm", "ppo"]
)
def test_memory_that_ran_out_before_a_stop_does_not_run_out_again_after_each(
    trainer, world, monkeypatch
):
    whole, sampled = world.model.trunk.hidden, LocalEngine.run

    def hidden(rows, *arguments, **named):
        if rows.ids.numel() > 150:
            raise torch.OutOfMemoryError
        return whole(rows, *arguments, **named)

    def run(self, decoder, rows):
        if len(rows) > 4:
            raise torch.OutOfMemoryError
        sampled(self, decoder, rows)

    monkeypatch.setattr(world.model.trunk, "hidden", hidden)
    monkeypatch.setattr(LocalEngine, "run", run)
    alone = world.train(trainer, "alone")
    often = goes_on(world, trainer, 1)
    halved = [line for line in alone.told if "out of memory" in line]
    assert any("micro-batches" in line for line in halved)
    assert any("sampled together" in line for line in halved)
    assert [line for line in often.told if "out of memory" in line] == halved
    assert tw.same_files(alone.context.out, often.context.out)


def test_a_finished_stage_that_is_run_again_only_writes_the_same_result(world):
    first = world.train(tw.ppo(updates=2), "twice")
    before = {p.name: p.read_bytes() for p in first.context.out.iterdir()}
    again = world.train(tw.ppo(updates=2), "twice")
    assert shown(again.result.info) == shown(first.result.info)
    assert not again.values("kl")  # no update was done again
    assert {p.name: p.read_bytes() for p in again.context.out.iterdir()} == before


def test_a_seal_that_was_cut_short_leaves_the_one_before_it(tmp_path):
    state.seal(tmp_path, {"x": torch.ones(3)}, {"update": 1})
    (tmp_path / f"{state.FILE}.new").write_bytes(b"half of")
    tensors, numbers = state.unseal(tmp_path)
    assert tensors["x"].equal(torch.ones(3))
    assert numbers == {"update": 1}
    assert state.unseal(tmp_path / "never") is None


@pytest.mark.parametrize("damage", ["cut", "bit", "number"])
def test_a_damaged_seal_is_never_trained_on_and_its_stage_can_begin_anew(tmp_path, damage):
    state.seal(tmp_path, {"x": torch.ones(3), "y": torch.zeros(2, 2)}, {"update": 1})
    file = tmp_path / state.FILE
    whole = bytearray(file.read_bytes())
    if damage == "bit":
        whole[-1] ^= 1
    file.write_bytes({"cut": b"half of", "bit": whole, "number": whole[:-4]}[damage])
    with pytest.raises(HhchatError, match=r"damaged .*--resume` begins there anew"):
        state.unseal(tmp_path)
    assert state.unseal(tmp_path) is None


def test_a_disk_that_is_full_half_way_through_a_seal_leaves_the_one_before_it(tmp_path):
    state.seal(tmp_path, {"x": torch.ones(3)}, {"update": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # no file grows longer than this
    try:
        with pytest.raises(HhchatError, match="cannot write"):
            state.seal(tmp_path, {"x": torch.zeros(1 << 16)}, {"update": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    tensors, numbers = state.unseal(tmp_path)
    assert tensors["x"].equal(torch.ones(3))
    assert numbers == {"update": 1}


def test_replies_that_begin_to_decline_are_told_once_however_often_a_run_is_stopped(
    world, monkeypatch
):
    hyper, seen = tw.ppo(updates=4), []

    def evades(text):
        seen.append(text)
        return len(seen) > hyper.batch  # none at the start, all from then on

    monkeypatch.setattr(readings, "evades", evades)
    often = goes_on(world, hyper, 1)
    assert often.values("evasive") == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert sum("replies decline" in line for line in often.told) == 1


def test_a_seal_whose_channels_lie_in_another_order_is_refused_and_not_taken_up(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(state, "LAYOUT", state.LAYOUT - 1)
    state.seal(tmp_path, {"x": torch.ones(3)}, {"update": 1})
    monkeypatch.undo()
    with pytest.raises(HhchatError, match="sealed by another version"):
        state.unseal(tmp_path)


def test_seeds_of_different_places_are_unrelated_and_those_of_one_place_are_fixed():
    assert state.seed_for(0, "rollout", 1, 2) == state.seed_for(0, "rollout", 1, 2)
    places = [(s, n, i) for s in range(3) for n in ("a", "b") for i in range(50)]
    assert len({state.seed_for(*p) for p in places}) == len(places)


def test_an_optimiser_goes_on_from_its_sealed_moments(tmp_path):
    def steps(optimiser, p, first, last):
        for i in range(first, last):
            p.grad.fill_(float(i + 1))
            optimiser.step()

    def made():
        p = torch.nn.Parameter(torch.ones(4))
        return p, Adam([Group([p])], rate=0.1)

    whole, optimiser = made()
    steps(optimiser, whole, 0, 6)
    half, optimiser = made()
    steps(optimiser, half, 0, 3)
    state.seal(tmp_path, {"p": half, **optimiser.tensors()}, {})
    again, optimiser = made()
    tensors, _ = state.unseal(tmp_path)
    with torch.no_grad():
        again.copy_(tensors["p"])
    optimiser.restore(tensors)
    steps(optimiser, again, 3, 6)
    assert again.equal(whole)
