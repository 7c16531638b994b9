"""Metrics of a predicted distribution over emotions: KL divergence, cosine, and the top-3 hits of VCE.

Data flow: predicted and true distributions --statistics--> [N, 6] --sum--> metrics.

Shapes: N rows, C emotions; `...` in the shape of sums are optional axes (resamples).

Definitions, y truth and p prediction, means over rows:
  kl                  sum_c y_c log(y_c / p_c) in nats, p_c clamped to >= 1e-12
  cosine              cosine similarity of y and p
  acc_true1_in_pred3  the strongest true emotion is among the three strongest predicted (VCE, Mazeika et al. 2022)
  acc_pred1_in_true3  the strongest predicted emotion is among the three strongest true ones (Rank-3 of StimuVAR)
  top1                the strongest emotions agree
Of equal intensities the first counts as stronger.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Distributions [N, C], truth [N, C] -> [N, 6] float64: 1, kl, cosine, true1 in pred3, pred1 in true3, top1."""
    p, y = prediction.double(), truth.double()
    kl = F.kl_div(p.clamp(min=1e-12).log(), y, reduction="none").sum(dim=-1)
    top_p, top_y = strongest(p), strongest(y)
    hits = [(top_p == top_y[:, :1]).any(dim=-1), (top_y == top_p[:, :1]).any(dim=-1), top_p[:, 0] == top_y[:, 0]]
    return torch.stack([torch.ones_like(kl), kl, F.cosine_similarity(p, y, dim=-1), *hits], dim=-1)


def metrics(sums: Tensor, outputs: int) -> dict[str, Tensor]:
    """Summed statistics [..., 6] -> metric name -> [...]."""
    names = ("kl", "cosine", "acc_true1_in_pred3", "acc_pred1_in_true3", "top1")
    return dict(zip(names, (sums[..., 1:] / sums[..., :1]).unbind(dim=-1), strict=True))


def strongest(distribution: Tensor, k: int = 3) -> Tensor:
    """Distributions [N, C] -> indices of the k greatest shares [N, k], in order; stable for equal shares."""
    return distribution.argsort(dim=-1, descending=True, stable=True)[:, :k]


def constants(truth: Tensor) -> Tensor:
    """Labels of the train split [N, C] -> the constant predictions [3, C] used for the majority baselines.

    Rows: the mean distribution, for kl and cosine; how often each emotion is the strongest, for true1 in pred3 and top1
    (the majority baseline of VCE); how often it is among the three strongest, for pred1 in true3.
    """
    best = F.one_hot(strongest(truth), truth.shape[-1]).double()  # [N, 3, C]
    return torch.stack([truth.double().mean(dim=0), best[:, 0].mean(dim=0), best.sum(dim=1).mean(dim=0)])
