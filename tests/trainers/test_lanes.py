"""Training in two lanes ends where one lane ends, and stopped and resumed on the same bits."""

from __future__ import annotations

import pytest
import torch
import trainer_world as tw
from parallel_runs import METHODS
from test_parallel import assert_ends_alike
from test_resume import goes_on, last_said

from hhchat.model import lanes


@pytest.fixture
def two_lanes(monkeypatch):
    monkeypatch.setattr(lanes, "WORTH", 0)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_two_lanes_end_where_one_lane_ends(name, world, two_lanes, monkeypatch):
    calls = []
    real = lanes.side_by_side
    monkeypatch.setattr(
        lanes,
        "side_by_side",
        lambda works, count: calls.append(len(works)) or real(works, count),
    )
    method = METHODS[name]
    for count in (1, 2):
        torch.set_num_threads(count)
        calls.clear()
        world.train(method, f"{name}-{count}")
        assert max(calls) == count, "it was not done in lanes"
    torch.set_num_threads(1)
    world.train(type(method)(**{**vars(method), "learning_rate": 0.0}), f"{name}-still")
    assert_ends_alike(*(world.folder / f"{name}-{end}" for end in ("1", "2", "still")))


@pytest.mark.parametrize("trainer", [tw.pm(halves=True), tw.ppo(updates=4)], ids=["pm", "ppo"])
def test_a_run_in_two_lanes_stopped_before_each_update_ends_as_if_left_alone(
    world, trainer, two_lanes
):
    world.comparisons = world.comparisons[:32]
    alone = world.train(trainer, "alone")
    often = goes_on(world, trainer, 1)
    assert tw.same_files(alone.context.out, often.context.out)
    assert last_said(often.numbers) == last_said(alone.numbers)


def test_memory_that_runs_out_in_a_lane_halves_the_micro_batch_and_goes_on(
    world, two_lanes, monkeypatch
):
    whole = world.model.trunk.hidden

    def hidden(rows, *arguments, **named):
        if rows.ids.numel() > 150:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(rows, *arguments, **named)

    monkeypatch.setattr(world.model.trunk, "hidden", hidden)
    ran = world.train(tw.ppo(updates=2, batch=16, micro_tokens=512), "tight")
    assert any("out of memory" in line for line in ran.told)
    assert ran.result.policy is not None
