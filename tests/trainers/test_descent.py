"""Memory runs out, a loss is not finite: the run goes on, or ends with what it has. Clipping."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import trainer_world as tw
from hhchat_trainers import state
from hhchat_trainers.adam import Adam, Group
from hhchat_trainers.descent import Budget, Descent, dealt
from hypothesis import given, settings
from hypothesis import strategies as st
from test_methods import METHODS
from torch import nn

from hhchat.model import LocalEngine, PreferenceModel, load_adapter
from hhchat.model.lora import peft_tensors
from hhchat.types import HhchatError

EVERY = {
    "pm": tw.pm(batch_pairs=16, halves=False, anchors=16),
    "ppo": tw.ppo(updates=2, batch=16, epochs=2),
    **{name: replace(method, updates=2, batch=16) for name, method in METHODS.items()},
}


def cuda_says() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cpu_says() -> None:
    torch.empty(1 << 46)  # more than any machine has: the allocator's own error


@pytest.fixture
def tight(world, monkeypatch):
    """`tight(limit, fails)`: a forward of more than `limit` padded tokens runs out of memory."""
    whole = world.model.trunk.hidden

    def tighten(limit, fails):
        def hidden(rows, *arguments, **named):
            if rows.ids.numel() > limit:
                fails()
            return whole(rows, *arguments, **named)

        monkeypatch.setattr(world.model.trunk, "hidden", hidden)

    return tighten


def weights(ran: tw.Ran) -> dict[str, torch.Tensor]:
    """Adapters and heads after the last update."""
    found = {}
    for file in sorted(ran.context.state.rglob(state.FILE)):
        tensors, _ = state.unseal(file.parent) or ({}, {})
        for key, tensor in tensors.items():
            if key.split("/")[0] in ("role", "policy", "value") and key != "role/head.bias":
                found[f"{file.parent.name}/{key}"] = tensor
    return found


@pytest.mark.parametrize("fails", [cuda_says, cpu_says])
@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_run_that_is_short_of_memory_ends_as_one_that_is_not(name, fails, world, tight):
    ample = world.train(EVERY[name], "ample")
    tight(150, fails)
    short = world.train(EVERY[name], "short")
    assert any("out of memory: micro-batches of" in line for line in short.told)
    assert not any("out of memory" in line for line in ample.told)
    mine, theirs = weights(ample), weights(short)
    assert mine.keys() == theirs.keys() != set()
    size = max(float(t.abs().max()) for t in mine.values())
    assert max(float((mine[k] - theirs[k]).abs().max()) for k in mine) < 1e-3 * size
    for (*where, value), (*there, other) in zip(ample.numbers, short.numbers, strict=True):
        assert where == there
        if where != ["dpo", 0, "accuracy"]:  # of gaps that are all 0 but for rounding
            assert value == pytest.approx(other, rel=1e-3, abs=1e-3), where


def test_sampling_that_runs_out_of_memory_goes_on_with_fewer_replies_at_once(world, monkeypatch):
    ample = world.train(EVERY["ppo"], "ample")
    run, most = LocalEngine.run, []

    def tight_run(self, decoder, rows):
        if len(rows) > 4:
            rows[0].tokens.append(0)  # it had begun
            cpu_says()
        most.append(len(rows))
        run(self, decoder, rows)

    monkeypatch.setattr(LocalEngine, "run", tight_run)
    short = world.train(EVERY["ppo"], "short")
    assert max(most) == 4
    assert "out of memory: 4 replies are sampled together from here" in short.told
    assert short.numbers == ample.numbers  # a reply does not depend on what is sampled beside it


def test_a_model_for_which_not_even_one_reply_fits_ends_the_run_in_one_line(world, tight):
    tight(1, cpu_says)
    with pytest.raises(HhchatError, match="out of memory even one reply at a time"):
        world.train(EVERY["ppo"], "none")


def test_an_error_that_is_no_lack_of_memory_is_not_tried_again(world, tight):
    def broken() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    tight(1, broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        world.train(EVERY["ppo"], "broken")


def spoil(world, monkeypatch, bad):
    """Losses of the training forwards of which `bad(number)` holds are not finite."""
    whole, seen = world.model.trunk.hidden, []

    def hidden(*arguments, **named):
        out = whole(*arguments, **named)
        if torch.is_grad_enabled() and any(x.requires_grad for x in out):
            seen.append(None)
            if bad(len(seen)):
                return [x * math.nan for x in out]
        return out

    monkeypatch.setattr(world.model.trunk, "hidden", hidden)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_one_loss_that_is_not_finite_is_skipped_and_the_run_goes_on(name, world, monkeypatch):
    spoil(world, monkeypatch, lambda number: number == 2)
    ran = world.train(EVERY[name], "one")
    assert sum("not finite: that minibatch was skipped" in line for line in ran.told) == 1
    assert all(bool(torch.isfinite(t).all()) for t in weights(ran).values())
    assert "stop" not in ran.result.info or not ran.result.info["stop"]


@pytest.mark.parametrize("name", sorted(EVERY))
def test_losses_that_are_not_finite_with_a_good_one_between_do_not_end_the_run(
    name, world, monkeypatch
):
    spoil(world, monkeypatch, lambda number: number in (1, 3, 5))
    hyper = tw.pm(halves=False) if name == "pm" else replace(EVERY[name], updates=6)
    ran = world.train(hyper, "between")
    assert sum("not finite: that minibatch was skipped" in line for line in ran.told) == 3
    assert not [line for line in ran.told if "stopped" in line]
    assert len(ran.values("progress")) == 6
    assert all(bool(torch.isfinite(t).all()) for t in weights(ran).values())


@pytest.mark.parametrize("name", [*sorted(METHODS), "ppo"])
def test_two_losses_in_a_row_that_are_not_finite_end_the_run_with_the_best_policy(
    name, world, monkeypatch
):
    spoil(world, monkeypatch, lambda number: number in (3, 4))
    hyper = replace(EVERY[name], updates=6)
    if name == "dpo":
        hyper = replace(hyper, check=5)  # the end does not wait for the next look at replies
    ran = world.train(hyper, "two")
    assert ran.result.info["stop"] == "two losses in a row were not finite"
    assert len(ran.values("progress")) < 6
    kept = peft_tensors(load_adapter(world.model.spec, ran.context.out))
    assert all(bool(torch.isfinite(t).all()) for t in kept.values())


def test_a_preference_model_that_never_learnt_anything_ends_the_run_in_one_line(world, monkeypatch):
    spoil(world, monkeypatch, lambda number: True)
    with pytest.raises(HhchatError, match="two losses in a row were not finite; lower"):
        world.train(tw.pm(halves=False, patience=0), "lost")


def bursting(monkeypatch, bad):
    """Steps of which `bad(number)` holds leave weights without end."""
    whole, seen = Adam.step, []

    def step(optimiser):
        seen.append(None)
        explode(optimiser) if bad(len(seen)) else whole(optimiser)

    monkeypatch.setattr(Adam, "step", step)


@pytest.mark.parametrize(
    ("which", "out", "lost", "good"),
    [  # the full model has 6 updates, and then each half 3
        ("full", ".", {"losses": (3, 4)}, 2),
        ("full", ".", {"weights": 3}, 2),
        ("a", "half-a", {"losses": (8, 9)}, 1),
        ("a", "half-a", {"weights": 9}, 2),
    ],
)
def test_what_a_preference_model_learnt_before_it_was_lost_is_kept(
    which, out, lost, good, world, monkeypatch
):
    spoil(world, monkeypatch, lambda number: number in lost.get("losses", ()))
    bursting(monkeypatch, lambda number: number == lost.get("weights"))
    sealed: dict[int, dict[str, torch.Tensor]] = {}  # by the steps that were taken

    def look() -> bool:
        tensors, _ = state.unseal(ran.context.state / which) or ({}, {})
        if tensors:
            sealed.setdefault(int(tensors["adam/steps"].max()), tensors)
        return False

    hyper = tw.pm(patience=0, halves=which != "full")
    ran = world.context("kept", stopped=look)
    hyper.train(ran.context)
    why = "two losses in a row were" if "losses" in lost else "a step left weights that are"
    at = 4 if lost == {"losses": (3, 4)} else 3
    name = "pm" if which == "full" else f"pm (half {which})"
    assert any(line.startswith(f"{name} stopped at update {at}: {why} not") for line in ran.told)
    saved = PreferenceModel.load(world.model, ran.context.out / out).role
    for name, tensor in state.module_tensors("role", saved).items():
        assert tensor.equal(sealed[good][name]), name
    # and a stage that is run again does not go on with it
    again = world.train(hyper, "kept")
    assert not [m for m in again.metrics if m.name.startswith("loss")]
    assert tw.same_files(ran.context.out, again.context.out)


def test_a_preference_model_whose_weights_a_step_made_infinite_says_so(world, monkeypatch):
    monkeypatch.setattr(Adam, "step", explode)
    with pytest.raises(HhchatError, match="weights that are not finite"):
        world.train(tw.pm(halves=False, patience=0), "burst")


def test_a_preference_model_that_is_lost_after_its_best_point_keeps_that_one(world, monkeypatch):
    hyper = tw.pm(halves=False, patience=9, epochs=4)
    spoil(world, monkeypatch, lambda number: number >= 7)
    ran = world.train(hyper, "kept")
    assert len(ran.values("loss")) == 8
    assert "pm stopped at update 8: two losses in a row were not finite" in ran.told
    assert ran.result.preference is not None
    best = min(ran.values("heldout_loss"))
    measured = {m.name: m.value for m in ran.result.measurements}
    assert measured["pm_loss"] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_weights_that_a_step_made_infinite_end_the_run_with_the_best_policy(
    world, method, monkeypatch
):
    monkeypatch.setattr(Adam, "step", explode)
    ran = world.train(METHODS[method], "infinite")
    assert "weights that are not finite" in ran.result.info["stop"]
    kept = peft_tensors(load_adapter(world.model.spec, ran.context.out))
    assert all(t.isfinite().all() for t in kept.values())


def test_weights_that_a_step_made_infinite_are_not_asked_for_a_reply_to_look_at(world, monkeypatch):
    monkeypatch.setattr(Adam, "step", explode)
    shown: list[int] = []
    ran = world.train(EVERY["ppo"], "seen", show=lambda update, _: shown.append(update))
    assert "weights that are not finite" in ran.result.info["stop"]
    assert not shown


def explode(optimiser: Adam) -> None:
    optimiser.weights[:12].fill_(float("inf"))


def parameters(seed):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator)) for s in ((3, 4), (5,), ())]


def loss_of(groups, scale):
    return sum(scale * (p**3).sum() for group in groups for p in group)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_one_role_with_a_large_gradient_does_not_move_the_others_less(scale):
    mine, theirs = ([parameters(1), parameters(2)] for _ in range(2))
    adam = Adam([Group(group) for group in mine])
    descent = Descent(adam, Budget(), apart=True, grad_norm=0.5)
    descent.step([1], 1.0, lambda rows: (loss_of(mine, scale), {}))
    loss_of(theirs, scale).backward()
    for group, got in zip(theirs, adam.parts(adam.gradient), strict=True):
        torch.nn.utils.clip_grad_norm_(group, 0.5)
        torch.testing.assert_close(got, torch.cat([p.grad.flatten() for p in group]))


def test_a_limit_of_0_is_none():
    mine, theirs = parameters(1), parameters(1)
    adam = Adam([Group(mine)])
    Descent(adam, Budget(), grad_norm=0.0).step([1], 1.0, lambda rows: (loss_of([mine], 9.0), {}))
    loss_of([theirs], 9.0).backward()
    torch.testing.assert_close(adam.gradient, torch.cat([p.grad.flatten() for p in theirs]))


def test_training_moves_what_torchs_own_adamw_would_move():
    mine, theirs = ([parameters(1), parameters(2)] for _ in range(2))
    adam = Adam([Group(mine[0], weight_decay=0.1), Group(mine[1], 0.5)], rate=0.1, eps=1e-5)
    groups = [
        {"params": theirs[0], "lr": 0.1, "weight_decay": 0.1},
        {"params": theirs[1], "lr": 0.05, "weight_decay": 0.0},
    ]
    others = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-5)
    for scale in (1.0, 0.2, 3.0):
        loss_of(theirs, scale).backward()
        others.step()
        others.zero_grad()
        adam.forget()
        loss_of(mine, scale).backward()
        adam.step()
        for ours, want in zip(mine, theirs, strict=True):
            for p, q in zip(ours, want, strict=True):
                torch.testing.assert_close(p, q)


def test_a_training_does_not_load_torchs_compiler():
    words = (
        "import sys, torch\n"
        "from torch import nn\n"
        "from hhchat_trainers.adam import Adam, Group\n"
        "from hhchat_trainers.descent import Descent\n"
        "p = nn.Parameter(torch.ones(3))\n"
        "adam = Adam([Group([p])], 0.1)\n"
        "Descent(adam).step([1], 1.0, lambda rows: ((p**2).sum(), {}))\n"
        "assert float(p[0].detach()) < 1\n"
        "assert 'torch._dynamo' not in sys.modules, 'a second and 65 MiB'\n"
    )
    subprocess.run([sys.executable, "-c", words], check=True)


def test_a_gradient_without_end_moves_nothing_and_is_counted():
    group = parameters(3)
    before = [p.detach().clone() for p in group]
    said = []
    adam = Adam([Group(group)], 0.1)
    descent = Descent(adam, Budget(report=said.append), grad_norm=0.5)

    def loss(rows):
        whole = loss_of([group], 1.0)
        # the loss is finite, its gradient is not
        return whole + (group[2] * 0).sqrt().sum(), {}

    descent.step([1], 1.0, loss)
    assert all(torch.equal(p, b) for p, b in zip(group, before, strict=True))
    assert descent.bad == 1
    assert said
    descent.step([1], 1.0, loss)
    assert descent.spoilt


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=70), st.integers(1, 20), st.integers(0, 9))
def test_every_row_teaches_once_an_epoch_in_batches_of_nearly_as_many_tokens(lengths, count, seed):
    batches = dealt(lengths, count, torch.Generator().manual_seed(seed))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == count
    counts = [len(batch) for batch in batches]
    assert max(counts) - min(counts) <= 1
    # one of each stratum: what a batch may have before another is less than the longest, and
    # where not all have as many rows one more row
    tokens = [sum(lengths[row] for row in batch) for batch in batches]
    longest, uneven = max(lengths, default=0), len(lengths) % count > 0
    assert max(tokens) - min(tokens) <= longest * (1 + uneven)


def test_a_short_row_weighs_as_much_as_a_long_one_where_batches_are_uneven():
    lengths, weights, seeds = [3, 9, 30, 40, 80], torch.zeros(5), 2000
    for seed in range(seeds):
        for batch in dealt(lengths, 2, torch.Generator().manual_seed(seed)):
            weights[batch] += 1 / len(batch)
    torch.testing.assert_close(weights / seeds, torch.full((5,), 2 / 5), rtol=0.03, atol=0.0)


def test_rows_meet_other_rows_in_each_epoch():
    lengths = [20 + i % 5 for i in range(32)]
    made = [dealt(lengths, 4, torch.Generator().manual_seed(seed)) for seed in range(2)]
    assert made[0] != made[1]
