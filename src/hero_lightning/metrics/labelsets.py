"""Precision, recall and F1 of predicted label sets over a vocabulary.

Data flow: probabilities, truth --statistics--> [N, 3] --sum--> metrics.

Shapes: N rows, C words of the vocabulary; `...` in the shape of sums are optional axes (resamples).

Definitions (OV-MERD, Lian et al. 2025, without the grouping of synonyms, for which see `openvocab`): per row, with true
set Y and predicted set P, precision |Y & P| / |P| and recall |Y & P| / |Y|; set_precision and set_recall are their
means, set_f1 = 2 P R / (P + R) of the means. True words outside the vocabulary count in |Y|.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.metrics.classification import ratio

THRESHOLD = 0.5


def predicted_set(prediction: Tensor) -> Tensor:
    """Probabilities [N, C] -> predicted words [N, C] bool: those above the threshold, and always the most probable."""
    best = F.one_hot(prediction.argmax(dim=-1), prediction.shape[-1]).bool()
    return best | (prediction > THRESHOLD)


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Probabilities [N, C], truth [N, C + 1] (last: words outside the vocabulary) -> [N, 3] float64: 1, P, R."""
    predicted, present = predicted_set(prediction), truth[:, :-1] > 0
    hits = (predicted & present).sum(dim=-1).double()
    precision, recall = hits / predicted.sum(dim=-1), hits / (present.sum(dim=-1) + truth[:, -1]).clamp(min=1)
    return torch.stack([torch.ones_like(hits), precision, recall], dim=-1)


def metrics(sums: Tensor, outputs: int) -> dict[str, Tensor]:
    """Summed statistics [..., 3] -> metric name -> [...]."""
    precision, recall = (sums[..., 1:] / sums[..., :1]).unbind(dim=-1)
    f1 = ratio(2 * precision * recall, precision + recall)
    return {"set_f1": f1, "set_precision": precision, "set_recall": recall}
