"""AdamW over parameters that lie end to end in one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


class Group(NamedTuple):
    """Parameters with a factor of the learning rate and a weight decay of their own."""

    parameters: Sequence[nn.Parameter]
    factor: float = 1.0
    weight_decay: float = 0.0


class Adam:
    """AdamW (Loshchilov and Hutter 2019) over groups of parameters, all fp32 and where they stay.

    The parameters become views of `weights` [N], a group after the other, and their gradients of
    `gradient` [N]: a step, a norm and a check are then few passes over memory, where hundreds of
    small tensors cost more in calls than in arithmetic. torch's own classes load its compiler and
    sympy (a second and 65 MiB); its function does not.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        rate: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        self.groups, self.rate, self.betas, self.eps = groups, rate, betas, eps
        self.parameters = list(chain.from_iterable(g.parameters for g in groups))
        assert all(p.dtype == torch.float32 and p.requires_grad for p in self.parameters)
        self.weights = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self.gradient, self.mean, self.square = (torch.zeros_like(self.weights) for _ in range(3))
        sizes = [p.numel() for p in self.parameters]
        flat = torch.split(self.weights, sizes), torch.split(self.gradient, sizes)
        for p, weight, gradient in zip(self.parameters, *flat, strict=True):
            p.data, p.grad = weight.view(p.shape), gradient.view(p.shape)
        self.steps = torch.zeros(len(groups), device=self.weights.device)

    def forget(self) -> None:
        """All gradients are zero."""
        self.gradient.zero_()

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add to `gradient` what each parameter's is; None is nothing."""
        pairs = zip(self.parameters, gradients, strict=True)
        found = [(p.grad, g) for p, g in pairs if p.grad is not None and g is not None]
        torch._foreach_add_([to for to, _ in found], [g for _, g in found])

    def parts(self, flat: Tensor) -> list[Tensor]:
        """A tensor [N] in parts, one for each group."""
        return list(torch.split(flat, [sum(p.numel() for p in g.parameters) for g in self.groups]))

    @torch.no_grad()
    def step(self) -> None:
        """Move `weights` by what `gradient` says, at `rate`."""
        every = zip(
            *(self.parts(t) for t in (self.weights, self.gradient, self.mean, self.square)),
            self.steps.unbind(),
            self.groups,
            strict=True,
        )
        for weights, gradient, mean, square, steps, group in every:
            adamw(
                *([weights], [gradient], [mean], [square], [], [steps]),
                fused=True,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=self.rate * group.factor,
                weight_decay=group.weight_decay,
                eps=self.eps,
                maximize=False,
            )

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers of the steps so far: the moments [N] and each group's count."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from such `tensors`."""
        for name, mine in self.tensors().items():
            mine.copy_(tensors[name].view_as(mine))  # copy_ alone would spread one over all
