"""Metrics of C binary labels at threshold 0.5, from additive statistics, and the area under the ROC curve.

Data flow: probabilities, truth --statistics--> [N, 4 C] --sum--> metrics.

Shapes: N rows, C labels; `...` in the shape of sums are optional axes (resamples).

Definitions (CMU-MOSEI emotions, Zadeh et al. 2018; P and N the positives and negatives of a label):
  macro_f1           mean over labels of F1; micro_f1: F1 over the decisions of all labels
  weighted_f1        mean over labels of the F1 of present and absent, weighted by support
  weighted_accuracy  mean of (TP N/P + TN) / (2 N) over labels with both positives and negatives
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from hero_lightning.metrics.classification import ratio, weighted_f1

THRESHOLD = 0.5


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Probabilities [N, C], truth [N, C] of 0 and 1 -> [N, 4 C] float64: C each of tp, fp, fn, tn."""
    p, y = prediction > THRESHOLD, truth > THRESHOLD
    return torch.cat([p & y, p & ~y, ~p & y, ~p & ~y], dim=-1).double()


def metrics(sums: Tensor, labels: int) -> dict[str, Tensor]:
    """Summed statistics [..., 4 C] -> metric name -> [...]."""
    tp, fp, fn, tn = sums.unflatten(-1, (4, labels)).unbind(dim=-2)  # each [..., C]
    return {
        "macro_f1": _f1(tp, fp, fn).mean(dim=-1),
        "micro_f1": _f1(tp.sum(dim=-1), fp.sum(dim=-1), fn.sum(dim=-1)),
        "weighted_f1": weighted_f1(torch.stack([tn, fp, fn, tp], dim=-1)).mean(dim=-1),
        "weighted_accuracy": _weighted_accuracy(tp, fp, fn, tn).nanmean(dim=-1),
    }


def per_class(sums: Tensor, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Summed statistics [4 C] -> label name -> f1, weighted_accuracy, support."""
    tp, fp, fn, tn = sums.unflatten(-1, (4, len(names))).unbind(dim=-2)
    columns = {"f1": _f1(tp, fp, fn), "weighted_accuracy": _weighted_accuracy(tp, fp, fn, tn), "support": tp + fn}
    return {name: {k: float(v[i]) for k, v in columns.items()} for i, name in enumerate(names)}


def auc(prediction: Tensor, truth: Tensor) -> float:
    """Mean area under the ROC curve over labels with both positives and negatives; nan without such a label."""
    present = truth > THRESHOLD
    both = (present.any(dim=0) & ~present.all(dim=0)).nonzero().flatten().tolist()
    areas = [float(binary_auroc(prediction[:, c], present[:, c].long())) for c in both]
    return sum(areas) / len(areas) if areas else float("nan")


def chance(truth: Tensor, labels: int) -> dict[str, float]:
    """Metrics of the expected counts of answering at random with probability 1/2, given truth [N, C]."""
    positives = (truth > THRESHOLD).double().sum(dim=0)
    negatives = len(truth) - positives
    out = metrics(torch.cat([positives, negatives, positives, negatives]) / 2, labels)
    return {**{k: float(v) for k, v in out.items()}, "auc": 0.5}


def _f1(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    """F1, 0 for a label that neither occurs nor is predicted."""
    return ratio(2 * tp, 2 * tp + fp + fn)


def _weighted_accuracy(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    """(TP N/P + TN) / (2 N); nan without positives or without negatives."""
    return (tp * (fp + tn) / (tp + fn) + tn) / (2 * (fp + tn))
