"""Figures of a score: MAE, RMSE, Pearson's r and Lin's concordance, from additive statistics.

Data flow: scores, truth --statistics--> [N, 8] --sum--> figures.

Shapes: N rows; leading axes `...` of sums are resamples or nothing.

Definitions, p prediction and y truth, moments over N (not N - 1): pearson = cov(p, y) / (sd_p sd_y), undefined (nan)
where either is constant; ccc = 2 cov(p, y) / (var_p + var_y + (mean_p - mean_y)^2) (Lin 1989).
"""

from __future__ import annotations

import torch
from torch import Tensor


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Scores [N, 1], truth [N] -> [N, 8] float64: 1, |p - y|, (p - y)^2, p, y, p^2, y^2, p y.

    Both are taken from the mean truth first; no figure changes by that and no digits are lost in the squares.
    """
    p, y = prediction.double().squeeze(-1), truth.double()
    centre = y.mean() if len(y) else y.new_zeros(())
    error, p, y = p - y, p - centre, y - centre
    return torch.stack([torch.ones_like(p), error.abs(), error**2, p, y, p * p, y * y, p * y], dim=-1)


def figures(sums: Tensor, outputs: int) -> dict[str, Tensor]:
    """Summed statistics [..., 8] -> figure name -> [...]."""
    absolute, square, p, y, pp, yy, py = (sums[..., 1:] / sums[..., :1]).unbind(dim=-1)
    # Rounding leaves about 1e-16 of the second moment where the variance is zero.
    var_p = torch.where(pp - p * p > 1e-12 * pp, pp - p * p, 0.0)
    var_y = torch.where(yy - y * y > 1e-12 * yy, yy - y * y, 0.0)
    covariance = torch.where((var_p > 0) & (var_y > 0), py - p * y, 0.0)
    return {
        "mae": absolute,
        "rmse": square.sqrt(),
        "pearson": covariance / (var_p * var_y).sqrt(),
        "ccc": 2 * covariance / (var_p + var_y + (p - y) ** 2),
    }
