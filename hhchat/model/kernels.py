"""Products and fused steps of a layer with hand-written backwards.

Each is plain torch in few passes over memory: no mixed dtypes in one operation (on a CPU those
leave the vector units), little saved that the backward can do without, no gradient for what is
frozen. All of them agree with their autograd counterparts to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 128  # rows of one product in decoding


class Matrix(Protocol):
    """A frozen matrix [out, in]."""

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], bias included, in a tensor of its own."""
        ...

    def back(self, grad: Tensor) -> Tensor:
        """grad [..., out] -> [..., in]."""
        ...


# -- products


@cache
def onednn() -> Callable[..., Tensor] | None:
    """oneDNN's linear, which torch itself calls for bf16 only.

    In fp32 torch asks MKL, which runs at half the speed of oneDNN on processors of other makers
    (measured: benchmarks.speed). None where this build of torch has no such operator."""
    try:
        op: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
        x, w = torch.eye(3, 4), torch.arange(8.0).view(2, 4)
        made = op(x, w, None, "none", [], "")
        return op if torch.equal(made, x @ w.t()) else None
    except (AttributeError, RuntimeError):
        return None


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] W^T + bias for W [out, in] of one dtype; no gradient of its own on a CPU."""
    if x.dtype == torch.float32 and not x.is_cuda:
        op = None if of_intel() else onednn()
        if op is not None and weight.numel() >= 1024:
            return op(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def recurring(rows: int) -> int:
    """`rows` of a product rounded up to one of few numbers, one to eight an octave.

    oneDNN writes code for each number of rows that it meets, and keeps it: with lengths that change
    every batch that can take two fifths of the time of a small model, and much of its memory
    (docs/log.md). Finer numbers waste fewer rows and were no quicker."""
    if rows <= CHUNK:
        return few_recurring(rows)
    step = max(64, 1 << (rows - 1).bit_length() - 4)
    return -(-rows // step) * step


def few_recurring(rows: int) -> int:
    """`recurring` for up to CHUNK rows, in words that a recording knows."""
    if rows > 16:
        step = 16 if rows <= 64 else 32
        return (rows + step - 1) // step * step
    size = 1
    while size < rows:
        size *= 2
    return size if rows > 0 else 0


@cache
def of_intel() -> bool:
    """Whether MKL is at home here: it runs at half speed on processors of other makers."""
    try:
        maker = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False
    return "GenuineIntel" in maker and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Matrix) -> Tensor:
        ctx.matrix = matrix
        return matrix.product(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix.back(grad), None


def product(x: Tensor, matrix: Matrix) -> Tensor:
    """x [..., in] through a frozen matrix; differentiable in x."""
    if torch.is_grad_enabled() and x.requires_grad:
        made: Tensor = _Product.apply(x, matrix)  # type: ignore[no-untyped-call]
        return made
    return matrix.product(x)


class Gated(NamedTuple):
    """silu(gate) * value of `up` [..., 2 I] = gate | value, made by the product that reads it, and
    where it is not kept made again on the way back."""

    up: Tensor
    kept: bool


# -- norm, activation, heads


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(int(x.shape[-1])).add_(eps).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        made: Tensor = (x * inverse).mul_(weight)
        return made.to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight, inverse = ctx.saved_tensors
        width = x.shape[-1:]
        # The backward of a layer norm whose mean is 0 is one pass over memory; what it takes off a
        # row because its mean would move with x is put back.
        grad = grad.float()
        made, _, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, width, torch.zeros_like(inverse), inverse, weight, None, [True, False, False]
        )
        moved = torch.matmul(grad, weight).unsqueeze(-1).mul_(inverse).div_(width[0])
        return made.add_(moved), None, None, None


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """Root-mean-square norm of fp32 x [..., H] by a frozen fp32 weight [H], in `dtype`. Without a
    weight there is no gradient."""
    if x.is_cuda:
        plain: Tensor = F.rms_norm(x, x.shape[-1:], weight, eps)
        return plain.to(dtype)
    if weight is None or not torch.is_grad_enabled():
        made = x * _inverse_rms(x, eps)
        return (made if weight is None else made.mul_(weight)).to(dtype)
    taught: Tensor = _RMSNorm.apply(x, weight, eps, dtype)  # type: ignore[no-untyped-call]
    return taught


def _copy(x: Tensor) -> Tensor:
    """A contiguous copy: `contiguous` gives x itself where it has one row."""
    return x.clone(memory_format=torch.contiguous_format)


def _held(x: Tensor) -> Sequence[Tensor]:
    """[..., C] as runs of rows [R, C]: in fp32 on a CPU few enough for its own cache to hold them
    from one pass to the next, else one run. In bf16 there is half as much and nothing to gain."""
    flat = x.view(-1, x.shape[-1])
    return torch.split(flat, CHUNK) if x.dtype == torch.float32 and not x.is_cuda else (flat,)


def ungated(up: Tensor, act: Tensor, grad: Tensor) -> Tensor:
    """The gradient that reaches `up` from that of silu(gate) * value; `act` is silu(gate)."""
    made = torch.empty_like(up)
    for some, g, a, out in zip(
        _held(up), _held(grad.contiguous()), _held(act), _held(made), strict=True
    ):
        gate, value = some.chunk(2, -1)
        to_gate, to_value = out.chunk(2, -1)
        torch.mul(g, value, out=to_value)  # until its own comes
        torch.ops.aten.silu_backward.grad_input(to_value, gate, grad_input=to_gate)
        torch.mul(g, a, out=to_value)
    return made


def gated(up: Tensor) -> tuple[Tensor, Tensor]:
    """silu(gate), and times value."""
    act, made = (up.new_empty(*up.shape[:-1], up.shape[-1] // 2) for _ in range(2))
    for some, a, out in zip(_held(up), _held(act), _held(made), strict=True):
        gate, value = some.chunk(2, -1)
        F.silu(a.copy_(gate), inplace=True)  # on a copy: a strided one costs more on a CPU
        torch.mul(a, value, out=out)
    return act, made


def swiglu(up: Tensor) -> Tensor | Gated:
    """silu(gate) * value of up [..., 2 I] = gate | value; where gradients are wanted, in the
    product that reads it."""
    if torch.is_grad_enabled() and up.requires_grad:
        return Gated(up, kept=not up.is_cuda)  # making it again took 3% of a pass on a CPU
    if up.numel() > 1 << 18:
        return gated(up)[1]
    gate, value = up.chunk(2, -1)  # in decoding, which has few rows and may be recorded
    return F.silu(_copy(gate), inplace=True).mul_(value)


class _TurnedHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, turn: Tensor, heads: int, kv_heads: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, length = qkv.shape[:2]
        there = qkv.view(rows, length, heads + 2 * kv_heads, -1).transpose(1, 2)
        parts = torch.split(there, [heads, kv_heads, kv_heads], 1)
        # each in memory of its own, as attention multiplies it
        q, k, v = (p.to(dtype, memory_format=torch.contiguous_format, copy=True) for p in parts)
        ctx.save_for_backward(turn)
        ctx.dtype = qkv.dtype
        return turn_(q, turn), turn_(k, turn), v

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        (turn,) = ctx.saved_tensors
        back = turn.conj()
        rows, heads, length, size = dq.shape
        kv_heads = dk.shape[1]
        grad = dq.new_empty(rows, length, heads + 2 * kv_heads, size, dtype=ctx.dtype)
        parts = torch.split(grad, [heads, kv_heads, kv_heads], 2)
        turned = turn_(_copy(dq), back), turn_(_copy(dk), back), dv
        for part, made in zip(parts, turned, strict=True):
            part.copy_(made.transpose(1, 2))
        return grad.flatten(2), None, None, None, None


def turned_heads(
    qkv: Tensor, turn: Tensor, heads: int, kv_heads: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [B, T, (N + 2K) D] -> q [B, N, T, D], k and v [B, K, T, D] in fp32 `dtype`, q and k
    rotated by `turn`, see turn_."""
    made: tuple[Tensor, Tensor, Tensor] = _TurnedHeads.apply(  # type: ignore[no-untyped-call]
        qkv, turn, heads, kv_heads, dtype
    )
    return made


def turn_(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary embedding of fp32 x [B, N, T, D] in place by complex `turn` [T, D_rot / 2],
    [B, T, D_rot / 2] or what broadcasts over x. The channels that it turns as a pair lie side by
    side (weights.channels); the first D_rot are turned. The conjugate undoes it."""
    if turn.ndim == 3:
        turn = turn.unsqueeze(1)  # one table a row
    whole = x.narrow(-1, 0, 2 * turn.shape[-1])
    twos = torch.unflatten(whole, -1, (-1, 2))
    if x.shape[-1] % 2:  # then a head may begin in the middle of a complex number
        whole.copy_(torch.view_as_real(torch.view_as_complex(twos.contiguous()) * turn).flatten(-2))
    else:
        torch.view_as_complex(twos).mul_(turn)
    return x


# -- the head


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Matrix,
        tokens: Tensor,
        blocked: Any,
        back: torch.dtype,
    ) -> Tensor:
        logits = head.product(hidden).float()
        if blocked is not None:
            logits.index_fill_(-1, blocked, float("-inf"))
        # one pass over the logits, where log-sum-exp takes four; in their place, for here is where
        # most is held
        probs = torch.softmax(logits, -1, out=None if logits.is_cuda else logits)
        if ctx.needs_input_grad[0]:
            ctx.head, ctx.dtype, ctx.back = head, hidden.dtype, back
            ctx.save_for_backward(probs, tokens)
        least = torch.finfo(probs.dtype).tiny
        return probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).clamp_min(least).log()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        probs, tokens = ctx.saved_tensors
        wide = grad.unsqueeze(-1)
        # in place: there are as many of them as of all else in a layer. A second backward is an
        # error of autograd's.
        out = probs.mul_(-wide).scatter_add_(-1, tokens.unsqueeze(-1), wide)
        return ctx.head.back(out.to(ctx.back)).to(ctx.dtype), None, None, None, None


def chosen_logprobs(
    hidden: Tensor, head: Matrix, tokens: Tensor, blocked: Tensor | None, back: torch.dtype
) -> Tensor:
    """log softmax(head(hidden))[tokens] for hidden [M, H], tokens [M] -> fp32 [M].

    `blocked` tokens are outside of the softmax. `back` is what the backward's product is in. -87 is
    the least there is: e^-87 is fp32's smallest number."""
    count = len(tokens)
    more = 0 if hidden.is_cuda else recurring(count) - count
    if more:
        hidden, tokens = F.pad(hidden, (0, 0, 0, more)), F.pad(tokens, (0, more))
    made: Tensor = _Chosen.apply(hidden, head, tokens, blocked, back)  # type: ignore[no-untyped-call]
    return made[:count]
