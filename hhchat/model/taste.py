"""A taste as weights on what a preference model's features say, with how sure of them one can be.

Bradley-Terry with a Gaussian prior on the weights: the most likely weights by Newton's method, and
around them the curvature (Laplace). A few dozen picks fit it in milliseconds, so it gives a
preference model's head its start and tells which pair of replies would teach most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# How often a pick of this strength is of the truly better reply, by the simulated users; between
# them they differ by 2 points. Picked with the plain key, nothing is known of the strength.
CONFIDENCE: dict[int | None, float] = {1: 0.5, 2: 0.65, 3: 0.82, 4: 0.95, None: 0.85}
RIDGE = 0.3  # measured: benchmarks.levers


@dataclass(frozen=True)
class Taste:
    """Weights [H], and what is known of them: inside `basis` [H, R] by picks, outside not at all.

    Everything is float64 on the CPU.
    """

    weights: Tensor
    basis: Tensor
    covariance: Tensor  # [R, R], of the weights inside the basis
    ridge: float

    def covariance_of(self, a_PH: Tensor, b_QH: Tensor) -> Tensor:
        """[P, Q] covariance of predicted gaps, in squared logits."""
        a, b = a_PH.double(), b_QH.double()
        inside_a, inside_b = a @ self.basis, b @ self.basis
        rest = a @ b.T - inside_a @ inside_b.T
        return inside_a @ self.covariance @ inside_b.T + rest / self.ridge

    @classmethod
    def blank(cls, hidden: int) -> Taste:
        """Before the first pick: nothing is known in any direction."""
        none = torch.zeros(hidden, 0, dtype=torch.float64)
        return cls(torch.zeros(hidden, dtype=torch.float64), none, none[:0], 1.0)


def fit_taste(differences_PH: Tensor, targets_P: Tensor, ridge: float = RIDGE) -> Taste:
    """Weights under which features(first) - features(second) best explain P(first is better).

    `ridge` is the precision of the prior in units of the mean squared length of a difference, so
    that it means the same for every base. Raises ValueError without pairs or when not finite.
    """
    x, y = differences_PH.detach().double().cpu(), targets_P.detach().double().cpu()
    if not len(x):
        raise ValueError("a taste needs pairs")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the features are not finite")
    if not bool((x != 0).any()):
        raise ValueError("the features of all pairs are the same")
    # The penalty is the same in every direction, so the weights lie in the span of the differences.
    _, sizes, rows = torch.linalg.svd(x, full_matrices=False)
    basis = rows[sizes > 1e-9 * sizes.max()].T
    z = x @ basis
    precision = ridge * float((x * x).sum(-1).mean())
    w = torch.zeros(z.shape[1], dtype=z.dtype)
    eye = precision * torch.eye(z.shape[1], dtype=z.dtype)
    curvature = eye
    for _ in range(30):
        p = torch.sigmoid(z @ w)
        curvature = (z * (p * (1 - p)).unsqueeze(-1)).T @ z + eye
        step = torch.linalg.solve(curvature, z.T @ (p - y) + precision * w)
        w = w - step
        if float(step.abs().max()) < 1e-9:
            break
    return Taste(basis @ w, basis, torch.linalg.inv(curvature), precision)
