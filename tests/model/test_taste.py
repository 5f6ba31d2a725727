"""A taste fitted from picks: were its arithmetic wrong, it would ask what it already knows."""

from __future__ import annotations

import pytest
import torch

from hhchat.model.taste import Taste, fit_taste


def pairs(n: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return x, torch.rand(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("n", "width"), [(5, 40), (60, 7)])
def test_the_weights_are_the_most_likely_ones_and_the_variance_is_the_whole_curvatures(n, width):
    x, y = pairs(n, width)
    taste = fit_taste(x, y, 0.3)
    # the same in plain words: all of the width, autograd, no change of basis
    w = taste.weights.clone().requires_grad_()
    precision = 0.3 * (x**2).sum(-1).mean()

    def loss(w):
        gap = x @ w
        fit = torch.nn.functional.binary_cross_entropy_with_logits(gap, y, reduction="sum")
        return fit + 0.5 * precision * (w * w).sum()

    [slope] = torch.autograd.grad(loss(w), w)
    assert float(slope.abs().max()) < 1e-6
    inverse = torch.linalg.inv(torch.autograd.functional.hessian(loss, taste.weights))
    other, _ = pairs(4, width, seed=1)
    torch.testing.assert_close(taste.covariance_of(other, x), other @ inverse @ x.T)


def test_the_ridge_means_the_same_for_features_of_any_size():
    x, y = pairs(20, 6)
    small, large = fit_taste(x, y), fit_taste(100 * x, y)
    torch.testing.assert_close(100 * large.weights, small.weights)


def test_before_the_first_pick_the_most_different_pair_is_the_least_certain():
    x, _ = pairs(6, 9)
    known = Taste.blank(9).covariance_of(x, x).diagonal()
    assert int(known.argmax()) == int((x * x).sum(-1).argmax())


def test_a_taste_of_no_pairs_or_of_broken_features_is_refused():
    with pytest.raises(ValueError, match="pairs"):
        fit_taste(torch.zeros(0, 4), torch.zeros(0))
    with pytest.raises(ValueError, match="finite"):
        fit_taste(torch.full((3, 4), float("nan")), torch.ones(3))
