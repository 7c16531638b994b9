"""Metrics of a one-of-C prediction, from additive statistics.

Data flow: probabilities, truth --statistics--> [N, C*(C+1) + BINS] --sum--> metrics.

Shapes: N rows, C classes, BINS calibration bins; `...` in the shape of sums are optional axes (resamples).
A row whose probabilities are all zero is a missing answer: it is counted in the last column of the confusion matrix,
as an error.

Definitions (as scikit-learn with zero_division=0, averaged over the classes that occur):
  f1_c                = 2 TP_c / (2 TP_c + FP_c + FN_c)
  weighted_f1         = sum_c support_c f1_c / N (WAF of the MER challenges)
  macro_f1            = mean of f1_c over classes that occur in truth or prediction
  accuracy            = trace / N (WA, WAR), equal to the support-weighted recall
  uar                 = mean recall over classes with support (UA, balanced accuracy)
  weighted_precision  = sum_c support_c precision_c / N (reported by Emotion-LLaMA on MER2023)
  ece                 = sum_b |sum of (confidence - correct) in bin b| / N, 15 equal bins (Guo et al. 2017)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15


def votes(answers: Sequence[str | None], classes: Sequence[str]) -> Tensor:
    """N class names -> one-hot [N, C]; None (no answer) and unknown names are a row of zeros."""
    return torch.tensor([[float(name == c) for c in classes] for name in answers]).reshape(-1, len(classes))


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Additive statistics of every row.

    Args:
        prediction: [N, C] probabilities.
        truth: [N] class indices.

    Returns:
        [N, C*(C+1) + BINS] float64: one-hot cell of the confusion matrix (rows truth, columns prediction, the last one
        no answer), and confidence - correct in its calibration bin.
    """
    classes = prediction.shape[-1]
    confidence, best = prediction.double().max(dim=-1)
    best = torch.where(confidence > 0, best, classes)
    cell = F.one_hot(truth * (classes + 1) + best, classes * (classes + 1))
    bins = F.one_hot((confidence * BINS).long().clamp(max=BINS - 1), BINS)
    gap = confidence - (best == truth).double()
    return torch.cat([cell.double(), bins * gap.unsqueeze(-1)], dim=-1)


def metrics(sums: Tensor, classes: int) -> dict[str, Tensor]:
    """Summed statistics [..., C*(C+1) + BINS] -> metric name -> [...]."""
    table = _table(sums, classes)
    total = table.sum(dim=(-1, -2))
    hits, support, answers = table.diagonal(dim1=-2, dim2=-1), table.sum(dim=-1), table[..., :-1].sum(dim=-2)
    f1 = ratio(2 * hits, support + answers)
    return {
        "weighted_f1": ratio((f1 * support).sum(dim=-1), total),
        "macro_f1": ratio(f1.sum(dim=-1), ((support + answers) > 0).sum(dim=-1)),
        "accuracy": ratio(hits.sum(dim=-1), total),
        "uar": ratio(ratio(hits, support).sum(dim=-1), (support > 0).sum(dim=-1)),
        "weighted_precision": ratio((ratio(hits, answers) * support).sum(dim=-1), total),
        "ece": ratio(sums[..., -BINS:].abs().sum(dim=-1), total),
    }


def weighted_f1(cells: Tensor) -> Tensor:
    """Binary counts [..., 4] (tn, fp, fn, tp) -> F1 of the two classes weighted by support [...]."""
    tn, fp, fn, tp = cells.unbind(dim=-1)
    negative, positive = ratio(2 * tn, 2 * tn + fp + fn), ratio(2 * tp, 2 * tp + fp + fn)
    return ratio(negative * (tn + fp) + positive * (fn + tp), cells.sum(dim=-1))


def confusion(prediction: Tensor, truth: Tensor) -> Tensor:
    """Probabilities [N, C], truth [N] -> confusion matrix [C, C+1] of counts."""
    return _table(statistics(prediction, truth).sum(dim=0), prediction.shape[-1]).long()


def per_class(sums: Tensor, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Summed statistics [C*(C+1) + BINS] -> class name -> precision, recall, f1, support."""
    table = _table(sums, len(names))
    hits, support, answers = table.diagonal(), table.sum(dim=1), table[:, :-1].sum(dim=0)
    columns = {"precision": ratio(hits, answers), "recall": ratio(hits, support)}
    columns |= {"f1": ratio(2 * hits, support + answers), "support": support}
    return {name: {k: float(v[i]) for k, v in columns.items()} for i, name in enumerate(names)}


def chance(truth: Tensor, classes: int) -> dict[str, float]:
    """Metrics of the expected confusion matrix of uniform guessing, given truth [N]; ece is not defined for it."""
    support = truth.bincount(minlength=classes).double()
    cells = F.pad((support / classes).unsqueeze(1).expand(-1, classes), (0, 1)).flatten()
    out = metrics(F.pad(cells, (0, BINS)), classes)
    return {k: float(v) for k, v in out.items() if k != "ece"}


def _table(sums: Tensor, classes: int) -> Tensor:
    """Confusion matrix [..., C, C+1] of summed statistics: rows truth, columns prediction, the last no answer."""
    return sums[..., :-BINS].unflatten(-1, (classes, classes + 1))


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, 0 where the denominator is 0."""
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1e-12), 0.0)
