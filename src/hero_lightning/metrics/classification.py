"""Metrics of a one-of-C prediction, from additive statistics: one formula for value, interval and baseline.

Data flow: probabilities, truth --statistics--> [N, C*(C+1) + BINS] --sum--> metrics.

Shapes: N rows, C classes, BINS calibration bins; leading axes `...` of sums are resamples or nothing.
A row whose probabilities are all zero is no answer: it has the last column of the confusion table, and is wrong.

Definitions (`spec/datasets.md` 3; scikit-learn's with labels as they occur and zero_division=0):
  f1_c = 2 TP_c / (2 TP_c + FP_c + FN_c); weighted_f1 (MER's WAF) = sum_c support_c f1_c / N;
  macro_f1 = mean f1_c over classes that occur in truth or prediction; accuracy = WAR = WA = trace / N, which is also
  the support-weighted recall; uar = UA = mean recall over classes with support (balanced accuracy);
  weighted_precision = sum_c support_c precision_c / N (with the two before it: Emotion-LLaMA's set on MER2023);
  ece = sum_b |sum of (confidence - correct) in bin b| / N, 15 equal bins (Guo et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15


def votes(said: Sequence[str | None], classes: Sequence[str]) -> Tensor:
    """N class names -> [N, C], 1 where it is said; None, no answer, is a row of zeros."""
    return torch.tensor([[float(name == c) for c in classes] for name in said]).reshape(-1, len(classes))


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """What every row adds to the metrics.

    Args:
        prediction: [N, C] probabilities.
        truth: [N] class indices.

    Returns:
        [N, C*(C+1) + BINS] float64: its cell of the confusion table (truth down, answer across, no answer last), and
        confidence - correct in its bin.
    """
    classes = prediction.shape[-1]
    confidence, best = prediction.double().max(dim=-1)
    best = torch.where(confidence > 0, best, classes)
    cell = F.one_hot(truth * (classes + 1) + best, classes * (classes + 1))
    bins = F.one_hot((confidence * BINS).long().clamp(max=BINS - 1), BINS)
    gap = confidence - (best == truth).double()
    return torch.cat([cell.double(), bins * gap.unsqueeze(-1)], dim=-1)


def metrics(sums: Tensor, classes: int) -> dict[str, Tensor]:
    """Summed statistics [..., C*(C+1) + BINS] -> figure name -> [...]."""
    table = sums[..., :-BINS].unflatten(-1, (classes, classes + 1))  # [..., C, C+1] truth down
    total = table.sum(dim=(-1, -2))
    hits, support, answers = table.diagonal(dim1=-2, dim2=-1), table.sum(dim=-1), table[..., :-1].sum(dim=-2)
    f1 = _ratio(2 * hits, support + answers)
    return {
        "weighted_f1": _ratio((f1 * support).sum(dim=-1), total),
        "macro_f1": _ratio(f1.sum(dim=-1), ((support + answers) > 0).sum(dim=-1)),
        "accuracy": _ratio(hits.sum(dim=-1), total),
        "uar": _ratio(_ratio(hits, support).sum(dim=-1), (support > 0).sum(dim=-1)),
        "weighted_precision": _ratio((_ratio(hits, answers) * support).sum(dim=-1), total),
        "ece": _ratio(sums[..., -BINS:].abs().sum(dim=-1), total),
    }


def weighted_f1(cells: Tensor) -> Tensor:
    """Counts [..., 4] of a yes-or-no task (truth no: said no, yes; truth yes: said no, yes) -> weighted F1 [...]."""
    nn, ny, yn, yy = cells.unbind(dim=-1)
    no, yes = _ratio(2 * nn, 2 * nn + ny + yn), _ratio(2 * yy, 2 * yy + ny + yn)
    return _ratio(no * (nn + ny) + yes * (yn + yy), cells.sum(dim=-1))


def confusion(prediction: Tensor, truth: Tensor) -> Tensor:
    """Probabilities [N, C], truth [N] -> counts [C, C+1] long, truth down, answer across, no answer last."""
    classes = prediction.shape[-1]
    cells = statistics(prediction, truth)[:, :-BINS].sum(dim=0)
    return cells.long().reshape(classes, classes + 1)


def per_class(sums: Tensor, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Summed statistics [C*(C+1) + BINS] -> class name -> precision, recall, f1, support."""
    table = sums[:-BINS].reshape(len(names), -1)
    hits, support, answers = table.diagonal(), table.sum(dim=1), table[:, :-1].sum(dim=0)
    columns = {
        "precision": _ratio(hits, answers),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + answers),
        "support": support,
    }
    return {name: {k: float(v[i]) for k, v in columns.items()} for i, name in enumerate(names)}


def chance(truth: Tensor, classes: int) -> dict[str, float]:
    """Metrics of the expected confusion matrix of uniform guessing, given truth [N].

    Calibration is left out: it depends on the confidence a guesser would state.
    """
    support = truth.bincount(minlength=classes).double()
    cells = F.pad((support / classes).unsqueeze(1).expand(-1, classes), (0, 1)).flatten()
    out = metrics(F.pad(cells, (0, BINS)), classes)
    return {k: float(v) for k, v in out.items() if k != "ece"}


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """top / bottom, 0 where nothing is counted."""
    return torch.where(bottom > 0, top / bottom.clamp(min=1e-12), 0.0)
