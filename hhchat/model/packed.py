"""Matrices as a decoder multiplies by them: laid out once, for the rows they will meet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from hhchat.model.kernels import CHUNK, few_recurring, of_intel, onednn, recurring

SMALL = 1 << 19  # numbers of a matrix that a core's own cache holds in fp32


class _Recording(threading.local):
    on = False


recording = _Recording()  # whether this thread records what it runs (replay.py)


class _Turned:
    """A small fp32 matrix for MKL.

    Calling oneDNN takes 20 us, longer than a small product of a few rows; MKL is called in a
    quarter of that. One thread sums a row alike whatever rows come with it if the matrix lies as it
    is multiplied, and the rows are more than one and not hundreds; of several threads the last bits
    may differ."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight.float().t().contiguous()
        self.bias = None if bias is None else bias.float()

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        if recording.on:
            return _scripted(_by_mkl)(x, weight, self.bias)
        if len(x) <= CHUNK:
            return _by_mkl(x, weight, self.bias)
        return torch.cat([self.product(some, weight) for some in torch.split(x, CHUNK)])


class _Reordered:
    """A matrix for oneDNN, where there is one."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.weight = weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype)
        self._op = None if weight.is_cuda or weight.numel() < 1024 else onednn()
        if self._op is not None:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), None)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self._op is None:
            return F.linear(x, weight, self.bias)
        if recording.on:
            return _scripted(_by_onednn)(x, weight, self.bias)
        if len(x) > 2 * CHUNK:  # prompts have any length: no code for each
            parts = torch.split(x, 2 * CHUNK)
            return torch.cat([self.product(some, weight) for some in parts])
        more = recurring(len(x)) - len(x)
        if not more:
            return self._op(x, weight, self.bias, "none", [], "")
        made = self._op(F.pad(x, (0, 0, 0, more)), weight, self.bias, "none", [], "")
        return made[: len(x)]


def _by_mkl(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:  # noqa: UP045
    rows = x.size(0)
    made = torch.mm(x if rows > 1 else x.repeat([2, 1]), weight)
    if rows == 1:
        made = made.narrow(0, 0, 1)
    return made if bias is None else made.add_(bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:  # noqa: UP045
    rows = x.size(0)
    more = few_recurring(rows) - rows
    if more > 0:
        x = torch.constant_pad_nd(x, [0, 0, 0, more])
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made.narrow(0, 0, rows) if more > 0 else made


@cache
def _scripted(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A product as a recording takes it, its choices by the number of rows (up to CHUNK) with it;
    it could not record oneDNN's operator otherwise, for a list in its arguments."""
    made: Callable[..., Tensor] = torch.jit.script(product)
    return made


class Packed:
    """A matrix [out, in] laid out once for the rows it will meet, for decoding: same product, less
    work. `weight` is the matrix as it is laid out. Products are in `dtype` whatever x is in."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        small = dtype == torch.float32 and weight.numel() <= SMALL and not weight.is_cuda
        self._made: _Turned | _Reordered
        if small and of_intel():
            self._made = _Turned(weight, bias)
        else:
            self._made = _Reordered(weight, bias, dtype)

    @property
    def weight(self) -> Tensor:
        return self._made.weight

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [..., in] -> [..., out] by a matrix that is laid out as this one is."""
        if x.ndim == 2:
            return self._made.product(x, weight)
        made = self._made.product(x.reshape(-1, x.shape[-1]), weight)
        return made.view(*x.shape[:-1], -1)
