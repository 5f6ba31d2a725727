"""Causal attention on a CPU: products of its own where there is little of it, else torch's fused
kernel in blocks of queries."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hhchat.model.kernels import of_intel

BLOCK = 64  # queries of a block: two of the kernel's own
SMALL = 64 * 64  # scores of a head up to which all are made at once, and kept for the backward


@cache
def _flash() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """torch's fused attention for a CPU, forward and backward; None where a build has none."""
    try:
        ahead = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
        return ahead, back
    except AttributeError:
        return None


def _stretches(length: int) -> list[tuple[int, int]]:
    """Runs of BLOCK queries: first and last, not included."""
    return [(low, min(low + BLOCK, length)) for low in range(0, length, BLOCK)]


@cache
def _corner(span: int, dtype: torch.dtype) -> Tensor:
    """[BLOCK, span + BLOCK]: zeros, then a block's own causal triangle of 0 and -inf."""
    with torch.inference_mode(False):
        mask = torch.full((BLOCK, span + BLOCK), float("-inf"), dtype=dtype)
        return mask.triu_(span + 1)


def _causal(low: int, high: int, dtype: torch.dtype) -> Tensor:
    """[high - low, high]: 0 where query low + i sees key j, else -inf. A view of one mask."""
    span = 1 << (max(low, 1) - 1).bit_length()
    return _corner(span, dtype)[: high - low, span - low : span - low + high]


class _Attention(torch.autograd.Function):
    """Blocks of queries, each against the keys up to its last: a fused kernel given a causal mask
    computes all of it, and half is thrown away."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        flash = _flash()
        assert flash is not None
        made, totals = [], []
        for low, high in _stretches(q.shape[2]):
            out, total = flash[0](
                q[:, :, low:high],
                k[:, :, :high],
                v[:, :, :high],
                0.0,
                False,
                attn_mask=_seen(mask, low, high, q.dtype),
                scale=scale,
            )
            made.append(out)
            totals.append(total)
        out = made[0] if len(made) == 1 else torch.cat(made, 2)
        ctx.scale, ctx.mask = scale, mask
        ctx.save_for_backward(q, k, v, out, *totals)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flash = _flash()
        assert flash is not None
        q, k, v, out, *totals = ctx.saved_tensors
        # the last block meets all keys: its gradients are what the others' are added to
        to_q: list[Tensor] = []
        to_k = to_v = None
        for (low, high), total in reversed(list(zip(_stretches(q.shape[2]), totals, strict=True))):
            dq, dk, dv = flash[1](
                grad[:, :, low:high],
                q[:, :, low:high],
                k[:, :, :high],
                v[:, :, :high],
                out[:, :, low:high],
                total,
                0.0,
                False,
                attn_mask=_seen(ctx.mask, low, high, q.dtype),
                scale=ctx.scale,
            )
            to_q.append(dq)
            if to_k is None or to_v is None:
                to_k, to_v = dk, dv
            else:
                to_k[:, :, :high] += dk
                to_v[:, :, :high] += dv
        return to_q[0] if len(to_q) == 1 else torch.cat(to_q[::-1], 2), to_k, to_v, None, None


class _Small(torch.autograd.Function):
    """softmax(q k^T) v by batched products, the queries that share keys in one. The fused kernel
    takes 1.5 to 2.5 times as long, its backward more than its forward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        grouped = q.reshape(-1, q.shape[1] // k.shape[1] * q.shape[2], q.shape[3])
        k, v = k.flatten(0, 1), v.flatten(0, 1)
        scores = torch.bmm(grouped, k.mT).mul_(scale)
        scores.view(*q.shape[:3], -1).add_(mask)
        probs = scores.softmax(-1)
        ctx.scale, ctx.rows = scale, len(q)
        ctx.save_for_backward(grouped, k, v, probs)
        return torch.bmm(probs, v).view(q.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, probs = ctx.saved_tensors
        queries = grad.shape[2]
        grad = grad.reshape(q.shape)
        to_v = torch.bmm(probs.mT, grad)
        to_scores = torch.ops.aten._softmax_backward_data(
            torch.bmm(grad, v.mT), probs, -1, probs.dtype
        )
        to_q = torch.bmm(to_scores, k).mul_(ctx.scale)
        to_k = torch.bmm(to_scores.mT, q).mul_(ctx.scale)
        keys, size = k.shape[1:]
        to_q = to_q.view(ctx.rows, -1, queries, size)
        to_k, to_v = (t.view(ctx.rows, -1, keys, size) for t in (to_k, to_v))
        return to_q, to_k, to_v, None, None


def _seen(mask: Tensor | None, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return _causal(low, high, dtype) if mask is None else mask[:, :, low:high, :high]


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, aligned: bool
) -> Tensor:
    """Causal attention of q [B, N, R, D] over k, v [B, K, T, D] -> [B, N, R, D].

    mask [B or 1, 1, R, T] is added to the scores and hides the future too; None is plain causal.
    `aligned` says that query i stands at key i, R = T.
    """
    if not q.is_cuda and q.shape[2] * k.shape[2] <= SMALL and of_intel():
        if mask is None:
            mask = _causal(0, q.shape[2], q.dtype)
        small: Tensor = _Small.apply(q, k, v, mask, scale)  # type: ignore[no-untyped-call]
        return small
    if q.is_cuda or not aligned or _flash() is None:
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    made: Tensor = _Attention.apply(q, k, v, mask, scale)  # type: ignore[no-untyped-call]
    return made


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `seen` is true and -inf where not: what is added to scores."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, float("-inf"))
