"""One sampled token: inverse CDF, top-p and greedy against loops that a reader can check."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hhchat.model.decode import Prefix, choose, common, uniforms


def loop_choose(logits: list[float], uniform: float, temperature: float, top_p: float) -> int:
    """The same draw in float64, a token at a time."""
    if temperature <= 0:
        return max(range(len(logits)), key=lambda i: (logits[i], -i))
    peak = max(logits)
    weights = [2.718281828459045 ** ((x - peak) / temperature) for x in logits]
    whole = sum(weights)
    probs = [w / whole for w in weights]
    order = list(range(len(probs)))
    if top_p < 1.0:
        order.sort(key=lambda i: -probs[i])
        mass, nucleus = 0.0, []
        for i in order:
            if mass >= top_p and nucleus:
                break
            nucleus.append(i)
            mass += probs[i]
        order = nucleus
    total = sum(probs[i] for i in order)
    mass = 0.0
    for i in order:
        mass += probs[i]
        if mass > uniform * total:
            return i
    return order[-1]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    vocab=st.integers(2, 40),
    rows=st.integers(1, 5),
    temperatures=st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.0]), min_size=5, max_size=5),
    nuclei=st.lists(st.sampled_from([0.1, 0.5, 0.9, 1.0]), min_size=5, max_size=5),
)
def test_a_token_is_the_one_that_a_plain_loop_chooses(seed, vocab, rows, temperatures, nuclei):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * 3
    uniform = torch.rand(rows, generator=generator)
    temperature, top_p = torch.tensor(temperatures[:rows]), torch.tensor(nuclei[:rows])
    got = choose(logits, uniform, temperature, top_p).tolist()
    for i in range(rows):
        # fp32 may round a uniform that lies on a boundary to either side of it
        near = [float(uniform[i]) + off for off in (-1e-6, 0.0, 1e-6)]
        allowed = {loop_choose(logits[i].tolist(), u, temperatures[i], nuclei[i]) for u in near}
        assert got[i] in allowed


def test_the_top_p_of_one_row_does_not_change_what_another_row_draws():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 50, generator=generator).expand(64, -1)
    uniform = torch.rand(64, generator=generator)
    hot = torch.ones(64)
    alone = choose(logits, uniform, hot, None)
    nuclei = torch.ones(64)
    nuclei[::2] = 0.5
    mixed = choose(logits, uniform, hot, nuclei)
    assert mixed[1::2].equal(alone[1::2])


def test_sampling_follows_the_distribution_and_not_something_near_it():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, generator=generator)
    probs = (logits / 0.7).softmax(-1)
    n = 20_000
    uniform = torch.cat([uniforms(seed, 10) for seed in range(n // 10)])
    drawn = choose(logits.expand(n, -1), uniform, torch.full((n,), 0.7), None)
    counts = torch.bincount(drawn, minlength=12).double()
    expected = probs.double() * n
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 31.3  # the 99.9% point of 11 degrees of freedom; the draws are fixed


def test_an_impossible_token_is_never_drawn_even_at_the_ends_of_the_uniform():
    logits = torch.tensor([[float("-inf"), 0.0, 1.0, float("-inf")]]).expand(4, -1)
    uniform = torch.tensor([0.0, 0.5, 1.0 - 2**-24, 0.9999])
    for top_p in (None, torch.ones(4), torch.full((4,), 0.99)):
        drawn = choose(logits, uniform, torch.ones(4), top_p)
        assert set(drawn.tolist()) <= {1, 2}


def test_a_longer_limit_does_not_change_the_beginning_of_a_reply():
    assert uniforms(7, 5).equal(uniforms(7, 200)[:5])
    assert not uniforms(7, 5).equal(uniforms(8, 5))


def test_the_common_prefix_is_counted_and_an_empty_cache_gives_nothing():
    assert common([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common([], [1]) == 0
    assert Prefix().fill(None, [1, 2]) == 0
