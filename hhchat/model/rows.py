"""Sequences to score, and the line in which their real tokens are laid end to end, without pads.

Products, norms and gates of a layer are of single tokens: they run over the line. Attention alone
needs rows, so keys, queries and values are spread out for it, rows of like lengths together, and
what it gives is packed again.
Axes: B rows, T positions, R positions read, C channels, M places of the line.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hhchat.model.kernels import recurring

LEAST = 32  # places of a line: no fewer are quicker, and each number is more code to keep
NEAR = (1.1, 4)  # lengths of attention's rows, see like_lengths
NEAR_ENOUGH = (1.5, 12)  # the same where nothing goes back: calls cost more than pads
NEAR_CUDA = (2.0, 64)  # the same on a GPU, where they cost more still


@dataclass(frozen=True)
class Rows:
    """Sequences to score, right-padded: real tokens come first, so a causal mask hides the pads.

    ids [B, T]; at [B, R] positions to read (any value is fine where nothing is read).
    branch [B, T] is None for plain rows. Otherwise a row is a prefix (0) followed by branches
    (1, 2, ...) that see the prefix and themselves, each starting at the position after it; -1 pads.
    lengths [B] and reads [B] count the real tokens and the real reads, the first of each row; None
    is all of them. A real read is of a real token. No gradient comes from what is not read.
    """

    ids: Tensor
    at: Tensor
    branch: Tensor | None = None
    positions: Tensor | None = None
    lengths: Sequence[int] | None = None
    reads: Sequence[int] | None = None

    def to(self, device: torch.device) -> Rows:
        return replace(
            self,
            ids=self.ids.to(device),
            at=self.at.to(device),
            branch=None if self.branch is None else self.branch.to(device),
            positions=None if self.positions is None else self.positions.to(device),
        )

    def counts(self) -> tuple[list[int], list[int]]:
        """Real tokens and reads of each row."""
        (batch, length), width = self.ids.shape, self.at.shape[1]
        return (
            [length] * batch if self.lengths is None else list(self.lengths),
            [width] * batch if self.reads is None else list(self.reads),
        )

    def alike(self) -> list[list[int]]:
        """Rows by length, those of like lengths together: pads cost attention their square, and
        its backward more than that."""
        near = NEAR if torch.is_grad_enabled() else NEAR_ENOUGH
        return like_lengths(self.counts()[0], self.ids.device, near)

    def some(self, group: Sequence[int]) -> Rows:
        """These rows, no wider than they need."""
        lengths, reads = ([counts[b] for b in group] for counts in self.counts())
        which = torch.tensor(group, device=self.ids.device)

        def cut(x: Tensor, width: int) -> Tensor:
            return x[:, :width].index_select(0, which)

        return Rows(
            cut(self.ids, max(lengths)),
            cut(self.at, max(1, *reads)).clamp(0, max(lengths) - 1),
            None if self.branch is None else cut(self.branch, max(lengths)),
            None if self.positions is None else cut(self.positions, max(lengths)),
            lengths,
            reads,
        )


def like_lengths(
    lengths: Sequence[int], device: torch.device, near: tuple[float, int] = NEAR
) -> list[list[int]]:
    """Places of `lengths` from the shortest to the longest, in groups whose longest is at most
    `near` (times, and tokens more) the shortest."""
    if device.type == "cuda":
        near = NEAR_CUDA
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    groups: list[list[int]] = []
    for i in order:
        if not groups or lengths[i] > near[0] * lengths[groups[-1][0]] + near[1]:
            groups.append([])
        groups[-1].append(i)
    return groups


def by_length(sizes: Sequence[int], tokens: int, lanes: int = 1) -> list[list[int]]:
    """Indices in groups of like sizes of at most `tokens` in all (at least one each).

    There are as few groups as that allows, as many for each of the lanes that they are done in, and
    the largest is as small as it can be: some large and a small one are one more shape of product
    to write code for (kernels.recurring)."""
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])

    def within(room: int) -> list[list[int]]:
        groups: list[list[int]] = []
        left = 0
        for i in order:
            if not groups or sizes[i] > left:
                groups.append([])
                left = room
            groups[-1].append(i)
            left -= sizes[i]
        return groups

    most = min(tokens, sum(sizes))
    fewest = -(-len(within(most)) // lanes) * lanes
    return within(bisect_left(range(most), True, key=lambda room: len(within(room)) <= fewest))


class Line:
    """The first counts[b] places of each row, rows in `order`, end to end in M places; `copies` of
    it follow each other, one for each role.

    M is a number that recurs (kernels.recurring). What is left at the end of each copy repeats a
    real place of it, and has no gradient, as nothing reads it.
    """

    def __init__(self, counts: Sequence[int], order: Sequence[int], copies: int, pads: bool):
        """`pads`: whether rows are wanted with more places than are real."""
        self.counts, self.copies = torch.tensor(counts), copies
        self.real = sum(counts)
        self.size = recurring(max(LEAST, self.real + pads))
        sizes = self.counts[list(order)]
        self.first = torch.empty_like(self.counts)
        self.first[list(order)] = sizes.cumsum(0) - sizes

    def rows(self, groups: Sequence[tuple[Sequence[int], int]], device: torch.device) -> Spread:
        """The way between the line and groups of rows, each group padded to its own width."""
        blocks = torch.arange(self.copies)[:, None, None]
        there, real, shapes = [], [], []
        repeated: Tensor | None = None  # each copy's first real place in these rows
        begun = 0
        for group, width in groups:
            which, within = list(group), torch.arange(width)
            inside = within < self.counts[which][:, None]
            places = torch.where(inside, self.first[which][:, None] + within, self.real)
            there.append((places + blocks * self.size).flatten())
            real.append(inside.expand(self.copies, -1, -1).flatten())
            shapes.append((self.copies * len(which), width))
            if repeated is None and inside.any():
                first = begun + int(inside.flatten().nonzero()[0])
                repeated = first + torch.arange(self.copies) * inside.numel()
            begun += self.copies * inside.numel()
        to_rows, known = torch.cat(there), torch.cat(real)
        if repeated is None:  # nothing is real
            repeated = torch.zeros(self.copies, dtype=torch.long)
        to_line = repeated.repeat_interleave(self.size)
        to_line[to_rows[known]] = known.nonzero().squeeze(-1)
        pads = (~known).nonzero().squeeze(-1)
        return Spread(self, to_rows.to(device), to_line.to(device), pads.to(device), shapes)

    def places(self, group: Sequence[int], at: Tensor) -> Tensor:
        """Positions [B, R] within these rows -> places [copies B, R] in the line."""
        blocks = torch.arange(self.copies, device=at.device)[:, None, None] * self.size
        first = self.first[list(group)].to(at.device)
        return (at + first[:, None] + blocks).flatten(0, 1)


@dataclass(frozen=True)
class Spread:
    """A line's places as rows [copies B, T] of each group, and back."""

    line: Line
    to_rows: Tensor
    to_line: Tensor
    pads: Tensor
    shapes: Sequence[tuple[int, int]]

    def pack(self, rows: Sequence[Tensor]) -> Tensor:
        """Rows [copies B, T, C] of each group -> [copies M, C]."""
        flat = [x.reshape(-1, *x.shape[2:]) for x in rows]
        whole = flat[0] if len(flat) == 1 else torch.cat(flat)
        return _moved(whole, self.to_line, self.to_rows)

    def spread(self, x: Tensor) -> list[Tensor]:
        """[copies M, C] -> rows [copies B, T, C] of each group; pads are 0, whatever is in x."""
        whole = _moved(x, self.to_rows, self.to_line, self)
        parts = torch.split(whole, [batch * width for batch, width in self.shapes])
        return [p.view(*s, *x.shape[1:]) for p, s in zip(parts, self.shapes, strict=True)]


def _moved(x: Tensor, there: Tensor, back: Tensor, spread: Spread | None = None) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        made: Tensor = _Moved.apply(x, there, back, spread)  # type: ignore[no-untyped-call]
        return made
    return _taken(x, there, spread)


def _taken(x: Tensor, there: Tensor, spread: Spread | None) -> Tensor:
    made = x.index_select(0, there)
    return made if spread is None or not len(spread.pads) else made.index_fill_(0, spread.pads, 0)


class _Moved(torch.autograd.Function):
    """`index_select` both ways: nothing is taken twice but what has no gradient, so the backward
    is another one instead of a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, spread: Spread | None) -> Tensor:
        ctx.save_for_backward(back)
        ctx.line = None if spread is None else spread.line
        return _taken(x, there, spread)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = ctx.saved_tensors
        made = grad.index_select(0, back)
        line: Line | None = ctx.line
        if line is not None:  # the end of the line has no say of its own
            made.view(line.copies, line.size, *made.shape[1:])[:, line.real :].zero_()
        return made, None, None, None
