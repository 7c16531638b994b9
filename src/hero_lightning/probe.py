"""Linear probes: what softmax regression on one stream's pooled features can do, the line every model must beat.

Data flow: loader -> Features -> mean and standard deviation over time [N, 2D+1] -> softmax regression, its penalty
chosen on validation -> probabilities of the test split.

Shapes: N samples, T steps, D width, P = 2D + 1 pooled numbers, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.data.types import Features

log = logging.getLogger(__name__)

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""L2 penalties tried on the validation split (per weight, on standardised inputs, mean loss)."""


def pooled(features: Features) -> Tensor:
    """Features [B, T, D] -> mean and standard deviation over the real steps and whether there are any, [B, 2D+1]."""
    x = torch.where(features.mask[..., None], features.x.float(), 0.0)
    n = features.mask.sum(dim=1, keepdim=True).clamp(min=1)  # [B, 1]
    mean = x.sum(dim=1) / n
    spread = torch.where(features.mask[..., None], x - mean[:, None], 0.0).square().sum(dim=1).div(n).sqrt()
    return torch.cat([mean, spread, features.present[:, None].float()], dim=1)


def softmax_regression(x: Tensor, y: Tensor, classes: int, penalty: float) -> Tensor:
    """Weights [P+1, C] (last row the bias) of L2-penalised softmax regression on x [N, P], y [N], by L-BFGS."""
    weight = torch.zeros(x.shape[1] + 1, classes, requires_grad=True)
    one = F.pad(x, (0, 1), value=1.0)
    solver = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(one @ weight, y) + 0.5 * penalty * weight[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weight.detach()


def probe(x: Mapping[str, Tensor], y: Mapping[str, Tensor], classes: int) -> tuple[Tensor, float]:
    """Fits on train, chooses the penalty by validation accuracy, predicts test.

    Args:
        x: split -> [N, P] for train, val and test.
        y: split -> [N] class index for train and val.
        classes: C.

    Returns:
        Test probabilities [N, C], and the chosen penalty.
    """
    mean, spread = x["train"].mean(dim=0), x["train"].std(dim=0).clamp(min=1e-6)
    z = {k: (v - mean) / spread for k, v in x.items()}
    fits = []
    for penalty in PENALTIES:
        weight = softmax_regression(z["train"], y["train"], classes, penalty)
        hit = (F.pad(z["val"], (0, 1), value=1.0) @ weight).argmax(dim=1) == y["val"]
        fits.append((hit.float().mean().item(), penalty, weight))
    _, penalty, weight = max(fits, key=lambda fit: fit[0])
    return (F.pad(z["test"], (0, 1), value=1.0) @ weight).softmax(dim=1), penalty
