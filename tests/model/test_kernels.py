"""Hand-written backwards against autograd: a wrong one would train on the wrong gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hhchat.model import attention, kernels, packed, roles
from hhchat.model.packed import Packed
from hhchat.model.weights import Weight

DTYPES = [torch.float32, torch.bfloat16]


def close(got, want, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    scale = float(want.detach().abs().max()) + 1e-6
    assert float((got - want).detach().float().abs().max()) <= tolerance * scale


def rotate(x, angle):
    """Rotary embedding of pairs of channels that lie side by side, in its plain form."""
    if angle.ndim == 3:
        angle = angle.unsqueeze(1)
    dim = 2 * angle.shape[-1]
    first, second = x[..., 0:dim:2], x[..., 1:dim:2]
    turned = (
        first * angle.cos() - second * angle.sin(),
        second * angle.cos() + first * angle.sin(),
    )
    return torch.cat((torch.stack(turned, -1).flatten(-2), x[..., dim:]), -1)


def grads(output, inputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(output.shape, generator=generator).to(output.dtype)
    return torch.autograd.grad(output, inputs, grad)


def adapted(x, matrix, by, dtype):
    """One matrix with (scale, A, B) or None for each block of x."""
    given = [None if role is None else (role[0], [role[1:]]) for role in by]
    runs, at = roles.narrowed(given, dtype)
    return roles.adapted_product(x, matrix, runs, at[0] if at else ())


@pytest.mark.parametrize("who", ["none", "all", "some"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 200])
@pytest.mark.parametrize("kept", [True, False])
def test_gated_activation_teaches_what_autograd_says_and_leaves_its_input_alone(
    dtype, rows, who, kept
):
    torch.manual_seed(rows)
    up = torch.randn(2 * rows, 1, 64).to(dtype).requires_grad_()
    before = up.detach().clone()
    down = Weight(torch.randn(48, 32) / 6, None, "none")
    pair = (torch.randn(32, 4) / 6).requires_grad_(), torch.randn(4, 48).requires_grad_()
    taught = {"none": [None, None], "all": [(2.0, *pair)] * 2, "some": [None, (2.0, *pair)]}[who]
    gate, value = up.float().chunk(2, -1)
    inner = F.silu(gate) * value
    want = inner @ down.dense(torch.float32).t()
    blocks = [
        block if role is None else block + 2.0 * x @ pair[0] @ pair[1]
        for block, x, role in zip(want.chunk(2), inner.chunk(2), taught, strict=True)
    ]
    want = torch.cat(blocks)
    got = adapted(kernels.Gated(up, kept), down, taught, dtype)
    close(got, want, dtype)
    inputs = [up] if who == "none" else [up, *pair]
    for mine, theirs in zip(grads(got, inputs), grads(want, inputs), strict=True):
        close(mine, theirs, dtype)
    with torch.no_grad():
        close(kernels.swiglu(up), inner, dtype)
    assert torch.equal(up, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_agrees_with_torch_and_its_gradient(dtype):
    x, weight = torch.randn(5, 7, 48).requires_grad_(), torch.rand(48) + 0.5
    want = F.rms_norm(x, (48,), weight, 1e-6)
    got = kernels.rms_norm(x, weight, 1e-6, dtype)
    assert got.dtype == dtype
    close(got, want, dtype)
    close(grads(got, [x])[0], grads(want, [x])[0], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("own", [False, True], ids=["one table", "a table a row"])
@pytest.mark.parametrize("size", [8, 9])
def test_heads_are_turned_as_one_by_one_and_turned_back_in_the_backward(dtype, partial, own, size):
    rows, length, heads, kv = 2, 5, 4, 2
    dim = size // 2 if partial else size // 2 * 2
    angle = torch.rand((rows, length, dim // 2) if own else (length, dim // 2))
    qkv = torch.randn(rows, length, (heads + 2 * kv) * size).to(dtype).requires_grad_()
    turn = torch.polar(torch.ones_like(angle), angle)
    got = kernels.turned_heads(qkv, turn, heads, kv, torch.float32)
    split = qkv.float().view(rows, length, -1, size).transpose(1, 2).split([heads, kv, kv], 1)
    want = (rotate(split[0], angle), rotate(split[1], angle), split[2])
    for mine, theirs in zip(got, want, strict=True):
        close(mine, theirs, torch.float32)
    close(
        grads(torch.cat(got, 1), [qkv])[0],
        grads(torch.cat(want, 1), [qkv])[0],
        dtype,
    )


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_block_of_a_batch_goes_through_its_own_adapter_and_teaches_it_alone(
    dtype, quantization
):
    torch.manual_seed(0)
    weight = Weight(torch.randn(96, 64) / 8, torch.randn(96), quantization)
    pairs = [(torch.randn(64, 4) / 8, torch.randn(4, 96) / 2) for _ in range(2)]
    pairs = [(a.requires_grad_(), b.requires_grad_()) for a, b in pairs]
    x = torch.randn(6, 3, 64).to(dtype).requires_grad_()
    by = [(2.0, *pairs[0]), None, (0.5, *pairs[1])]
    got = adapted(x, weight, by, dtype)
    base = x.float() @ weight.dense(torch.float32).t() + weight.bias
    blocks = list(base.chunk(3))
    blocks[0] = blocks[0] + 2.0 * x[:2].float() @ pairs[0][0] @ pairs[0][1]
    blocks[2] = blocks[2] + 0.5 * x[4:].float() @ pairs[1][0] @ pairs[1][1]
    want = torch.cat(blocks)
    close(got, want, dtype)
    inputs = [x, *pairs[0], *pairs[1]]
    for mine, theirs in zip(grads(got, inputs), grads(want, inputs), strict=True):
        close(mine, theirs, dtype)


@pytest.mark.parametrize("turned", [False, True], ids=["as it lies", "turned"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_roles_with_like_adapters_learn_together_what_each_learns_alone(dtype, turned):
    torch.manual_seed(0)
    weight = Weight(torch.randn(96, 64) / 8, None, "none")
    by = [
        (2.0, (torch.randn(64, 4) / 8).requires_grad_(), (torch.randn(4, 96) / 2).requires_grad_())
        for _ in range(2)
    ]
    x = torch.randn(4, 6, 64).to(dtype)
    x = (x.transpose(0, 1) if turned else x).requires_grad_()
    got = adapted(x, weight, by, dtype)
    alone = [
        adapted(part, weight, [role], dtype) for part, role in zip(x.chunk(2), by, strict=True)
    ]
    want = torch.cat(alone)
    close(got, want, dtype)
    inputs = [x, *by[0][1:], *by[1][1:]]
    for mine, theirs in zip(grads(got, inputs), grads(want, inputs), strict=True):
        close(mine, theirs, dtype)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(5, 40), st.booleans(), st.integers(0, 1000))
def test_log_probability_of_a_token_and_its_gradient(rows, vocabulary, some_blocked, seed):
    torch.manual_seed(seed)
    head = Weight(torch.randn(vocabulary, 16), None, "none")
    hidden = torch.randn(rows, 16).requires_grad_()
    blocked = torch.tensor([0, 2]) if some_blocked else None
    tokens = torch.randint(3, vocabulary, (rows,))
    logits = hidden @ head.dense(torch.float32).t()
    if blocked is not None:
        logits = logits.index_fill(-1, blocked, float("-inf"))
    want = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    theirs = grads(want, [hidden])[0]
    for back, off in ((torch.float32, 2e-5), (torch.bfloat16, 2e-2)):
        got = kernels.chosen_logprobs(hidden, head, tokens, blocked, back)
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
        mine = grads(got, [hidden])[0]
        assert mine.dtype == hidden.dtype
        assert (mine - theirs).norm() <= off * theirs.norm()


def through(matrix: Packed, x: torch.Tensor) -> torch.Tensor:
    return matrix.product(x, matrix.weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 33, 129])
def test_a_product_is_the_same_through_every_layout_of_the_matrix(dtype, rows):
    torch.manual_seed(rows)
    dense, bias, x = torch.randn(80, 64), torch.randn(80), torch.randn(rows, 1, 64)
    want = F.linear(x, dense, bias)
    with torch.inference_mode():
        made = through(Packed(dense, bias, dtype), x.to(dtype))
    close(made, want, dtype)
    close(kernels.multiply(x.to(dtype), dense.to(dtype), bias.to(dtype)), want, dtype)


def test_products_still_work_where_torch_lacks_the_quick_operator(monkeypatch):
    for module in kernels, packed:
        monkeypatch.setattr(module, "onednn", lambda: None)
    dense, x = torch.randn(80, 64), torch.randn(3, 64)
    want = F.linear(x, dense)
    assert torch.equal(kernels.multiply(x, dense), want)
    assert torch.equal(through(Packed(dense, None, torch.float32), x), want)


@pytest.mark.parametrize("intel", [True, False], ids=["products of its own", "fused"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [1, 64, 65, 150])
def test_attention_in_blocks_is_attention_and_teaches_the_same(length, masked, intel, monkeypatch):
    monkeypatch.setattr(attention, "of_intel", lambda: intel)
    torch.manual_seed(length)
    q = torch.randn(2, 4, length, 8).requires_grad_()
    k, v = (torch.randn(2, 2, length, 8).requires_grad_() for _ in range(2))
    seen = torch.ones(length, length, dtype=torch.bool).tril().expand(2, 1, -1, -1)
    if masked:  # a second branch that does not see the first, as chosen and rejected
        order = torch.arange(length)
        own = (order[:, None] < length // 2) | (order[None, :] >= length // 2)
        seen = seen & (own | (order[None, :] < length // 4))
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    got = attention.attention(q, k, v, mask if masked else None, 0.3, True)
    wide = [t.repeat_interleave(2, 1) for t in (k, v)]
    want = ((q @ wide[0].mT) * 0.3 + mask).softmax(-1) @ wide[1]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    for mine, theirs in zip(grads(got, [q, k, v]), grads(want, [q, k, v]), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("intel", [True, False], ids=["products of its own", "fused"])
def test_attention_of_the_queries_that_are_read_is_that_of_all(intel, monkeypatch):
    monkeypatch.setattr(attention, "of_intel", lambda: intel)
    torch.manual_seed(0)
    q = torch.randn(2, 4, 40, 8)
    k, v = (torch.randn(2, 2, 40, 8) for _ in range(2))
    whole = attention.attention(q, k, v, None, 0.3, True)
    places = torch.tensor([3, 17, 39])
    mask = attention.additive(torch.arange(40) <= places[:, None], q.dtype)[None, None]
    some = attention.attention(q[:, :, places], k, v, mask, 0.3, False)
    torch.testing.assert_close(some, whole[:, :, places], atol=1e-5, rtol=1e-5)


def test_masks_of_long_conversations_do_not_pile_up():
    attention._corner.cache_clear()
    for length in range(1, 900, 7):
        for low, high in attention._stretches(length):
            order = torch.arange(high)
            want = order[None, :] > torch.arange(low, high)[:, None]
            assert torch.equal(attention._causal(low, high, torch.float32) < 0, want)
    held = [attention._corner(1 << n, torch.float32).numel() for n in range(11)]
    assert attention._corner.cache_info().currsize <= 11
    assert sum(held) < 64 * 3000
