"""Optimiser steps that fit in memory, skip what is not finite, and are one step for all processes.

A loss is a sum over the rows of a batch divided by a number of the whole batch, so micro-batches of
any size, on any number of processes, add up to the same gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from hhchat_trainers.adam import Adam
from torch import Tensor

from hhchat.model import LocalEngine, PreferenceModel, lanes
from hhchat.model.fitting import until_it_fits
from hhchat.model.preference import Judged, raw_scores, size_of
from hhchat.model.rows import by_length
from hhchat.parallel import ALONE, World
from hhchat.types import HhchatError

T = TypeVar("T")
Loss = Callable[[list[int]], tuple[Tensor, dict[str, float]]]

WEIGHTS = 9  # in place of a count of losses: it was the weights that were not finite


def dealt(sizes: Sequence[int], count: int, generator: torch.Generator) -> list[list[int]]:
    """Rows in `count` batches of nearly as many rows, and of nearly as many tokens, each.

    Rows of like `sizes` are dealt out one to each batch, at random. A shuffle's batches have
    lengths of their own each time: their tokens weigh unlike, and a CPU's products are of shapes
    that were not met before, each of which is code to write and to keep."""
    order = torch.randperm(len(sizes), generator=generator).tolist()
    over = len(order) % count  # that not all batches get: any of the rows, or some weighed less
    rest = sorted(order[over:], key=lambda i: sizes[i])
    hands = [order[:over], *(rest[at : at + count] for at in range(0, len(rest), count))]
    batches: list[list[int]] = [[] for _ in range(count)]
    for hand in hands:
        to = torch.randperm(count, generator=generator).tolist()
        for row, batch in zip(hand, to, strict=False):
            batches[batch].append(row)
    return batches


def fewer_rows(engine: LocalEngine, report: Callable[[str], None]) -> Callable[[], None]:
    """What to do when sampling runs out of memory: decode half as many replies together."""

    def halve() -> None:
        engine.halve()
        report(f"out of memory: {engine.rows} replies are sampled together from here")

    return halve


class Budget:
    """Tokens a forward may take: halved when memory runs out, on the process where it does.

    `settle` brings the processes together again, so that what is sealed is what each goes on with.
    """

    def __init__(
        self,
        tokens: int = 4096,
        report: Callable[[str], None] = lambda text: None,
        world: World = ALONE,
    ) -> None:
        self.tokens, self.report, self.world = tokens, report, world
        lanes.settle()  # before anything is multiplied

    def fitting(self, work: Callable[[int], T]) -> T:
        """`work(tokens)`, with half of them each time memory runs out."""
        return until_it_fits(lambda: work(self.tokens), self.halve)

    def halve(self) -> None:
        if self.tokens < 64:
            raise HhchatError("out of memory even one reply at a time")
        self.tokens //= 2
        self.report(f"out of memory: micro-batches of {self.tokens} tokens from here")

    def settle(self, stopped: bool) -> bool:
        """Between updates: the smallest budget of all, and whether any was asked to stop."""
        told = self.world.everyone((stopped, self.tokens))
        self.tokens = min(tokens for _, tokens in told)
        return any(asked for asked, _ in told)

    def scores(
        self, judges: Sequence[PreferenceModel], rows: Sequence[Judged]
    ) -> list[list[list[float]]]:
        """Raw scores of each row's replies by each judge, [row][judge][reply]; each process scores
        its share of the rows."""
        return self.world.spread(
            rows,
            [size_of(row) for row in rows],
            lambda some: self.fitting(lambda tokens: raw_scores(judges, some, tokens=tokens)),
        )


class Descent:
    """The steps of one optimiser.

    Gradients are clipped to `grad_norm`: with `apart` those of each group for themselves, else all
    of them together."""

    def __init__(
        self,
        optimiser: Adam,
        budget: Budget | None = None,
        *,
        apart: bool = False,
        grad_norm: float = 1.0,
    ) -> None:
        self.optimiser, self.apart, self.grad_norm = optimiser, apart, grad_norm
        self.budget = budget or Budget()
        self.bad = 0  # losses in a row that were not finite, or WEIGHTS; from 2 on it stays

    @property
    def spoilt(self) -> bool:
        """Two losses in a row, or weights, were not finite: there is no going on from here."""
        return self.bad >= 2

    @property
    def why(self) -> str:
        """What spoilt it."""
        if self.bad == WEIGHTS:
            return "a step left weights that are not finite: the learning rate is too high"
        return "two losses in a row were not finite"

    def step(self, sizes: Sequence[int], total: float, loss: Loss) -> list[dict[str, float]]:
        """One step on a batch of rows of `sizes` tokens -> a record for each micro-batch.

        `loss(rows)` gives the summed loss of some rows and a record of numbers about them, to which
        that sum is added as `loss`. The gradient is that of the sum over all rows divided by
        `total`. A step that is not finite is skipped and counted.
        """
        world = self.budget.world
        mine = world.share(sizes)
        found = self.budget.fitting(
            lambda tokens: self._gradients(mine, sizes, total, loss, tokens)
        )
        found = [record for part in world.everyone(found) for record in part]
        gradient = self.optimiser.gradient
        world.sum_([gradient])
        parts = self.optimiser.parts(gradient) if self.apart else [gradient]
        norms = [self._clipped(part) for part in parts]
        finite = math.isfinite(total_of(found, "loss")) and all(map(math.isfinite, norms))
        if finite and not self.spoilt:
            self.optimiser.step()
            self.bad = 0 if self._finite() else WEIGHTS
        elif not self.spoilt:
            self.budget.report("a loss was not finite: that minibatch was skipped")
            self.bad += 1
        return found

    def _clipped(self, gradient: Tensor) -> float:
        """Its norm, which is at most `grad_norm` from here on."""
        # in parts: one long sum in fp32 loses digits
        norm = float(torch.stack([part.norm() for part in torch.split(gradient, 1 << 20)]).norm())
        if 0 < self.grad_norm < norm:
            gradient.mul_(self.grad_norm / (norm + 1e-6))
        return norm

    def _finite(self) -> bool:
        least, most = self.optimiser.weights.aminmax()  # nan is both
        return math.isfinite(float(least)) and math.isfinite(float(most))

    def _gradients(
        self, mine: list[int], sizes: Sequence[int], total: float, loss: Loss, tokens: int
    ) -> list[dict[str, float]]:
        optimiser = self.optimiser
        lengths = [sizes[i] for i in mine]
        count = lanes.lanes(optimiser.weights.device, lengths, tokens)

        def gradients(group: list[int]) -> tuple[Sequence[Tensor | None], dict[str, float]]:
            value, record = loss([mine[i] for i in group])
            record = {**record, "loss": float(value.detach())}
            if count == 1:  # straight to where they belong, without a copy
                torch.autograd.backward(value / total)
                return [], record
            parameters = optimiser.parameters
            return torch.autograd.grad(value / total, parameters, allow_unused=True), record

        optimiser.forget()
        works = [partial(gradients, group) for group in by_length(lengths, tokens // count, count)]
        records = []
        for at in range(0, len(works), count):  # added in one order, and not all held
            for found, record in lanes.side_by_side(works[at : at + count], count):
                if found:
                    optimiser.add(found)
                records.append(record)
                del found  # or it would be held beside the next passes
        return records


def total_of(found: Sequence[dict[str, float]], name: str) -> float:
    """The sum of one number over the micro-batches of a step."""
    return sum(record[name] for record in found)
