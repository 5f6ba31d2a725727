"""RLOO, best-of-k and DPO stand on PPO's plumbing: the same reference, limits and resumption."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
import trainer_world as tw
from hhchat_trainers import dpo, policy, rloo
from hhchat_trainers.best_of_k import BestOfK
from hhchat_trainers.dpo import DPO
from hhchat_trainers.maths import leave_one_out
from hhchat_trainers.rloo import RLOO

from hhchat.model import Adapter, LocalEngine, PreferenceModel, load_adapter, save_adapter
from hhchat.types import Cancelled, Draw, Generation, HhchatError, Sampling

SHARED: dict[str, Any] = {
    "updates": 4,
    "batch": 8,
    "rank": 4,
    "learning_rate": 3e-3,
    "warmup": 0.0,
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
METHODS = {
    "rloo": RLOO(**SHARED, samples=4, minibatches=2, epochs=2, beta=0.05, target_kl=0.0),
    "best-of-k": BestOfK(**SHARED, k=3),
    "dpo": DPO(**SHARED, beta=0.1, soft_labels=False, check=1, replies=8),
}
each = pytest.mark.parametrize("method", sorted(METHODS))


@each
def test_each_method_starts_at_a_kl_of_zero_and_leaves_it(world, method):
    ran = world.train(METHODS[method], method)
    assert ran.values("kl")[0] == 0.0
    assert ran.values("kl_k3")[0] == 0.0
    assert ran.values("kl")[-1] != 0.0
    assert all(math.isfinite(m.value) for m in ran.metrics)


@each
def test_each_method_stopped_at_every_update_ends_as_if_left_alone(world, method):
    alone = world.train(METHODS[method], "alone")
    said: list = []
    for _ in range(20):
        asked = iter([False])
        ran = world.context("often", stopped=lambda asked=asked: next(asked, True))
        try:
            METHODS[method].train(ran.context)
        except Cancelled:
            said += ran.numbers
            continue
        break
    assert tw.same_files(alone.context.out, ran.context.out)
    assert said + ran.numbers == alone.numbers


@each
def test_each_method_keeps_its_kl_budget(world, method):
    hyper = replace(METHODS[method], max_kl=1e-3, learning_rate=1e-2, updates=8)
    ran = world.train(hyper, method)
    assert "over the budget" in ran.result.info["stop"]
    assert len(ran.values("kl")) < 8


@each
def test_each_method_comes_to_say_what_the_user_likes(world, method):
    # a sign turned round, a loser taken for the winner: all of it looks like training
    hyper = replace(METHODS[method], updates=12, batch=32, learning_rate=4e-3)
    ran = world.train(hyper, method)
    engine = LocalEngine(
        world.model, lambda name: (name, None if name == "base" else ran.result.policy)
    )
    shares = {}
    for snapshot in ("base", "new"):
        draws = [
            Draw(p.messages, i, Sampling(max_new_tokens=12), snapshot)
            for i, p in enumerate(tw.prompts(200, 1300))  # none of them was trained on
        ]
        shares[snapshot] = tw.liked_share([g.text for g in engine.generate(draws)])
    assert shares["new"] > shares["base"] + 0.1


def test_a_larger_beta_keeps_rloo_nearer_to_where_it_began(world):
    kls = {}
    for beta in (0.0, 3.0):
        hyper = replace(METHODS["rloo"], updates=6, beta=beta, learning_rate=4e-3)
        kls[beta] = world.train(hyper, f"beta{beta}").values("kl_k3")
    assert kls[0.0][-1] > 0.05
    assert kls[3.0][-1] < 0.7 * kls[0.0][-1]


def test_a_larger_beta_keeps_dpo_nearer_to_where_it_began(world):
    kls = {}
    for beta in (0.05, 2.0):
        hyper = replace(METHODS["dpo"], updates=12, beta=beta, learning_rate=4e-3)
        kls[beta] = world.train(hyper, f"beta{beta}").values("kl_k3")
    assert kls[2.0][-1] < 0.7 * kls[0.05][-1]


def test_dpo_from_an_adapter_starts_from_no_opinion_and_not_from_the_adapter_s(world, tmp_path):
    # taken against the bare base, the loss would already hold what the adapter had learnt
    start = Adapter(world.model.spec, 3, seed=8)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for b in start.b.values():
            b.normal_(0.0, 0.05, generator=generator)
    save_adapter(start, tmp_path / "start")
    ran = world.train(METHODS["dpo"], "warm", start=tmp_path / "start")
    assert ran.values("loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert ran.values("loss")[-1] != pytest.approx(math.log(2), abs=1e-6)
    assert load_adapter(world.model.spec, ran.result.policy).rank == 3


def test_the_gradient_of_rloo_is_that_of_its_formula_over_real_tokens(world, monkeypatch):
    hyper = replace(
        METHODS["rloo"], updates=1, minibatches=1, epochs=1, learning_rate=0.0, grad_norm=1e9
    )
    seen: list = []
    real = policy.roll_out
    monkeypatch.setattr(policy, "roll_out", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1])
    learner = rloo.Learner(hyper, world.context("grads").context)
    learner.run()
    responses = seen[0]
    assert len({len(r.tokens) for r in responses}) > 1  # so that there are pads
    pm = PreferenceModel.load(world.model, world.stages["pm"])
    scores = [
        pm.score([r.exchange])[0] / pm.anchor[1] - (0.0 if r.ended else 1.0) for r in responses
    ]
    advantages = []
    for i, score in enumerate(scores):
        group = range(i // 4 * 4, i // 4 * 4 + 4)
        advantages.append(score - sum(scores[j] for j in group if j != i) / 3)
    spread = statistics.stdev(advantages)
    tokens = sum(len(r.tokens) for r in responses)
    loss = torch.zeros(())
    for r, advantage in zip(responses, advantages, strict=True):
        logprobs, _, _ = learner.forward([r], learner.policy)
        loss = loss - advantage / spread * logprobs.sum() / tokens
    named = [(n, p) for n, p in learner.policy.named_parameters() if n.startswith("b.")]
    wanted = torch.autograd.grad(loss, [p for _, p in named])
    for (name, p), want in zip(named, wanted, strict=True):
        assert p.grad is not None
        size = float(want.norm())
        assert size > 0, name
        assert float((p.grad - want).norm()) < 1e-3 * size, name


def test_leave_one_out_compares_each_reply_with_the_others_of_its_prompt():
    rewards = torch.randn(12, generator=torch.Generator().manual_seed(0))
    got = leave_one_out(rewards, 4)
    for i in range(12):
        group = range(i // 4 * 4, i // 4 * 4 + 4)
        others = [float(rewards[j]) for j in group if j != i]
        assert float(got[i]) == pytest.approx(float(rewards[i]) - sum(others) / 3, abs=1e-6)


def test_dpo_does_not_teach_an_end_that_was_never_said(world):
    model = world.model
    ids = tuple(model.render.reply("the cat"))
    cut = Generation("the cat", ids, False, base=model.identity)
    whole = Generation("the dog", (*model.render.reply("the dog"), model.render.end_id), True)
    picked = replace(world.comparisons[0], replies=(cut, whole), preferred=0)
    pair = dpo.pair_of(model, picked, False)
    assert pair.chosen.tokens == list(ids)
    assert pair.rejected.tokens[-1] == model.render.end_id
    assert pair.rejected.ended


def test_dpo_learns_from_no_pick_whose_replies_read_the_same_and_tells_how_many(world):
    # a cut one differs by its end alone, which the user has not picked
    one, said = world.comparisons[0], tuple(world.model.render.reply("the cat"))
    cut = Generation("the cat", said, False, base=world.model.identity)
    same = [
        replace(one, replies=pair)
        for pair in ((Generation("the cat"),) * 2, (cut, Generation("the cat")))
    ]
    picks = world.comparisons[:6]
    plain = world.train(METHODS["dpo"], "plain", comparisons=picks)
    ran = world.train(METHODS["dpo"], "some", comparisons=[*same, *picks])
    assert [line for line in ran.told if "left out" in line] == [
        "2 pairs are left out: both replies read the same to the model"
    ]
    assert not [line for line in plain.told if "left out" in line]
    assert tw.same_files(plain.context.out, ran.context.out)
    with pytest.raises(HhchatError, match="no usable comparisons"):
        world.train(METHODS["dpo"], "none", comparisons=same)
