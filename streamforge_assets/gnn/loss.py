"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor


def joint_loss(predicted: Tensor, target: Tensor, use: Tensor, precision: Tensor, tail: float) -> Tensor:
    """Negative log-likelihood of multivariate Student-t residuals, per bar and asset, constants left out.

        (nu + n) / 2 · log(1 + e' Omega e / nu) / n,   e = (y - p) · use

    Correlated shocks are not counted twice, and turbulent bars weigh less. Inputs (..., N), n the assets known.

    Returns:
        One value per bar, shape (...,).
    """
    error = (target - predicted) * use
    distance = ((error @ precision) * error).sum(dim=-1).clamp(min=0.0)
    known = (use > 0).sum(dim=-1)
    return 0.5 * (tail + known) * torch.log1p(distance / tail) / known.clamp(min=1)


def square_loss(predicted: Tensor, target: Tensor, use: Tensor) -> Tensor:
    """Mean squared error over the assets known, per bar: shape (...,)."""
    known = use > 0
    return ((target - predicted).square() * known).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)


def information_coefficient(predicted: Tensor, target: Tensor, use: Tensor) -> Tensor:
    """Mean over bars of the correlation between forecast and outcome across the assets known. A scalar."""
    known = (use > 0).to(predicted.dtype)
    count = known.sum(dim=-1, keepdim=True).clamp(min=1)
    p = (predicted - (predicted * known).sum(dim=-1, keepdim=True) / count) * known
    y = (target - (target * known).sum(dim=-1, keepdim=True) / count) * known
    size = (p.square().sum(dim=-1) * y.square().sum(dim=-1) + 1e-12).sqrt()
    return ((p * y).sum(dim=-1) / size).mean()
