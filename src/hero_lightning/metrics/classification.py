"""Figures of a one-of-C prediction, from additive statistics: one formula for value, interval and baseline.

Data flow: probabilities, truth --statistics--> [N, C*C + BINS] --sum--> figures.

Shapes: N rows, C classes, BINS calibration bins; leading axes `...` of sums are resamples or nothing.

Definitions (`spec/datasets.md` 3; scikit-learn's with labels as they occur and zero_division=0):
  f1_c = 2 TP_c / (2 TP_c + FP_c + FN_c); weighted_f1 = sum_c support_c f1_c / N;
  macro_f1 = mean f1_c over classes that occur in truth or prediction; accuracy = WAR = trace / N;
  uar = mean recall over classes with support (balanced accuracy);
  ece = sum_b |sum of (confidence - correct) in bin b| / N, 15 equal bins (Guo et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """What every row adds to the figures.

    Args:
        prediction: [N, C] probabilities.
        truth: [N] class indices.

    Returns:
        [N, C*C + BINS] float64: its cell of the confusion matrix (truth down), and confidence - correct in its bin.
    """
    classes = prediction.shape[-1]
    confidence, best = prediction.double().max(dim=-1)
    cell = F.one_hot(truth * classes + best, classes * classes)
    bins = F.one_hot((confidence * BINS).long().clamp(max=BINS - 1), BINS)
    gap = confidence - (best == truth).double()
    return torch.cat([cell.double(), bins * gap.unsqueeze(-1)], dim=-1)


def figures(sums: Tensor, classes: int) -> dict[str, Tensor]:
    """Summed statistics [..., C*C + BINS] -> figure name -> [...]."""
    cells = sums[..., : classes * classes]
    table = cells.unflatten(-1, (classes, classes))  # [..., C, C] truth down
    total = cells.sum(dim=-1)
    hits, support, answers = table.diagonal(dim1=-2, dim2=-1), table.sum(dim=-1), table.sum(dim=-2)
    f1 = _ratio(2 * hits, support + answers)
    return {
        "weighted_f1": _ratio((f1 * support).sum(dim=-1), total),
        "macro_f1": _ratio(f1.sum(dim=-1), ((support + answers) > 0).sum(dim=-1)),
        "accuracy": _ratio(hits.sum(dim=-1), total),
        "uar": _ratio(_ratio(hits, support).sum(dim=-1), (support > 0).sum(dim=-1)),
        "ece": _ratio(sums[..., classes * classes :].abs().sum(dim=-1), total),
    }


def confusion(prediction: Tensor, truth: Tensor) -> Tensor:
    """Probabilities [N, C], truth [N] -> counts [C, C] long, truth down, prediction across."""
    classes = prediction.shape[-1]
    cells = torch.bincount(truth * classes + prediction.argmax(dim=-1), minlength=classes * classes)
    return cells.reshape(classes, classes)


def per_class(table: Tensor, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Confusion counts [C, C] -> class name -> precision, recall, f1, support."""
    hits, support, answers = table.diagonal().double(), table.sum(dim=1).double(), table.sum(dim=0).double()
    columns = {
        "precision": _ratio(hits, answers),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + answers),
        "support": support,
    }
    return {name: {k: float(v[i]) for k, v in columns.items()} for i, name in enumerate(names)}


def chance(support: Tensor) -> dict[str, float]:
    """Figures of the expected confusion matrix of uniform guessing, given the support [C] of every class.

    Calibration is left out: it depends on the confidence a guesser would state.
    """
    classes = len(support)
    cells = (support.double() / classes).repeat_interleave(classes)
    out = figures(torch.cat([cells, cells.new_zeros(BINS)]), classes)
    return {k: float(v) for k, v in out.items() if k != "ece"}


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """top / bottom, 0 where nothing is counted."""
    return torch.where(bottom > 0, top / bottom.clamp(min=1e-12), 0.0)
