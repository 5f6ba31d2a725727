"""The preference model's training: what it learns from, what it must not see, what it saves."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import trainer_world as tw
from hhchat_trainers import pm as pm_module
from hhchat_trainers.adam import Adam, Group
from hhchat_trainers.descent import Budget, Descent
from hhchat_trainers.pm import PM, cross, gaps, halves, pair_of
from safetensors.torch import load_file

from hhchat.model import LocalEngine, PreferenceModel
from hhchat.model.preference import Judged, PreferenceRole, pack, reply_ids
from hhchat.types import Draw, Exchange, Generation, HhchatError, Message, Sampling


def test_training_a_preference_model_twice_gives_the_same_one_and_another_seed_another(world):
    first = world.train(tw.pm(), "one")
    again = world.train(tw.pm(), "two")
    other = world.train(tw.pm(), "three", seed=12)
    assert first.numbers == again.numbers
    assert tw.same_files(first.context.out, again.context.out)
    assert not tw.same_files(first.context.out, other.context.out)


def test_held_out_picks_teach_nothing_in_one_epoch(world):
    with_ = world.train(tw.pm(), "with")
    world.heldout = [c.swap() for c in world.heldout[:3]]
    without = world.train(tw.pm(), "without")
    world.heldout = []
    never = world.train(tw.pm(), "never")
    assert tw.same_files(with_.context.out, without.context.out)
    assert tw.same_files(with_.context.out, never.context.out)
    assert [m.name for m in never.result.measurements] == ["pm_cross_accuracy"]


def test_the_pick_is_what_is_learnt_whichever_side_it_was_stored_on(world):
    picks = world.comparisons
    straight = world.train(tw.pm(epochs=2, halves=False), "straight")
    world.comparisons = [c.swap() if i % 2 else c for i, c in enumerate(picks)]
    swapped = world.train(tw.pm(epochs=2, halves=False), "swapped")
    assert tw.same_files(straight.context.out, swapped.context.out)
    # and the opposite picks teach the opposite taste
    world.comparisons = [replace(c, preferred=1 - c.preferred) for c in picks]
    opposite = world.train(tw.pm(epochs=2, halves=False), "opposite")
    pairs = [pair_of(world.model, c, False) for c in picks]
    good, bad = (
        gaps(PreferenceModel.load(world.model, ran.context.out), pairs)
        for ran in (straight, opposite)
    )
    assert sum(g > 0 for g in good) > 0.7 * len(pairs)
    assert sum(g < 0 for g in bad) > 0.7 * len(pairs)


def test_each_half_is_judged_on_picks_that_it_has_not_seen(world):
    # labels are coin flips that models of this rank learn by heart: what a half has seen it
    # ranks right, what it has not seen it can only guess
    generator = torch.Generator().manual_seed(3)
    flips = torch.rand(24, generator=generator) < 0.5
    world.comparisons = [
        c if f else replace(c, preferred=1 - c.preferred)
        for c, f in zip(world.comparisons, flips.tolist(), strict=False)
    ]
    ran = world.train(tw.pm(epochs=30, batch_pairs=12, rank=8, anchors=8), "coins")
    pairs = [pair_of(world.model, c, False) for c in world.comparisons]
    right = []
    for half in ("a", "b"):
        folder = ran.context.out / f"half-{half}"
        assert json.loads((folder / "pm.json").read_text())["pairs"] == 12
        found = gaps(PreferenceModel.load(world.model, folder), pairs)
        right.append([gap > 0 for gap in found])
    # every pick is known by heart to one half at least: the halves cover everything
    assert sum(a or b for a, b in zip(*right, strict=True)) >= 23
    # and neither knows what only the other was taught: they are disjoint
    measured = {m.name: m.value for m in ran.result.measurements}
    assert measured["pm_cross_accuracy"] < 0.75
    # each ranks right its own 12 and what it guesses of the other 12
    both = sum(map(sum, right))
    assert both == pytest.approx(24 + 24 * measured["pm_cross_accuracy"], abs=1.0)


def test_cross_accuracy_tests_each_half_on_the_other_half_s_picks(world):
    folder = world.stages["pm"]
    a, b = (PreferenceModel.load(world.model, folder / f"half-{h}") for h in ("a", "b"))
    pairs = [pair_of(world.model, c, False) for c in world.comparisons]
    mine, theirs = pairs[:10], pairs[10:]
    found = cross(a, b, mine, theirs)
    assert [gap for _, gap in found] == [*gaps(a, theirs), *gaps(b, mine)]
    assert [name for name, _ in found] == [c.id for c in world.comparisons[10:]] + [
        c.id for c in world.comparisons[:10]
    ]


def test_a_run_tells_what_each_pair_was_given_so_that_accuracy_can_be_drawn_by_kind(world):
    ran = world.train(tw.pm(), "told")
    tested = ran.result.info["tested"]
    found = {m.name: m for m in ran.result.measurements}
    for which, name in (("heldout", "pm_accuracy"), ("cross", "pm_cross_accuracy")):
        gap = dict(tested[which])
        assert found[name].value == sum(g > 0 for g in gap.values()) / len(gap)
    assert set(dict(tested["heldout"])) == {c.id for c in world.heldout}
    assert set(dict(tested["cross"])) == {c.id for c in world.comparisons}


def test_pairs_that_are_the_same_after_tokenisation_teach_nothing(world):
    one = world.comparisons[0]
    same = replace(one, replies=(Generation("the cat"), Generation(" the cat ")))
    assert pair_of(world.model, same, False) is None or same.replies[1].text != "the cat"
    same = replace(one, replies=(Generation("the cat"), Generation("the cat")))
    assert pair_of(world.model, same, False) is None
    world.comparisons = [one, *[same] * 5]
    with pytest.raises(HhchatError, match="only 1 usable"):
        world.train(tw.pm(), "few")


def test_the_user_is_told_how_many_picks_could_not_teach(world):
    one = world.comparisons[0]
    same = replace(one, replies=(Generation("the cat"), Generation("the cat")))
    world.comparisons = [*world.comparisons[:6], *[same] * 3]
    ran = world.train(tw.pm(halves=False, anchors=8), "some")
    assert next(line for line in ran.told if "left out" in line).startswith("3 pairs")
    assert len(ran.values("loss")) == 1  # and the six fill one batch of eight


@pytest.mark.parametrize("longer", [True, False])
def test_picks_that_length_alone_explains_are_told_apart_from_a_taste(world, longer):
    def sized(c):
        lengths = [len(reply_ids(world.model, g)) for g in c.replies]
        return replace(c, preferred=int((lengths[1] > lengths[0]) == longer)), lengths

    some = [sized(c) for c in world.comparisons]
    usable = [c for c, lengths in some if lengths[0] != lengths[1]]
    assert len(usable) > 16
    world.comparisons = usable
    assert world.train(tw.pm(anchors=8), "length").values("pm_length_accuracy") == [1.0]
    world.comparisons = [
        replace(c, preferred=1 - c.preferred) if i % 2 else c
        for i, c in enumerate(usable[: len(usable) // 2 * 2])
    ]
    assert world.train(tw.pm(anchors=8), "neither").values("pm_length_accuracy") == [0.5]


def test_by_default_picks_are_gone_over_once(world):
    # a few hundred picks are learnt by heart when they come again
    world.comparisons = world.comparisons[:12]
    hyper = PM(halves=False, anchors=8, max_new_tokens=12)
    assert len(world.train(hyper, "default").values("loss")) == 12 / hyper.batch_pairs


def test_scores_of_two_runs_are_measured_from_the_same_replies(world, monkeypatch):
    # else a score of today and one of last week have different zeros
    seen = []
    real = pm_module.roll_out
    monkeypatch.setattr(
        pm_module, "roll_out", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1]
    )
    for seed in (1, 2):
        world.train(tw.pm(halves=True, anchors=24), f"seed{seed}", seed=seed)
    assert [r.tokens for r in seen[0]] == [r.tokens for r in seen[1]]
    assert len(seen) == 2  # one set for the full model and both halves


def test_replies_that_differ_only_past_what_the_model_reads_teach_nothing(world):
    long = "cat " * 3 * world.model.spec.max_positions
    one = world.comparisons[0]
    same = replace(one, replies=(Generation(long + "a"), Generation(long + "b")))
    assert pair_of(world.model, same, False) is None


def test_no_conversation_is_in_both_halves(world):
    # the model of one half would know from its own turns what the other is tested on
    world.comparisons = [
        replace(c, conversation=f"talk {i // 3}") for i, c in enumerate(world.comparisons)
    ]
    pairs = [pair_of(world.model, c, False) for c in world.comparisons]
    for seed in range(5):
        found = halves(pairs, seed)
        talks = [{p.talk for p in found[half]} for half in ("a", "b")]
        assert not talks[0] & talks[1]
        assert talks[0] | talks[1] == {f"talk {i}" for i in range(16)}
        assert sorted(p.id for half in found.values() for p in half) == sorted(p.id for p in pairs)
        assert abs(len(found["a"]) - len(found["b"])) <= 3


def test_imported_pairs_under_one_system_prompt_still_have_two_halves(world):
    system = Message("system", "Be kind.")
    world.comparisons = [
        replace(c, conversation=None, messages=(system, *c.messages)) for c in world.comparisons
    ]
    pairs = [pair_of(world.model, c, False) for c in world.comparisons]
    assert "Be kind." not in {p.talk for p in pairs}
    assert len({p.talk for p in pairs}) > 1
    assert set(halves(pairs, 0)) == {"a", "b"}


def test_scores_have_a_spread_where_all_picks_share_one_prompt(world):
    world.prompts = world.prompts[:1]
    ran = world.train(tw.pm(), "one prompt")
    told = json.loads((ran.context.out / "pm.json").read_text())
    assert 1e-3 < told["anchor_sd"] < 100


def test_a_weak_pick_counts_for_less_than_a_strong_one(world):
    targets = [
        pair_of(world.model, replace(world.comparisons[0], strength=s), True).target
        for s in (2, 3, 4)
    ]
    assert targets == sorted(targets)
    assert 0.5 < targets[0] < targets[-1] <= 1.0
    assert pair_of(world.model, world.comparisons[0], False).target == 1.0


def test_scores_are_anchored_at_zero_on_replies_of_the_reference(world):
    ran = world.train(tw.pm(anchors=40), "anchored")
    engine = LocalEngine(world.model)
    draws = [
        Draw(p.messages, 31 * i + j, Sampling(max_new_tokens=12))
        for i, p in enumerate(world.prompts)
        for j in range(8)
    ]
    replies = engine.generate(draws)
    exchanges = [Exchange(d.messages, g.text) for d, g in zip(draws, replies, strict=True)]
    for folder in (ran.context.out, ran.context.out / "half-a", ran.context.out / "half-b"):
        pm = PreferenceModel.load(world.model, folder)
        found = torch.tensor(pm.score(exchanges))
        sd = pm.anchor[1]
        # 40 anchors: the mean of fresh replies is 0 within what 40 and 320 of them can say
        assert abs(float(found.mean())) < 4 * sd * (1 / 40 + 1 / 320) ** 0.5
        assert 0.6 < float(found.std()) / sd < 1.6


def test_a_drift_of_raw_scores_from_run_to_run_is_taken_off(world):
    # only differences are learnt, so the zero of raw scores wanders from one training to the next
    models = [PreferenceModel.load(world.model, world.stages["pm"]) for _ in range(2)]
    with torch.no_grad():
        models[1].role.head.bias.add_(5.0)
    said = [Exchange(p.messages, reply) for p in world.prompts[:4] for reply in ("the cat", "mat")]
    assert models[1].score(said)[0] > models[0].score(said)[0] + 4
    context = world.context("anchors").context
    for made in models:
        tw.pm().anchor(context, Budget(), {"full": made}, world.prompts)
    assert models[1].score(said) == pytest.approx(models[0].score(said), abs=1e-4)
    assert models[1].anchor[1] == pytest.approx(models[0].anchor[1], abs=1e-4)


def test_training_leaves_the_base_as_it_was(world):
    before = [
        layer.linears[name].dense(torch.float32).clone()
        for layer in world.model.trunk.layers
        for name in layer.linears
    ]
    world.train(tw.pm(), "pm")
    after = [
        layer.linears[name].dense(torch.float32)
        for layer in world.model.trunk.layers
        for name in layer.linears
    ]
    assert all(x.equal(y) for x, y in zip(before, after, strict=True))


def test_gradients_of_a_batch_of_pairs_are_the_mean_of_its_pairs(world):
    # micro-batches, packing and padding must not change what a batch teaches
    pairs = [pair_of(world.model, c, False) for c in world.comparisons[:6]]
    made = PreferenceModel(world.model, PreferenceRole(world.model, 4, seed=5))
    params = list(made.role.parameters())
    loss = torch.zeros(())
    for pair in pairs:
        one, two = (
            made.forward(pack([Judged(pair.row.prompt, [reply])]))[0, 0]
            for reply in pair.row.replies
        )
        loss = loss + torch.log1p(torch.exp(two - one)) / len(pairs)
    want = torch.autograd.grad(loss, params)
    norm = float(torch.stack([g.norm() for g in want]).norm())
    told, right = tw.pm().update(made, Descent(Adam([Group(params)], rate=0.0)), pairs)
    assert told == pytest.approx(float(loss.detach()), abs=1e-5)
    assert right == sum(g > 0 for g in gaps(made, pairs)) / len(pairs)
    for p, grad in zip(params, want, strict=True):
        torch.testing.assert_close(p.grad, grad * min(1.0, 1.0 / norm), atol=1e-6, rtol=1e-3)


def test_early_stopping_keeps_the_best_epoch_on_held_out_picks(world):
    hyper = tw.pm(epochs=12, learning_rate=1e-2, patience=2, halves=False)
    ran = world.train(hyper, "stopped")
    losses = ran.values("heldout_loss")
    assert len(losses) > 3
    measured = {m.name: m.value for m in ran.result.measurements}
    assert measured["pm_loss"] == pytest.approx(min(losses), abs=1e-6)
    assert min(losses) < losses[-1]


def test_what_is_saved_is_finite_and_in_fp32(world):
    for file in world.stages["pm"].rglob("*.safetensors"):
        for tensor in load_file(str(file)).values():
            assert tensor.dtype == torch.float32
            assert bool(torch.isfinite(tensor).all())


def test_from_a_prior_the_head_starts_with_what_the_picks_say_of_its_features(world):
    # a prior of taste: what it knows must be of use before anything is trained
    learnt = world.train(tw.pm(epochs=4, halves=False), "prior")
    prior = learnt.context.out
    ran = world.train(tw.pm(prior=str(prior), learning_rate=0.0, halves=False), "start")
    made, before = (PreferenceModel.load(world.model, f) for f in (ran.context.out, prior))
    for x, y in zip(made.role.adapter.parameters(), before.role.adapter.parameters(), strict=True):
        assert torch.equal(x, y)  # the features are the prior's own
    pairs = [pair_of(world.model, c, False) for c in world.comparisons]
    right = sum(g > 0 for g in gaps(made, pairs)) / len(pairs)
    blank = tw.pm(prior=str(prior), learning_rate=1e-9, head_start=0.0, halves=False)
    random = PreferenceModel.load(world.model, world.train(blank, "blank").context.out)
    assert right > 0.8
    assert right > sum(g > 0 for g in gaps(random, pairs)) / len(pairs)
    # the opposite picks start it the other way round: it is the picks that speak
    world.comparisons = [replace(c, preferred=1 - c.preferred) for c in world.comparisons]
    other = world.train(tw.pm(prior=str(prior), learning_rate=0.0, halves=False), "other")
    turned = gaps(PreferenceModel.load(world.model, other.context.out), pairs)
    assert sum(g < 0 for g in turned) / len(pairs) > 0.8


def test_pairs_that_were_chosen_to_teach_never_test(world):
    some = world.comparisons
    world.comparisons = [replace(c, purpose="active") if i % 3 else c for i, c in enumerate(some)]
    ran = world.train(tw.pm(), "active")
    [crossed] = [m for m in ran.result.measurements if m.name == "pm_cross_accuracy"]
    assert crossed.n == sum(c.purpose != "active" for c in world.comparisons)
    world.comparisons = [replace(c, purpose="active") for c in some]
    world.heldout = []
    assert world.train(tw.pm(), "none").result.measurements == ()
