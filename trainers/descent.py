"""Optimiser steps that fit in memory, skip what is not finite, and are one step for all processes.

A loss is a sum over the rows of a batch divided by a number of the whole batch, so micro-batches of
any size, on any number of processes, add up to the same gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from hhchat.model import LocalEngine, PreferenceModel
from hhchat.model.preference import Judged, by_length, size_of
from hhchat.parallel import ALONE, World
from hhchat.types import HhchatError

T = TypeVar("T")
Loss = Callable[[list[int]], tuple[Tensor, dict[str, float]]]

WEIGHTS = 9  # in place of a count of losses: it was the weights that were not finite
NO_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")  # a plain RuntimeError says so


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch could cure this."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)
    )


def until_it_fits(work: Callable[[], T], shrink: Callable[[], None]) -> T:
    """`work()`, again after each `shrink()` for as long as memory runs out."""
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        shrink()  # not in the handler: its traceback holds the tensors of the failed pass
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def fewer_rows(engine: LocalEngine, report: Callable[[str], None]) -> Callable[[], None]:
    """What to do when sampling runs out of memory: decode half as many replies together."""

    def halve() -> None:
        if engine.rows == 1:
            raise HhchatError("out of memory even one reply at a time")
        engine.rows //= 2
        report(f"out of memory: {engine.rows} replies are sampled together from here")

    return halve


class Budget:
    """Padded tokens a forward may take: halved when memory runs out, on the process where it does.

    `settle` brings the processes together again, so that what is sealed is what each goes on with.
    """

    def __init__(
        self,
        tokens: int = 4096,
        report: Callable[[str], None] = lambda text: None,
        world: World = ALONE,
    ) -> None:
        self.tokens, self.report, self.world = tokens, report, world

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

    def scores(self, pm: PreferenceModel, rows: Sequence[Judged]) -> list[list[float]]:
        """Raw scores of each row's replies, each process scoring its share."""
        return self.world.spread(
            rows,
            [size_of(row) for row in rows],
            lambda some: self.fitting(lambda tokens: pm.raw(some, tokens=tokens)),
        )


class Descent:
    """The steps of one optimiser. `clips` are parameters whose gradients are clipped together."""

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        budget: Budget | None = None,
        *,
        clips: Sequence[Sequence[nn.Parameter]] | None = None,
        grad_norm: float = 1.0,
    ) -> None:
        every = [p for group in optimiser.param_groups for p in group["params"]]
        assert all(p.is_contiguous() for p in every), "a fused optimiser does not heed strides"
        self.optimiser, self.parameters, self.clips = optimiser, every, clips or [every]
        self.budget, self.grad_norm = budget or Budget(), grad_norm
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
        """One step on a batch of rows of `sizes` padded tokens -> a record for each micro-batch.

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
        if world.size > 1:
            self._sum_gradients(world)
        norms = [self._clipped(p) for p in self.clips]
        finite = math.isfinite(total_of(found, "loss")) and all(map(math.isfinite, norms))
        if finite and not self.spoilt:
            self.optimiser.step()
            self.bad = 0 if self._finite() else WEIGHTS
        elif not self.spoilt:
            self.budget.report("a loss was not finite: that minibatch was skipped")
            self.bad += 1
        return found

    def _clipped(self, parameters: Sequence[nn.Parameter]) -> float:
        """Their gradients' norm, which is at most `grad_norm` from here on.

        Over one tensor: a norm of each of hundreds of small ones takes as long as Adam."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        # in parts: one long sum in fp32 loses digits
        norm = float(
            torch.stack([part.norm() for part in torch.split(_flat(gradients), 1 << 20)]).norm()
        )
        if norm > self.grad_norm:
            torch._foreach_mul_(gradients, self.grad_norm / (norm + 1e-6))
        return norm

    def _finite(self) -> bool:
        least, most = _flat([p.detach() for p in self.parameters]).aminmax()  # nan is both
        return math.isfinite(float(least)) and math.isfinite(float(most))

    def _gradients(
        self, mine: list[int], sizes: Sequence[int], total: float, loss: Loss, tokens: int
    ) -> list[dict[str, float]]:
        self.optimiser.zero_grad(set_to_none=True)
        found = []
        for group in by_length([sizes[i] for i in mine], tokens):
            value, record = loss([mine[i] for i in group])
            torch.autograd.backward(value / total)
            found.append({**record, "loss": float(value.detach())})
        return found

    def _sum_gradients(self, world: World) -> None:
        gradients = []
        for p in self.parameters:
            if p.grad is None:  # none of the rows were this process's
                p.grad = torch.zeros_like(p)
            gradients.append(p.grad)
        world.sum_(gradients)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]) if tensors else torch.zeros(1)


def total_of(found: Sequence[dict[str, float]], name: str) -> float:
    """The sum of one number over the micro-batches of a step."""
    return sum(record[name] for record in found)
