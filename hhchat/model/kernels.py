"""Products and fused steps of a layer with hand-written backwards.

Each is plain torch in few passes over memory: no mixed dtypes in one operation (on a CPU those
leave the vector units), nothing saved that the backward can do without, no gradient for what is
frozen. All of them agree with their autograd counterparts to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

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
    """`rows` of a product rounded up to one of few numbers, one to four an octave.

    oneDNN writes code for each number of rows that it meets, and keeps it: with lengths that change
    every batch that can take two fifths of the time of a small model, and much of its memory
    (docs/log.md). Finer numbers waste fewer rows and were no quicker."""
    if rows <= CHUNK:
        return few_recurring(rows)
    step = max(64, 1 << (rows - 1).bit_length() - 3)
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


class _Adapted(torch.autograd.Function):
    """Base product of all blocks at once, then each block's own low-rank update in place."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, matrix: Matrix, scales: Sequence[float | None], *pairs: Tensor
    ) -> Tensor:
        y = matrix.product(x)
        inputs = x.reshape(-1, x.shape[-1]).chunk(len(scales))
        outputs = y.view(-1, y.shape[-1]).chunk(len(scales))
        keep = any(ctx.needs_input_grad)
        saved: list[Tensor] = []
        left = iter(pairs)
        for scale, block, out in zip(scales, inputs, outputs, strict=True):
            if scale is None:
                continue
            a, b = next(left), next(left)
            down, up = (a * scale).to(x.dtype), b.to(x.dtype)
            low = block @ down
            out.addmm_(low, up)
            saved += (down, up, low)
        if keep:
            ctx.matrix, ctx.scales = matrix, scales
            ctx.save_for_backward(x, *saved)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        scales, left = ctx.scales, iter(saved)
        grad = grad.contiguous()
        inward = ctx.matrix.back(grad) if ctx.needs_input_grad[0] else None
        blocks = grad.view(-1, grad.shape[-1]).chunk(len(scales))
        inputs = x.reshape(-1, x.shape[-1]).chunk(len(scales))
        inner = (
            [None] * len(scales)
            if inward is None
            else inward.view(-1, inward.shape[-1]).chunk(len(scales))
        )
        out: list[Tensor | None] = []
        for scale, g, block, into in zip(scales, blocks, inputs, inner, strict=True):
            if scale is None:
                continue
            down, up, low = next(left), next(left), next(left)
            turned = g @ up.t()
            if into is not None:
                into.addmm_(turned, down.t())
            if ctx.needs_input_grad[3 + len(out)]:
                # adapters are in fp32 whatever the products are in
                out += ((block.t() @ turned).float().mul_(scale), (low.t() @ g).float())
            else:
                out += (None, None)
        return inward, None, None, *out


def adapted_product(
    x: Tensor, matrix: Matrix, roles: Sequence[tuple[float, Tensor, Tensor] | None]
) -> Tensor:
    """x [..., in], whose rows are len(roles) equal blocks -> W x + scale (x A) B of each block.

    A role is (scale, A [in, r], B [r, out]) in fp32, or None for the bare base. Gradients reach x,
    A and B."""
    scales = [None if role is None else role[0] for role in roles]
    pairs = [t for role in roles if role is not None for t in role[1:]]
    if not pairs:
        return product(x, matrix)
    made: Tensor = _Adapted.apply(x, matrix, scales, *pairs)  # type: ignore[no-untyped-call]
    return made


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
        turned = grad.float() * weight
        along = torch.linalg.vecdot(turned, x).unsqueeze(-1)
        along = along.mul_(inverse.square()).div_(x.shape[-1])
        return turned.addcmul_(x, along, value=-1).mul_(inverse), None, None, None


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


def _gated(up: Tensor) -> Tensor:
    made = up.new_empty(*up.shape[:-1], up.shape[-1] // 2)
    for some, out in zip(_held(up), _held(made), strict=True):
        gate, value = some.chunk(2, -1)
        F.silu(out.copy_(gate), inplace=True).mul_(value)
    return made


class _SwiGLU(torch.autograd.Function):
    # on contiguous halves: strided ones cost half as much again on a CPU

    @staticmethod
    def forward(ctx: Any, up: Tensor) -> Tensor:
        ctx.save_for_backward(up)
        return _gated(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (up,) = ctx.saved_tensors
        made = torch.empty_like(up)
        grad = grad.contiguous()
        for some, g, out in zip(_held(up), _held(grad), _held(made), strict=True):
            gate, value = some.chunk(2, -1)
            to_gate, to_value = out.chunk(2, -1)
            whole = _copy(gate)
            to_gate.copy_(torch.ops.aten.silu_backward(g * value, whole))
            to_value.copy_(F.silu(whole, inplace=True).mul_(g))
        return made


def swiglu(up: Tensor) -> Tensor:
    """silu(gate) * value of up [..., 2 I] = gate | value."""
    if torch.is_grad_enabled():
        made: Tensor = _SwiGLU.apply(up)  # type: ignore[no-untyped-call]
        return made
    if up.numel() > 1 << 18:
        return _gated(up)
    gate, value = up.chunk(2, -1)  # in decoding, which has few rows and may be recorded
    return F.silu(_copy(gate), inplace=True).mul_(value)


class _TurnedHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        heads: int,
        kv_heads: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, length, width = qkv.shape
        count = heads + 2 * kv_heads
        made = qkv.new_empty(rows, count, length, width // count, dtype=dtype)
        made.copy_(qkv.view(rows, length, count, -1).transpose(1, 2))
        turn_(made[:, : heads + kv_heads], cos, sin)
        ctx.save_for_backward(cos, sin)
        ctx.dtype = qkv.dtype
        q, k, v = torch.split(made, [heads, kv_heads, kv_heads], 1)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        rows, heads, length, size = dq.shape
        kv_heads = dk.shape[1]
        count = heads + 2 * kv_heads
        grad = dq.new_empty(rows, length, count, size, dtype=ctx.dtype)
        place = 0
        for part, turned in ((dq, True), (dk, True), (dv, False)):
            if turned:
                part = turn_(_copy(part), cos, -sin)
            grad[:, :, place : place + part.shape[1]].copy_(part.transpose(1, 2))
            place += part.shape[1]
        return grad.view(rows, length, count * size), None, None, None, None, None


def turned_heads(
    qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [B, T, (N + 2K) D] -> q [B, N, T, D], k and v [B, K, T, D] in `dtype`, rotated.

    cos and half-negated sin are [T, D_rot] or [B, T, D_rot] in `dtype`."""
    made: tuple[Tensor, Tensor, Tensor] = _TurnedHeads.apply(  # type: ignore[no-untyped-call]
        qkv, cos, sin, heads, kv_heads, dtype
    )
    return made


def turn_(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [..., D] in place; cos and (half-negated) sin broadcast over it and
    may cover only the first channels. With -sin it is undone."""
    if cos.ndim == 3 and x.ndim == 4:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # one table a row
    dim = cos.shape[-1]
    part = x if dim == x.shape[-1] else x[..., :dim]
    swapped = part.roll(dim // 2, -1)
    part.mul_(cos).addcmul_(swapped, sin)
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
        probs = torch.softmax(logits, -1)  # one pass over the logits, where log-sum-exp takes four
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
