"""Metrics of a predicted distribution over emotions: KL divergence, cosine, and the top-3 hits of VCE.

Data flow: shares, truth --statistics--> [N, 6] --sum--> metrics.

Shapes: N rows, C emotions; leading axes `...` of sums are resamples or nothing.

Definitions: kl = sum_c y_c log(y_c / p_c) in nats, p_c held above 1e-12; cosine of the two vectors;
acc_true1_in_pred3 = share of rows whose strongest emotion of the truth is among the three strongest of the prediction
(VCE's published figure, Mazeika et al. 2022); acc_pred1_in_true3 = share whose strongest prediction is among the three
strongest of the truth (StimuVAR's Rank-3, another figure); top1 = both strongest agree. Of equals the first counts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Shares [N, C], truth [N, C] -> [N, 6] float64: 1, kl, cosine, true1 in pred3, pred1 in true3, top1."""
    p, y = prediction.double(), truth.double()
    kl = F.kl_div(p.clamp(min=1e-12).log(), y, reduction="none").sum(dim=-1)
    said, there = strongest(p), strongest(y)
    hits = [
        (said == there[:, :1]).any(dim=-1),
        (there == said[:, :1]).any(dim=-1),
        said[:, 0] == there[:, 0],
    ]
    return torch.stack([torch.ones_like(kl), kl, F.cosine_similarity(p, y, dim=-1), *hits], dim=-1)


def metrics(sums: Tensor, outputs: int) -> dict[str, Tensor]:
    """Summed statistics [..., 6] -> figure name -> [...]."""
    names = ("kl", "cosine", "acc_true1_in_pred3", "acc_pred1_in_true3", "top1")
    return dict(zip(names, (sums[..., 1:] / sums[..., :1]).unbind(dim=-1), strict=True))


def strongest(shares: Tensor, k: int = 3) -> Tensor:
    """Shares [N, C] -> places of the k greatest [N, k], the first of equals first."""
    return shares.argsort(dim=-1, descending=True, stable=True)[:, :k]


def constants(truth: Tensor) -> Tensor:
    """Truths of the train split [N, C] -> [3, C]: what the best constant answer to each figure is made of.

    Rows: the mean distribution (kl, cosine); how often each emotion is the strongest (true1 in pred3, top1: the
    majority oracle of VCE); how often it is among the three strongest (pred1 in true3).
    """
    best = F.one_hot(strongest(truth), truth.shape[-1]).double()  # [N, 3, C]
    return torch.stack([truth.double().mean(dim=0), best[:, 0].mean(dim=0), best.sum(dim=1).mean(dim=0)])
