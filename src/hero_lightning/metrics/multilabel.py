"""Metrics of C yes-or-no labels at threshold 0.5, from additive statistics, and the area under the ROC curve.

Data flow: probabilities, truth --statistics--> [N, 4 C] --sum--> metrics.

Shapes: N rows, C labels; leading axes `...` of sums are resamples or nothing.

Definitions (`spec/datasets.md` 3, CMU-MOSEI emotions): micro_f1 over all decisions, macro_f1 the mean F1 of the labels;
weighted_f1 = mean over labels of the support-weighted F1 of the yes-or-no task; weighted_accuracy = mean over labels
of (TP N/P + TN) / (2 N), P and N the positives and negatives, over labels of which both occur (Zadeh et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

THRESHOLD = 0.5


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Probabilities [N, C], truth [N, C] 0 or 1 -> [N, 4 C] float64: true and false yes, false and true no."""
    yes, there = prediction > THRESHOLD, truth > THRESHOLD
    return torch.cat([yes & there, yes & ~there, ~yes & there, ~yes & ~there], dim=-1).double()


def metrics(sums: Tensor, labels: int) -> dict[str, Tensor]:
    """Summed statistics [..., 4 C] -> figure name -> [...]."""
    tp, fp, fn, tn = sums.unflatten(-1, (4, labels)).unbind(dim=-2)  # each [..., C]
    yes, no = _f1(tp, fp, fn), _f1(tn, fn, fp)
    positives, negatives = tp + fn, fp + tn
    return {
        "macro_f1": yes.mean(dim=-1),
        "micro_f1": _f1(tp.sum(dim=-1), fp.sum(dim=-1), fn.sum(dim=-1)),
        "weighted_f1": ((yes * positives + no * negatives) / (positives + negatives)).mean(dim=-1),
        "weighted_accuracy": _weighted_accuracy(tp, tn, positives, negatives).nanmean(dim=-1),
    }


def per_class(sums: Tensor, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Summed statistics [4 C] -> label name -> f1, weighted_accuracy, support."""
    tp, fp, fn, tn = sums.unflatten(-1, (4, len(names))).unbind(dim=-2)
    columns = {
        "f1": _f1(tp, fp, fn),
        "weighted_accuracy": _weighted_accuracy(tp, tn, tp + fn, fp + tn),
        "support": tp + fn,
    }
    return {name: {k: float(v[i]) for k, v in columns.items()} for i, name in enumerate(names)}


def auc(prediction: Tensor, truth: Tensor) -> float:
    """Mean area under the ROC curve over the labels of which both classes occur; nan without such a label."""
    there = truth > THRESHOLD
    both = (there.any(dim=0) & ~there.all(dim=0)).nonzero().flatten().tolist()
    areas = [float(binary_auroc(prediction[:, c], there[:, c].long())) for c in both]
    return sum(areas) / len(areas) if areas else float("nan")


def chance(truth: Tensor, labels: int) -> dict[str, float]:
    """Metrics of the expected hits and misses of tossing a coin, given truth [N, C]."""
    positives = (truth > THRESHOLD).double().sum(dim=0)
    negatives = len(truth) - positives
    out = metrics(torch.cat([positives, negatives, positives, negatives]) / 2, labels)
    return {**{k: float(v) for k, v in out.items()}, "auc": 0.5}


def _f1(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    """F1, 0 where the label neither occurs nor is said."""
    bottom = 2 * tp + fp + fn
    return torch.where(bottom > 0, 2 * tp / bottom.clamp(min=1e-12), 0.0)


def _weighted_accuracy(tp: Tensor, tn: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """(TP N/P + TN) / (2 N); nan where only one class occurs."""
    return (tp * negatives / positives + tn) / (2 * negatives)
