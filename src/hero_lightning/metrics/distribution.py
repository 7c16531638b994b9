"""Figures of a predicted distribution over emotions: KL divergence, cosine, top-3 hit.

Data flow: shares, truth --statistics--> [N, 4] --sum--> figures.

Shapes: N rows, C emotions; leading axes `...` of sums are resamples or nothing.

Definitions: kl = sum_c y_c log(y_c / p_c) in nats, p_c held above 1e-12; cosine of the two vectors; top3 = share of
rows whose strongest emotion of the truth is among the three strongest of the prediction (VCE, Mazeika et al. 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Shares [N, C], truth [N, C] -> [N, 4] float64: 1, kl, cosine, top-3 hit."""
    p, y = prediction.double(), truth.double()
    kl = F.kl_div(p.clamp(min=1e-12).log(), y, reduction="none").sum(dim=-1)
    best = p.topk(min(3, p.shape[-1]), dim=-1).indices
    hit = (best == y.argmax(dim=-1, keepdim=True)).any(dim=-1).double()
    return torch.stack([torch.ones_like(kl), kl, F.cosine_similarity(p, y, dim=-1), hit], dim=-1)


def figures(sums: Tensor, outputs: int) -> dict[str, Tensor]:
    """Summed statistics [..., 4] -> figure name -> [...]."""
    kl, cosine, top3 = (sums[..., 1:] / sums[..., :1]).unbind(dim=-1)
    return {"kl": kl, "cosine": cosine, "top3": top3}
