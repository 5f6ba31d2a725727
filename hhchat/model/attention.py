"""Causal attention in blocks of queries, with torch's own fused kernel for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64  # queries of a block: two of the kernel's own


@cache
def _flash() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """torch's fused attention for a CPU, forward and backward; None where a build has none."""
    try:
        ahead = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
        return ahead, back
    except AttributeError:
        return None


def _blocks(length: int) -> list[tuple[int, int]]:
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
        for low, high in _blocks(q.shape[2]):
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
        for (low, high), total in reversed(list(zip(_blocks(q.shape[2]), totals, strict=True))):
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


def _seen(mask: Tensor | None, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return _causal(low, high, dtype) if mask is None else mask[:, :, low:high, :high]


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, aligned: bool
) -> Tensor:
    """Causal attention of q [B, N, R, D] over k, v [B, K, T, D] -> [B, N, R, D].

    mask [B or 1, 1, R, T] is added to the scores and hides the future too; None is plain causal.
    `aligned` says that query i stands at key i, R = T.
    """
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
