"""Metrics of open label sets: how many of the named words are right, and how many of the right ones are named.

Data flow: probabilities, truth --statistics--> [N, 3] --sum--> metrics.

Shapes: N rows, C words of the vocabulary; leading axes `...` of sums are resamples or nothing.

Definitions (OV-MERD, Lian et al. 2025, words compared as they are written): per row precision |Y & P| / |P| and recall
|Y & P| / |Y|; set_precision and set_recall are their means, set_f1 is 2 P R / (P + R) of the means. A truth outside the
vocabulary stays in |Y|. The grouping of synonyms by emotion wheels belongs to the suite, not to training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

THRESHOLD = 0.5


def named(prediction: Tensor) -> Tensor:
    """Probabilities [N, C] -> the words said [N, C]: those above the threshold, and always the most probable one."""
    best = F.one_hot(prediction.argmax(dim=-1), prediction.shape[-1]).bool()
    return best | (prediction > THRESHOLD)


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Probabilities [N, C], truth [N, C + 1] (last: words outside the vocabulary) -> [N, 3] float64: 1, P, R."""
    said, there = named(prediction), truth[:, :-1] > 0
    right = (said & there).sum(dim=-1).double()
    precision, recall = right / said.sum(dim=-1), right / (there.sum(dim=-1) + truth[:, -1]).clamp(min=1)
    return torch.stack([torch.ones_like(right), precision, recall], dim=-1)


def metrics(sums: Tensor, outputs: int) -> dict[str, Tensor]:
    """Summed statistics [..., 3] -> figure name -> [...]."""
    precision, recall = (sums[..., 1:] / sums[..., :1]).unbind(dim=-1)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return {"set_f1": f1, "set_precision": precision, "set_recall": recall}
