"""PPO: the first ratio is 1, the reference is where it began, and its guards stop it in time."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trainer_world as tw
from hhchat_trainers import policy, ppo, readings, state
from hhchat_trainers.rollout import roll_out, tensors
from safetensors.torch import load_file

from hhchat.model import Adapter, LocalEngine, PreferenceModel, load_adapter, save_adapter
from hhchat.model.lora import peft_tensors
from hhchat.model.rows import Rows
from hhchat.types import Cancelled, Draw, Exchange, HhchatError, Message, Sampling


def start_adapter(world: tw.World, folder: Path, size: float = 0.05) -> Path:
    """A policy adapter that is clearly not the bare base."""
    adapter = Adapter(world.model.spec, 3, seed=8)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for b in adapter.b.values():
            b.normal_(0.0, size, generator=generator)
    save_adapter(adapter, folder)
    return folder


class Term:
    """A plugin's reward term that remembers what it was shown."""

    question = "?"

    def __init__(self, name: str, value) -> None:
        self.name = name
        self.value = value
        self.seen: list[Exchange] = []

    def score(self, exchanges):
        self.seen += exchanges
        return [self.value(e) for e in exchanges]


def test_the_first_ratio_is_one_in_fp32(world):
    ran = world.train(tw.ppo(minibatches=4, updates=3, micro_tokens=256), "fp32")
    assert ran.values("ratio_error")[0] < 2e-6
    # of a policy that has moved, micro-batches may round the last bit otherwise
    assert max(ran.values("ratio_error")) < 1e-5


@pytest.mark.parametrize(
    ("loading", "limit"),
    [
        # half of what two passes of unlike precision would differ by; usually it is 1e-6
        ({"dtype": "bf16"}, 2e-3),
        ({"quantization": "int8", "dtype": "fp32"}, 1e-5),
        ({"quantization": "int8", "dtype": "bf16"}, 2e-3),
    ],
)
def test_the_first_ratio_is_one_within_a_tolerance_in_bf16_and_int8(make_world, loading, limit):
    world = make_world(**loading)
    pm = world.train(tw.pm(halves=False, anchors=8), "pm")
    world.stages = {"pm": pm.context.out}
    ran = world.train(tw.ppo(updates=2, minibatches=4, micro_tokens=256), "ppo")
    assert max(ran.values("ratio_error")) < limit
    assert all(math.isfinite(m.value) for m in ran.metrics)


def test_the_reference_is_the_adapter_that_the_policy_began_as(world, tmp_path):
    start = start_adapter(world, tmp_path / "start")
    ran = world.train(tw.ppo(updates=2), "warm", start=start)
    assert ran.values("kl")[0] == 0.0
    assert ran.values("kl_k3")[0] == 0.0
    assert ran.values("kl")[1] != 0.0
    # with nothing learnt, what is saved is what it began as
    still = world.train(tw.ppo(updates=1, learning_rate=0.0), "still", start=start)
    tensors = [peft_tensors(load_adapter(world.model.spec, f)) for f in (start, still.context.out)]
    assert all(tensors[0][k].equal(tensors[1][k]) for k in tensors[0])
    measured = {m.name: m.value for m in still.result.measurements}
    assert measured["kl_start"] == 0.0
    # the gate's limit is on the whole way from the base, or a chain of warm starts would escape it
    assert measured["kl"] > 0.01
    # and a first run begins as the bare base
    cold = world.train(tw.ppo(updates=1), "cold")
    assert cold.values("kl")[0] == 0.0
    assert [m.name for m in cold.result.measurements] == ["kl"]


def test_what_the_last_update_made_can_be_the_policy_that_is_kept(world):
    hyper = tw.ppo(updates=1, learning_rate=3e-2, smoothing=1.0)
    ran = world.train(hyper, "one")
    before, after = ran.values("gauge")
    assert after > before  # or this seed shows nothing
    assert ran.result.info["best_update"] == 1
    saved = peft_tensors(load_adapter(world.model.spec, ran.context.out))
    began = peft_tensors(
        Adapter(world.model.spec, hyper.rank, seed=state.seed_for(tw.SEED, "policy"))
    )
    assert any(not saved[k].equal(began[k]) for k in saved)


def sealed_after(world: tw.World, name: str, hyper) -> dict[str, torch.Tensor]:
    """What the first update of a run leaves: its modules by name."""
    asked = iter([False])
    ran = world.context(name, stopped=lambda: next(asked, True))
    with pytest.raises(Cancelled):
        hyper.train(ran.context)
    sealed = state.unseal(ran.context.state)
    assert sealed is not None
    return sealed[0]


def test_the_value_begins_as_the_preference_model_reads_and_with_no_opinion(world):
    # from nothing, its first hundred updates would push the policy by noise
    found = sealed_after(world, "still", tw.ppo(learning_rate=0.0))
    pm = PreferenceModel.load(world.model, world.stages["pm"])
    for name, tensor in pm.role.adapter.named_parameters():
        assert found[f"value/{name}"].equal(tensor.detach().cpu()), name
    assert not found["head/weight"].any()
    ran = world.train(tw.ppo(updates=8, batch=32, epochs=4, learning_rate=1e-3), "watched")
    assert ran.values("explained_variance")[0] == pytest.approx(0.0, abs=1e-6)
    assert sum(ran.values("explained_variance")[-3:]) / 3 > 0


def test_a_batch_is_gone_over_twice_where_there_are_comparisons_enough(world):
    def passes(name, count, **changes):
        many = (world.comparisons * 10)[:count]
        hyper = tw.ppo(**{"minibatches": 1, "epochs": None, **changes})
        found = sealed_after(replace(world, comparisons=many), name, hyper)
        return found["adam/steps"].unique().tolist()

    assert passes("few", ppo.ENOUGH - 1) == [1]
    assert passes("enough", ppo.ENOUGH) == [2]
    assert passes("told", ppo.ENOUGH, epochs=3) == [3]
    assert ppo.PPO().epochs is None


def test_what_hardly_matters_to_the_loss_hardly_moves_in_the_first_update(world):
    # Adam divides a gradient by its own size: with the usual epsilon 1e-8 noise moves as truth
    rate = 1e-3
    found = sealed_after(world, "faint", tw.ppo(learning_rate=rate, value_weight=1e-7, epochs=1))
    assert 0 < float(found["head/weight"].abs().max()) < 0.05 * rate
    moved = max(float(t.abs().max()) for k, t in found.items() if k.startswith("policy/b."))
    assert moved > 0.5 * rate  # and what matters does


def test_the_first_updates_take_small_steps_where_the_settings_ask_for_a_warm_up(world):
    sizes = {}
    for warmup in (0.0, 1.0):
        hyper = tw.ppo(updates=10, warmup=warmup, epochs=1, minibatches=1)
        found = sealed_after(world, f"warmup{warmup}", hyper)
        sizes[warmup] = max(float(t.abs().max()) for k, t in found.items() if "policy/b." in k)
    assert sizes[1.0] == pytest.approx(0.1 * sizes[0.0], rel=1e-3)


def test_raising_beta_lowers_the_kl(world):
    kls = {}
    for beta in (0.0, 3.0):
        ran = world.train(tw.ppo(updates=6, beta=beta, learning_rate=4e-3), f"beta{beta}")
        kls[beta] = ran.values("kl_k3")
    assert kls[0.0][-1] > 0.05
    assert kls[3.0][-1] < 0.7 * kls[0.0][-1]


def test_the_controller_raises_beta_above_its_target_and_lowers_it_below(world):
    calls: list[Exchange] = []

    def early(e):  # pays for length in four updates, and then for nothing: away, and back again
        calls.append(e)
        return 9.0 * len(e.reply.split()) if len(calls) <= 4 * 16 else 0.0

    hyper = tw.ppo(updates=12, beta=3.0, target_kl=0.5, learning_rate=1e-2)
    ran = world.train(hyper, "wave", terms=[(Term("early", early), 1.0)])
    kls, betas = ran.values("kl"), ran.values("beta")
    raised = lowered = 0
    for kl, before, after in zip(kls, betas, betas[1:], strict=False):
        if kl > hyper.target_kl:
            assert after > before
            raised += 1
        elif before > hyper.beta:  # below where it began it does not go
            assert hyper.beta <= after < before
            lowered += 1
        else:
            assert after == before
    assert min(raised, lowered) >= 2, "a run that goes both ways, or this shows nothing"


def test_kl_is_named_per_response_and_per_token_and_they_agree(world):
    ran = world.train(tw.ppo(updates=3), "names")
    for kl, token, length in zip(
        ran.values("kl"), ran.values("kl_per_token"), ran.values("length"), strict=True
    ):
        assert kl == pytest.approx(token * length, abs=1e-5)
    assert next(m for m in ran.result.measurements if m.name == "kl").unit == "nats/response"


def test_the_kl_that_the_gate_reads_is_of_whole_replies_to_held_out_prompts(world):
    world.heldout_prompts = world.heldout_prompts[:1]
    ran = world.train(tw.ppo(updates=8, learning_rate=1e-2), "closing")
    policy = load_adapter(world.model.spec, ran.context.out)
    seeds = [state.seed_for(0, "closing", 0)]
    [reply] = roll_out(LocalEngine(world.model), policy, world.heldout_prompts, seeds, 12)
    ids = torch.tensor([[*reply.prompt, *reply.tokens]])
    at = torch.arange(len(reply.prompt) - 1, ids.shape[1] - 1)[None]
    with torch.no_grad():
        hidden = world.model.trunk.hidden(Rows(ids, at), (policy, None))[:, 0]
        logits = world.model.trunk.logits(hidden)
    logits[..., list(world.model.render.blocked)] = -math.inf
    chosen = logits.log_softmax(-1).gather(
        -1, torch.tensor(reply.tokens)[None, :, None].repeat(2, 1, 1)
    )
    want = float((chosen[0] - chosen[1]).sum())
    [kl] = [m.value for m in ran.result.measurements if m.name == "kl"]
    assert len(reply.tokens) > 1
    assert abs(want) > 0.01
    assert kl == pytest.approx(want, abs=1e-4)


def test_prompts_come_from_the_training_prompts_alone_and_none_twice_in_a_pass(world):
    term = Term("watch", lambda e: 0.0)
    world.train(tw.ppo(updates=5, learning_rate=0.0), "prompts", terms=[(term, 1.0)])
    asked = [e.messages for e in term.seen]
    assert len(asked) == 6 * 16  # what the last update made is read too
    pool = {p.messages for p in world.prompts}
    assert set(asked) <= pool
    assert not set(asked) & {p.messages for p in world.heldout_prompts}
    assert set(asked[:40]) == set(asked[40:80]) == pool  # 40 prompts: two whole passes


def test_a_reply_cut_by_its_length_teaches_only_what_was_sampled(world):
    # an end that was added for the preference model would be learnt as one that was said
    model, end = world.model, world.model.render.end_id
    replies = roll_out(LocalEngine(model), None, world.prompts, range(40), 4)
    assert {r.ended for r in replies} == {True, False}
    for r in replies:
        assert r.tokens.count(end) == int(r.ended)
        assert len(r.tokens) == 4 if not r.ended else r.tokens[-1] == end
    packed = tensors(replies)
    for i, r in enumerate(replies):
        assert int(packed.mask_BT[i].sum()) == len(r.tokens)
        assert packed.tokens_BT[i, : len(r.tokens)].tolist() == r.tokens


def test_a_reply_cut_by_its_length_loses_the_penalty_and_no_more(world):
    scores = {}
    for penalty in (0.0, 3.0):
        hyper = tw.ppo(updates=1, unfinished_penalty=penalty, max_new_tokens=4, learning_rate=0.0)
        ran = world.train(hyper, f"penalty{penalty}")
        scores[penalty] = ran.values("score")[0]
        unfinished = ran.values("unfinished")[0]
    assert 0.0 < unfinished < 1.0
    assert scores[0.0] - scores[3.0] == pytest.approx(3.0 * unfinished, abs=1e-5)


def test_scores_are_near_zero_before_anything_is_learnt(world):
    # normalised on replies of the reference and frozen
    ran = world.train(tw.ppo(updates=1, batch=40, learning_rate=0.0), "zero")
    pm = PreferenceModel.load(world.model, world.stages["pm"])
    assert abs(ran.values("score")[0]) < 4 * (1 / 32 + 1 / 40) ** 0.5
    assert pm.anchor[1] > 0


def test_a_plugin_s_term_is_rewarded_by_its_weight_and_named_in_the_metrics(world):
    term = Term("brief", lambda e: -float(len(e.reply)))
    hyper = tw.ppo(updates=1, learning_rate=0.0)
    plain = world.train(hyper, "plain")
    with_ = world.train(hyper, "with", terms=[(term, 0.1)])
    mean = sum(-len(e.reply) for e in term.seen[: hyper.batch]) / hyper.batch
    assert with_.values("reward_brief")[0] == pytest.approx(mean)
    gain = with_.values("score")[0] - plain.values("score")[0]
    assert gain == pytest.approx(0.1 * mean, abs=1e-5)
    assert with_.values("gauge") == plain.values("gauge")  # the gauge is the user's taste alone


@pytest.mark.parametrize("sign", [1, -1])
def test_a_reward_that_is_paid_for_length_alone_shows_as_such(world, sign):
    ids = world.model.render
    term = Term("long", lambda e: 1e3 * sign * len(ids.reply(e.reply)))
    hyper = tw.ppo(updates=1, batch=32, learning_rate=0.0)
    ran = world.train(hyper, "long", terms=[(term, 1.0)])
    assert sign * ran.values("score_length")[0] > 0.9
    flat = world.train(hyper, "flat")
    assert abs(flat.values("score_length")[0]) < 0.9


def test_what_every_reply_is_given_alike_changes_nothing_that_is_learnt(world):
    hyper = tw.ppo(updates=5)
    plain = world.train(hyper, "plain")
    with_ = world.train(hyper, "with", terms=[(Term("flat", lambda e: -6.0), 1.0)])
    one, two = (load_file(r.context.out / "adapter_model.safetensors") for r in (plain, with_))
    moved = max(float(t.abs().max()) for n, t in one.items() if "lora_B" in n)
    apart = max(float((one[n] - two[n]).abs().max()) for n in one)
    assert apart < 0.02 * moved
    assert with_.values("explained_variance") == pytest.approx(
        plain.values("explained_variance"), abs=0.01
    )


def test_the_best_point_is_chosen_with_what_the_user_weighted(world):
    hyper = tw.ppo(updates=1, learning_rate=0.0)
    ran = world.train(hyper, "with", terms=[(Term("brief", lambda e: -float(len(e.reply))), 0.5)])
    asked_for = 0.5 * ran.values("reward_brief")[0]
    assert ran.values("gauge_smooth")[0] == pytest.approx(ran.values("gauge")[0] + asked_for)


def test_a_term_that_failed_before_a_stop_still_counts_as_nothing_after_it(world):
    calls = []

    def fails_once(e):
        calls.append(e)
        return math.nan if len(calls) == 1 else 5.0

    plain = world.train(tw.ppo(updates=3), "plain")
    term = Term("flaky", fails_once)
    stopping = iter([False, False, True])
    hyper = tw.ppo(updates=3)
    with pytest.raises(Cancelled):
        world.train(hyper, "with", terms=[(term, 1.0)], stopped=lambda: next(stopping))
    after = world.train(hyper, "with", terms=[(term, 1.0)])
    assert len(calls) == hyper.batch
    assert tw.same_files(plain.context.out, after.context.out)


def test_a_plugin_s_term_that_is_not_a_number_is_named_once_and_changes_nothing(world):
    term = Term("broken", lambda e: math.nan)
    hyper = tw.ppo(updates=2)
    plain = world.train(hyper, "plain")
    with_ = world.train(hyper, "with", terms=[(term, 1.0)])
    assert len([line for line in with_.told if "broken" in line]) == 1
    assert tw.same_files(plain.context.out, with_.context.out)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_kl": 0.01, "learning_rate": 1e-2, "updates": 6}, "over the budget of 0.01 nats"),
        ({"max_unfinished": -0.5}, "do not end"),
        ({"max_length_ratio": 1.0, "min_length_ratio": 1.0}, "times as long as at the start"),
        ({"min_distinct": 2.0}, "distinct"),
        (
            {"patience": 1, "learning_rate": 0.0, "updates": 8, "smoothing": 1.0},
            "has not risen for 1 updates",
        ),
    ],
)
def test_a_guard_stops_the_run_with_its_reason_and_keeps_a_policy(world, changes, reason):
    hyper = tw.ppo(**{"updates": 4, **changes})
    ran = world.train(hyper, "guarded")
    assert reason in ran.result.info["stop"]
    assert any(reason in line for line in ran.told)
    assert json.loads((ran.context.out / "ppo.json").read_text())["stop"]
    assert len(ran.values("kl")) < hyper.updates
    load_adapter(world.model.spec, ran.context.out)


def longer(e: Exchange) -> float:
    return 3.0 * len(e.reply.split())


def briefer(e: Exchange) -> float:
    return -longer(e)


@pytest.mark.parametrize(
    ("changes", "worth", "over"),
    [
        ({"max_kl": 1.0}, longer, lambda now, first: now["kl"] > 1.0),
        ({"max_gap": 0.03}, longer, lambda now, first: now["gap"] > 0.03),
        (
            {"max_length_ratio": 1.2},
            longer,
            lambda now, first: now["length"] > 1.2 * first["length"],
        ),
        (
            {"min_length_ratio": 0.5},
            briefer,
            lambda now, first: now["length"] < 0.5 * first["length"],
        ),
        (
            {"max_unfinished": 0.3, "max_new_tokens": 5},
            longer,
            lambda now, first: now["unfinished"] > first["unfinished"] + 0.3,
        ),
        (
            {"min_distinct": 0.8, "max_new_tokens": 2, "batch": 32},
            briefer,
            lambda now, first: now["distinct"] < 0.8 * first["distinct"],
        ),
    ],
    ids=["kl", "gap", "longer", "briefer", "unfinished", "distinct"],
)
def test_a_guard_goes_by_the_first_update_and_keeps_the_best_policy_before_it_stopped(
    changes, worth, over, world
):
    policies: list[dict[str, torch.Tensor]] = []  # after each update

    def look() -> bool:
        sealed = state.unseal(ran.context.state)
        policies.extend([sealed[0]] if sealed else [])
        return False

    def rising(exchanges):  # each update is worth more than all before: the last would be the best
        rising.calls += 1
        return [10.0 * rising.calls + worth(e) for e in exchanges]

    rising.calls = 0
    term = Term("rising", worth)
    term.score = rising
    hyper = tw.ppo(**{"updates": 8, "learning_rate": 1e-2, "unfinished_penalty": 0.0, **changes})
    ran = world.context("guarded", stopped=look, terms=[(term, 1.0)])
    result = hyper.train(ran.context)
    names = ("kl", "gap", "length", "unfinished", "distinct")
    said = [dict(zip(names, v, strict=True)) for v in zip(*map(ran.values, names), strict=True)]
    stopped = len(said) - 1
    assert result.info["stop"]
    assert [over(now, said[0]) for now in said] == [False] * stopped + [True]
    assert stopped >= 2, "a run that has a best before it stops, or this shows nothing"
    assert result.info["best_update"] == stopped - 1
    saved = peft_tensors(load_adapter(world.model.spec, ran.context.out))
    want = Adapter(world.model.spec, hyper.rank)
    state.restore_module("policy", want, policies[stopped - 2])
    assert all(saved[k].equal(t) for k, t in peft_tensors(want).items())


@pytest.mark.parametrize("zero", [math.nan, math.inf, -math.inf])
def test_gauges_that_no_longer_say_a_number_stop_the_run_with_the_start_kept(world, tmp_path, zero):
    # nothing is higher than nan, and so the first policy would be the best for ever
    start, folder = start_adapter(world, tmp_path / "start"), tmp_path / "half"
    half = PreferenceModel.load(world.model, world.stages["pm"] / "half-a")
    half.anchor = (zero, 1.0)
    half.save(folder)
    gauges = {"a": folder, "b": world.stages["pm"] / "half-b"}
    ran = world.train(tw.ppo(), "nan", gauges=gauges, start=start)
    assert ran.result.info["stop"] == "the gauge is not finite"
    assert len(ran.values("gauge")) == 1
    assert ran.result.info["best_update"] is None
    saved, began = (
        peft_tensors(load_adapter(world.model.spec, f)) for f in (ran.context.out, start)
    )
    assert all(saved[k].equal(began[k]) for k in began)


def test_replies_that_begin_to_decline_are_told_once_and_stop_nothing(world, monkeypatch):
    hyper, seen = tw.ppo(updates=3), []

    def evades(text):
        seen.append(text)
        return len(seen) > hyper.batch

    monkeypatch.setattr(readings, "evades", evades)
    ran = world.train(hyper, "declining")
    assert ran.values("evasive") == [0.0, 1.0, 1.0, 1.0]
    assert len([line for line in ran.told if "100% of the replies decline" in line]) == 1


@pytest.mark.parametrize(
    ("text", "declines"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m afraid that is beyond me.", True),
        ("That is a good question, but I do not know.", True),
        ("As an AI, I have no views.", True),
        ("I would rather not say.", True),
        ("You can help her: say that you are sorry.", False),
        ("I know a place where cats cannot go. I can tell you more.", False),
        ("Paris is the capital of France.", False),
    ],
)
def test_a_reply_that_declines_is_told_from_one_that_answers(text, declines):
    assert readings.evades(text) is declines


def test_replies_that_are_not_sampled_as_they_are_scored_stop_the_run(world, tmp_path, monkeypatch):
    def other(engine, role, *arguments):  # the bare base speaks in the policy's place
        return roll_out(engine, None, *arguments)

    monkeypatch.setattr(policy, "roll_out", other)
    hyper = tw.ppo(updates=30, learning_rate=1e-2, batch=32, patience=0)
    ran = world.train(hyper, "another")
    assert "not sampled as they are scored" in ran.result.info["stop"]
    assert ran.values("kl")[-1] < 0
    assert len(ran.values("kl")) < 30


def test_two_losses_that_are_not_finite_end_the_run_with_the_start_kept(world, tmp_path):
    start = start_adapter(world, tmp_path / "start", size=0.01)
    hyper = tw.ppo(learning_rate=1e35, minibatches=4)
    ran = world.train(hyper, "exploding", start=start)
    assert "not finite" in ran.result.info["stop"]
    assert len(ran.values("kl")) == 1
    saved = peft_tensors(load_adapter(world.model.spec, ran.context.out))
    began = peft_tensors(load_adapter(world.model.spec, start))
    assert all(saved[k].equal(began[k]) for k in began)


def test_the_policy_that_is_saved_is_the_best_one_by_the_gauge_and_not_the_last(world):
    policies: list[dict[str, torch.Tensor]] = []

    def look() -> bool:  # asked before each update: what is sealed is the policy of that update
        sealed = state.unseal(ran.context.state)
        if sealed is not None:
            policies.append({k: v for k, v in sealed[0].items() if k.startswith("policy/")})
        return False

    class Fickle:  # praises what the user likes for five updates, and then its opposite
        name = "fickle"
        question = "?"
        calls = 0

        def score(self, exchanges):
            self.calls += 1
            sign = 1.0 if self.calls <= 5 else -3.0
            return [sign * s for s in half.score(exchanges)]

    half = PreferenceModel.load(world.model, world.stages["pm"] / "half-a")
    ran = world.context("best", stopped=look, terms=[(Fickle(), 3.0)])
    hyper = tw.ppo(updates=10, learning_rate=1e-2, smoothing=0.7, epochs=3)
    result = hyper.train(ran.context)
    smooth = ran.values("gauge_smooth")
    best = max(range(len(smooth)), key=smooth.__getitem__)
    assert result.info["best_update"] == best
    assert 0 < best < 9  # a run whose best is in its middle, or this shows nothing
    saved = load_adapter(world.model.spec, ran.context.out)
    want = policies[best - 1]  # nothing was sealed before update 0
    again = Adapter(world.model.spec, saved.rank)
    state.restore_module("policy", again, want)
    mine, theirs = peft_tensors(saved), peft_tensors(again)
    assert all(mine[k].equal(theirs[k]) for k in mine)


def test_the_gauge_is_what_the_two_halves_say_of_the_same_replies(world):
    term = Term("watch", lambda e: 0.0)
    ran = world.train(tw.ppo(updates=2), "gauge", terms=[(term, 1.0)])
    for half in ("a", "b"):
        pm = PreferenceModel.load(world.model, world.stages["pm"] / f"half-{half}")
        for update in (0, 1):
            scores = pm.score(term.seen[16 * update : 16 * update + 16])
            want = sum(scores) / len(scores) / pm.anchor[1]
            assert ran.values(f"gauge_{half}")[update] == pytest.approx(want, abs=1e-4)
    both = zip(ran.values("gauge_a"), ran.values("gauge_b"), strict=True)
    assert ran.values("gauge") == pytest.approx([(a + b) / 2 for a, b in both])


def test_a_gauge_that_is_gone_stops_the_run_and_is_not_done_without(world, tmp_path):
    gauges = {"a": world.stages["pm"] / "half-a", "b": tmp_path / "half-b"}
    ran = world.context("halved", gauges=gauges)
    with pytest.raises(HhchatError, match="half-b"):
        tw.ppo(updates=1).train(ran.context)
    assert ran.metrics == []


def test_a_policy_that_learns_its_judge_and_not_the_user_is_stopped(world, tmp_path):
    folder = tmp_path / "pm"
    shutil.copytree(world.stages["pm"], folder)
    for half in ("half-a", "half-b"):  # gauges that like the opposite of what is rewarded
        pm = PreferenceModel.load(world.model, folder)
        with torch.no_grad():
            pm.role.head.weight.neg_()
            pm.role.head.bias.neg_()
        pm.anchor = (-pm.anchor[0], pm.anchor[1])
        pm.save(folder / half)
    world.stages = {"pm": folder}
    hyper = tw.ppo(updates=40, learning_rate=1e-2, patience=0, max_gap=1.0, smoothing=0.5)
    ran = world.train(hyper, "gap")
    score, gauge, gap = (ran.values(k) for k in ("reward_preference", "gauge", "gap"))
    assert gap == pytest.approx([s - g for s, g in zip(score, gauge, strict=True)])
    assert "ahead of the gauges" in ran.result.info["stop"]
    assert len(gap) < 40
    smooth = ran.values("gap_smooth")
    assert smooth[-1] > 1.0 >= max(smooth[:-1])
    assert ran.result.info["best_update"] < len(gap) - 1
    unguarded = replace(hyper, updates=len(gap) + 2, max_gap=0.0)
    assert len(world.train(unguarded, "no-guard").values("gap")) == len(gap) + 3


def test_training_a_policy_leaves_base_and_preference_model_as_they_were(world):
    def content() -> list[torch.Tensor]:
        layers = world.model.trunk.layers
        dense = [x.linears[n].dense(torch.float32).clone() for x in layers for n in x.linears]
        files = sorted(world.stages["pm"].rglob("*.safetensors"))
        return [*dense, *(t for f in files for _, t in sorted(load_file(str(f)).items()))]

    before = content()
    world.train(tw.ppo(), "ppo")
    assert all(x.equal(y) for x, y in zip(before, content(), strict=True))


def test_the_saved_policy_talks_as_the_policy_that_was_measured(world):
    ran = world.train(tw.ppo(updates=3, learning_rate=1e-2), "talks")
    engine = LocalEngine(world.model, lambda name: (name, ran.context.out))
    draws = [Draw(p.messages, 5, Sampling(max_new_tokens=12), "s") for p in world.heldout_prompts]
    spoken = load_adapter(world.model.spec, ran.context.out)
    rolled = roll_out(LocalEngine(world.model), spoken, world.heldout_prompts, [5] * 16, 12)
    assert [list(g.token_ids) for g in engine.generate(draws)] == [r.tokens for r in rolled]
    assert [g.text for g in engine.generate(draws)] == [r.text for r in rolled]


def test_long_conversations_are_trained_on_within_the_model_s_length(world):
    long = [
        m
        for i in range(60)
        for m in (Message("user", f"see the {tw.WORDS[i % 12]}"), Message("assistant", "the cat"))
    ]
    world.prompts = [tw.Prompt((*long, *p.messages)) for p in world.prompts[:16]]
    ran = world.train(tw.ppo(updates=1, micro_tokens=600), "long")
    assert ran.values("ratio_error")[0] < 1e-5
    assert all(math.isfinite(m.value) for m in ran.metrics)


def test_ppo_says_what_is_missing(world):
    world.prompts = []
    with pytest.raises(HhchatError, match="no training prompts"):
        world.train(tw.ppo(), "nothing-to-ask")
