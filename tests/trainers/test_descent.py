"""Optimiser steps: gradients are clipped as torch clips them, each group by itself."""

from __future__ import annotations

import pytest
import torch
from hhchat_trainers.descent import Budget, Descent
from torch import nn


def parameters(seed):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator)) for s in ((3, 4), (5,), ())]


def loss_of(groups, scale):
    return sum(scale * (p**3).sum() for group in groups for p in group)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_one_role_with_a_large_gradient_does_not_move_the_others_less(scale):
    mine, theirs = ([parameters(1), parameters(2)] for _ in range(2))
    sgd = torch.optim.SGD([p for group in mine for p in group], lr=0.1)
    descent = Descent(sgd, Budget(), clips=mine, grad_norm=0.5)
    descent.step([1], 1.0, lambda rows: (loss_of(mine, scale), {}))
    loss_of(theirs, scale).backward()
    for group in theirs:
        torch.nn.utils.clip_grad_norm_(group, 0.5)
    torch.optim.SGD([p for group in theirs for p in group], lr=0.1).step()
    for ours, others in zip(mine, theirs, strict=True):
        for got, want in zip(ours, others, strict=True):
            torch.testing.assert_close(got, want)


def test_a_gradient_without_end_moves_nothing_and_is_counted():
    group = parameters(3)
    before = [p.detach().clone() for p in group]
    said = []
    sgd = torch.optim.SGD(group, lr=0.1)
    descent = Descent(sgd, Budget(report=said.append), grad_norm=0.5)

    def loss(rows):
        whole = loss_of([group], 1.0)
        # the loss is finite, its gradient is not
        return whole + (group[2] * 0).sqrt().sum(), {}

    descent.step([1], 1.0, loss)
    assert all(torch.equal(p, b) for p, b in zip(group, before, strict=True))
    assert descent.bad == 1
    assert said
    descent.step([1], 1.0, loss)
    assert descent.spoilt
