"""The arithmetic of training against plain loops over lists."""

from __future__ import annotations

import math

import pytest
import torch
from hhchat_trainers import maths
from hhchat_trainers.readings import kl_readings
from hhchat_trainers.rollout import Scored, Tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from hhchat.model.rows import Rows

Batch = tuple[int, torch.Tensor, list[int]]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """A seed, a mask [B, T] of right-padded responses and their lengths."""
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    width = max(lengths) + draw(st.integers(0, 2))
    mask = torch.zeros(len(lengths), width)
    for i, n in enumerate(lengths):
        mask[i, :n] = 1.0
    return draw(st.integers(0, 2**31)), mask, lengths


def random(seed: int, mask: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Numbers everywhere, pads included: pads hold loud nonsense that must not be heard."""
    generator = torch.Generator().manual_seed(seed)
    loud = 1 + 50 * (1 - mask)
    return [torch.randn(mask.shape, generator=generator) * loud for _ in range(count)]


def cells(mask: torch.Tensor) -> list[tuple[int, int]]:
    return [(b, t) for b in range(mask.shape[0]) for t in range(mask.shape[1]) if mask[b, t] > 0]


many = settings(max_examples=60, deadline=None)


@many
@given(batches())
def test_means_and_whitening_ignore_pads(batch: Batch):
    seed, mask, _ = batch
    (x,) = random(seed, mask, 1)
    real = [float(x[c]) for c in cells(mask)]
    mean = sum(real) / len(real)
    variance = sum((v - mean) ** 2 for v in real) / len(real)
    assert float(maths.masked_mean(x, mask)) == pytest.approx(mean, abs=1e-5)
    white = maths.masked_whiten(x, mask)
    for c, v in zip(cells(mask), real, strict=True):
        want = (v - mean) / math.sqrt(variance + 1e-8)
        assert float(white[c]) == pytest.approx(want, abs=2e-2 if variance < 1e-3 else 1e-3)
    assert not (white * (1 - mask)).any()
    assert maths.masked_mean(x, torch.zeros_like(mask)) == 0.0


def test_log_probabilities_are_the_log_of_softmax_and_sum_to_one():
    logits = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0)) * 4
    tokens = torch.randint(0, 9, (3, 4), generator=torch.Generator().manual_seed(1))
    got = maths.token_logprobs(logits, tokens)
    for b in range(3):
        for t in range(4):
            row = [float(v) for v in logits[b, t]]
            whole = math.log(sum(math.exp(v) for v in row))
            assert float(got[b, t]) == pytest.approx(row[int(tokens[b, t])] - whole, abs=1e-5)
    every = torch.arange(9).expand(3, 4, 9)
    total = maths.token_logprobs(logits.unsqueeze(-2).expand(3, 4, 9, 9), every).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones(3, 4))


@given(gap=st.floats(-30, 30), target=st.floats(0, 1))
def test_the_preference_loss_is_the_cross_entropy_of_a_soft_label(gap: float, target: float):
    chosen, rejected = torch.tensor([gap + 1.0]), torch.tensor([1.0])
    gap = float(chosen - rejected)
    right = -math.log(1 / (1 + math.exp(-gap)))
    wrong = -math.log(1 / (1 + math.exp(gap)))
    plain = float(maths.preference_loss(chosen, rejected))
    assert plain == pytest.approx(right, abs=1e-4)
    soft = float(maths.preference_loss(chosen, rejected, torch.tensor([target])))
    assert soft == pytest.approx(target * right + (1 - target) * wrong, abs=1e-3)


@many
@given(batches(), st.floats(0, 2))
def test_rewards_of_a_reply_sum_to_its_score_minus_beta_times_its_kl(batch: Batch, beta: float):
    seed, mask, lengths = batch
    logprobs, reference = random(seed, mask, 2)
    scores = torch.randn(len(lengths), generator=torch.Generator().manual_seed(seed))
    rewards = maths.kl_rewards(scores, logprobs, reference, mask, beta)
    kls = maths.response_kl(logprobs, reference, mask)
    for b, n in enumerate(lengths):
        kl = 0.0
        for t in range(n):
            kl += float(logprobs[b, t]) - float(reference[b, t])
            want = -beta * (float(logprobs[b, t]) - float(reference[b, t]))
            want += float(scores[b]) if t == n - 1 else 0.0  # on the last real token
            assert float(rewards[b, t]) == pytest.approx(want, abs=1e-4)
        assert not rewards[b, n:].any()  # and never on a pad
        assert float(kls[b]) == pytest.approx(kl, abs=1e-4)
        total = float(rewards[b].sum())
        assert total == pytest.approx(float(scores[b]) - beta * kl, abs=1e-3)


@many
@given(batches(), st.floats(0.5, 1), st.floats(0, 1))
def test_advantages_are_the_loop_of_the_gae_paper(batch: Batch, gamma: float, lam: float):
    seed, mask, lengths = batch
    rewards, values = random(seed, mask, 2)
    advantages, returns = maths.gae(rewards * mask, values, mask, gamma, lam)
    for b, n in enumerate(lengths):
        deltas = []
        for t in range(n):
            after = float(values[b, t + 1]) if t + 1 < n else 0.0  # the episode is over
            deltas.append(float(rewards[b, t]) + gamma * after - float(values[b, t]))
        for t in range(n):
            want = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n))
            assert float(advantages[b, t]) == pytest.approx(want, abs=1e-3)
            value = float(values[b, t])
            assert float(returns[b, t]) == pytest.approx(want + value, abs=1e-3)
        assert not advantages[b, n:].any()
        assert not returns[b, n:].any()


@many
@given(batches(), st.floats(0.05, 0.5))
def test_the_clipped_losses_are_those_of_a_loop(batch: Batch, clip: float):
    seed, mask, _ = batch
    logprobs, old, advantages, values, before, returns = random(seed, mask, 6)
    logprobs = old + 0.4 * (logprobs - old).clamp(-2, 2)
    policy, clipped, value = 0.0, 0, 0.0
    for c in cells(mask):
        ratio = math.exp(float(logprobs[c]) - float(old[c]))
        plain = -float(advantages[c]) * ratio
        held = -float(advantages[c]) * min(max(ratio, 1 - clip), 1 + clip)
        policy += max(plain, held)
        clipped += held > plain
        v, r, o = float(values[c]), float(returns[c]), float(before[c])
        near = o + min(max(v - o, -clip), clip)
        value += 0.5 * max((v - r) ** 2, (near - r) ** 2)
    loss, count = maths.policy_loss(logprobs, old, advantages, mask, clip)
    assert float(loss) == pytest.approx(policy, rel=1e-4, abs=1e-3)
    assert abs(int(count) - clipped) <= 1
    got = float(maths.value_loss(values, before, returns, mask, clip))
    assert got == pytest.approx(value, rel=1e-4, abs=1e-3)


@many
@given(batches())
def test_k3_is_never_negative_and_both_estimates_ignore_pads(batch: Batch):
    seed, mask, lengths = batch
    logprobs, reference = random(seed, mask, 2)
    k3 = maths.response_k3(logprobs, reference, mask)
    for b, n in enumerate(lengths):
        want = 0.0
        for t in range(n):
            d = float(reference[b, t]) - float(logprobs[b, t])
            want += math.exp(d) - 1 - d
        assert float(k3[b]) == pytest.approx(want, rel=1e-4, abs=1e-3)
        assert float(k3[b]) >= 0.0


@many
@given(batches())
def test_what_an_update_reports_of_its_replies_ignores_pads(batch: Batch):
    # averaged over pads an entropy falls when replies shorten, and looks like collapse
    seed, mask, lengths = batch
    logprobs, reference = random(seed, mask, 2)
    where = torch.zeros(mask.shape, dtype=torch.long)
    tokens = Tokens(Rows(where, where), where, mask)
    read = kl_readings(Scored(tokens, logprobs, reference, None))
    gaps = [float(logprobs[c]) - float(reference[c]) for c in cells(mask)]
    assert read["kl"] == pytest.approx(sum(gaps) / len(lengths), abs=1e-3)
    assert read["kl_per_token"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-3)
    surprise = [-float(logprobs[c]) for c in cells(mask)]
    assert read["entropy"] == pytest.approx(sum(surprise) / len(surprise), abs=1e-3)


def test_both_kl_estimates_have_the_mean_of_the_true_kl():
    generator = torch.Generator().manual_seed(0)
    policy = torch.randn(6, generator=generator).log_softmax(-1)
    reference = torch.randn(6, generator=generator).log_softmax(-1)
    truth = float((policy.exp() * (policy - reference)).sum())
    drawn = torch.multinomial(policy.exp(), 40_000, replacement=True, generator=generator)
    p, q = policy[drawn].view(-1, 4), reference[drawn].view(-1, 4)
    ones = torch.ones_like(p)
    for estimate in (maths.response_kl, maths.response_k3):
        assert float(estimate(p, q, ones).mean()) == pytest.approx(4 * truth, rel=0.03)
    assert truth > 0.1


@many
@given(batches())
def test_explained_variance_is_one_for_the_truth_and_zero_for_a_mean(batch: Batch):
    seed, mask, _ = batch
    values, returns = random(seed, mask, 2)
    real = [(float(values[c]), float(returns[c])) for c in cells(mask)]
    spread = variance([r for _, r in real])
    if spread < 1e-3:
        return
    want = 1 - variance([r - v for v, r in real]) / spread
    got = float(maths.explained_variance(values, returns, mask))
    assert got == pytest.approx(want, rel=1e-2, abs=1e-2)
    assert float(maths.explained_variance(returns, returns, mask)) == pytest.approx(1.0)
    constant = torch.full_like(returns, 0.3)
    assert float(maths.explained_variance(constant, returns, mask)) == pytest.approx(0.0, abs=1e-3)


def variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values)


def test_the_kl_coefficient_grows_above_the_target_and_shrinks_below_it():
    assert maths.adapt_beta(0.1, 6.0, 5.0) > 0.1 > maths.adapt_beta(0.1, 4.0, 5.0)
    assert maths.adapt_beta(0.1, 5.0, 5.0) == pytest.approx(0.1)
    # one odd batch, or one that is not a number, moves it by no more than a tenth
    for odd in (1e9, -1e9, math.nan):
        assert 0.09 - 1e-9 <= maths.adapt_beta(0.1, odd, 5.0) <= 0.11 + 1e-9


def test_the_learning_rate_warms_up_and_then_falls_to_its_floor():
    factors = [maths.warm_up(i, 40, 0.25, floor=0.1) for i in range(40)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert min(factors[10:]) >= 0.1
    assert maths.warm_up(0, 1, 0.1) == 1.0
