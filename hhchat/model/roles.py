"""The roles of one pass over the frozen base: blocks of rows, each through an adapter or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hhchat.model.kernels import Gated, Matrix, gated, product, ungated
from hhchat.model.lora import Adapter
from hhchat.model.spec import LINEARS, Linear

Role = Adapter | None  # None is the bare base: the reference of a first run
Pairs = Sequence[tuple[Tensor, Tensor]]  # A [in, r] and B [r, out] in fp32 of each matrix


class Run(NamedTuple):
    """Blocks first to last (not included) of so many, whose adapters have one rank and scale, and
    are all taught or none of them."""

    first: int
    last: int
    blocks: int

    def of(self, x: Tensor) -> Tensor:
        """Its rows of x [..., C]: [blocks, rows, C], or [rows, C] where it is one block, for a
        matrix is multiplied quicker than a batch of one."""
        whole = x.view(self.blocks, -1, x.shape[-1])  # never a copy: some are written to
        return whole[self.first] if self.last == self.first + 1 else whole[self.first : self.last]


class Roles:
    """Block j of a line goes through roles[j]. Their matrices are cast once, for all linears."""

    def __init__(self, roles: Sequence[Role], dtype: torch.dtype) -> None:
        """dtype is that of the products."""
        layers = max((role.spec.layers for role in roles if role is not None), default=0)
        keys = [(name, layer) for layer in range(layers) for name in LINEARS]
        given = [
            None if role is None else (role.scale, [role.pair(*key) for key in keys])
            for role in roles
        ]
        self.runs, narrow = narrowed(given, dtype)
        self._at = dict(zip(keys, narrow, strict=True))

    def product(self, matrix: Matrix, name: Linear, index: int, x: Tensor | Gated) -> Tensor:
        """x [..., in] -> W x + scale (x A) B of each block."""
        return adapted_product(x, matrix, self.runs, self._at.get((name, index), ()))


def narrowed(
    roles: Sequence[tuple[float, Pairs] | None], dtype: torch.dtype
) -> tuple[list[Run], list[list[Tensor]]]:
    """Runs of like roles, (scale, pairs) or None, and for each matrix what `adapted_product` takes:
    scale A [in, r] and B [r, out] in `dtype` of each run, [blocks, ...] of a run of several."""
    runs: list[Run] = []
    begun: object = None
    for i, role in enumerate(roles):
        kind = None
        if role is not None and role[1]:
            down = role[1][0][0]
            kind = (role[0], down.shape[-1], torch.is_grad_enabled() and down.requires_grad)
        if kind is not None and kind == begun:
            runs[-1] = runs[-1]._replace(last=i + 1)
        elif kind is not None:
            runs.append(Run(i, i + 1, len(roles)))
        begun = kind
    count = max((len(role[1]) for role in roles if role is not None), default=0)
    made: list[list[Tensor]] = [[] for _ in range(count)]
    for run in runs:
        mine = [role for role in roles[run.first : run.last] if role is not None]
        at_each = list(zip(*(pairs for _, pairs in mine), strict=True))
        downs = [down for pairs in at_each for down, _ in pairs]
        ups = [up for pairs in at_each for _, up in pairs]
        narrow = _Narrow.apply(dtype, mine[0][0], len(mine), *downs, *ups)  # type: ignore[no-untyped-call]
        for i, there in enumerate(made):
            there += narrow[i], narrow[count + i]
    return runs, made


class _Narrow(torch.autograd.Function):
    """Parameters in the dtype of the products, those of a run's blocks side by side and the first
    half scaled; and their gradients in fp32 again. One pass over all of them each way: a cast for
    each matrix took as long as its low-rank product."""

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, scale: float, blocks: int, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        sizes = [p.numel() for p in parameters]
        ctx.scale, ctx.shapes, ctx.sizes = scale, [p.shape for p in parameters], sizes
        flat = torch.empty(sum(sizes), dtype=dtype, device=parameters[0].device)
        half = len(sizes) // 2
        scaled = torch._foreach_mul(parameters[:half], scale)  # before it is rounded
        given = [p.reshape(-1) for p in (*scaled, *parameters[half:])]
        torch._foreach_copy_(torch.split(flat, sizes), given)
        groups = torch.split(
            flat, [sum(sizes[i : i + blocks]) for i in range(0, len(sizes), blocks)]
        )
        shapes = ctx.shapes[::blocks]
        if blocks > 1:
            shapes = [(blocks, *shape) for shape in shapes]
        return tuple(group.view(shape) for group, shape in zip(groups, shapes, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # fp32 before the scale, as the parameters are
        flat = torch.cat([g.reshape(-1) for g in grads]).float()
        flat[: sum(ctx.sizes[: len(ctx.sizes) // 2])].mul_(ctx.scale)
        parts = torch.split(flat, ctx.sizes)
        return None, None, None, *(p.view(s) for p, s in zip(parts, ctx.shapes, strict=True))


class _Adapted(torch.autograd.Function):
    """Base product of all blocks at once, then the blocks' low-rank updates in place: those of a
    run in one product."""

    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        gate: Gated | None,
        matrix: Matrix,
        runs: Sequence[Run],
        *pairs: Tensor,
    ) -> Tensor:
        act, x = (None, given.contiguous()) if gate is None else gated(given)
        y = matrix.product(x)
        lows: list[Tensor] = []
        left = iter(pairs)
        for run in runs:
            down, up = next(left), next(left)
            low = torch.matmul(run.of(x), down)
            _add_product(run.of(y), low, up)
            lows.append(low)
        if any(ctx.needs_input_grad):
            ctx.matrix, ctx.runs, ctx.gated = matrix, runs, gate is not None
            kept = (act, x) if gate is None or gate.kept else (None, None)
            ctx.save_for_backward(given, *kept, *pairs, *lows)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        given, act, x, *saved = ctx.saved_tensors
        if x is None:
            act, x = gated(given)
        count = len(saved) // 3
        pairs, lows = iter(saved[: 2 * count]), iter(saved[2 * count :])
        grad = grad.contiguous()
        inward = ctx.matrix.back(grad) if ctx.needs_input_grad[0] else None
        out: list[Tensor | None] = []
        for run in ctx.runs:
            down, up, low = next(pairs), next(pairs), next(lows)
            g = run.of(grad)
            turned = torch.matmul(g, up.mT)
            if inward is not None:
                _add_product(run.of(inward), turned, down.mT)
            if not ctx.needs_input_grad[4 + len(out)]:
                out += [None, None]
                continue
            # of the first product's two factors the narrow one is turned, which takes half as long
            out += [torch.matmul(turned.mT, run.of(x)).mT, torch.matmul(low.mT, g)]
        if ctx.gated and inward is not None:
            inward = ungated(given, act, inward)
        return inward, None, None, None, *out


def _add_product(to: Tensor, a: Tensor, b: Tensor) -> None:
    """to += a b, of matrices or of stacks of them."""
    if to.ndim == 2:
        to.addmm_(a, b)
    else:
        to.baddbmm_(a, b)


def adapted_product(
    x: Tensor | Gated, matrix: Matrix, runs: Sequence[Run], pairs: Sequence[Tensor]
) -> Tensor:
    """x [..., in], whose rows are equal blocks -> W x + scale (x A) B of each block.

    `pairs` has scale A and B of each run that has an adapter, see `narrowed`. Gradients reach
    x and the adapters."""
    if not pairs and not isinstance(x, Gated):
        return product(x, matrix)
    given, gate = (x.up, x) if isinstance(x, Gated) else (x, None)
    made: Tensor = _Adapted.apply(given, gate, matrix, runs, *pairs)  # type: ignore[no-untyped-call]
    return made
