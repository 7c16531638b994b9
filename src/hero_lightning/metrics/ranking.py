"""Metrics of utilities against preferences: pairs and lists put in the right order.

Data flow: utilities, packed places --statistics--> [N, 6] --sum--> metrics.

Shapes: N videos, M places a video may have, K comparisons; leading axes `...` of sums are resamples or nothing.

A comparison is 2..7 videos from least to most preferred; `pack` writes one video's place in it as a number. Its
statistics stand in the row of its first video. Definitions (V2V, Mazeika et al. 2022): pair_accuracy = share of pairs
(also inside lists) with the better one strictly higher; list_accuracy = share of comparisons whose whole order is
strictly right; list_accuracy_compat the same with ties right, as the reference counts lists (a constant model then has
them all); kendall = mean over comparisons of (right - wrong pairs) / pairs. A pair whose video is missing is not right.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLOT = 8
"""Places and sizes are below it."""


def pack(comparison: int, place: int, size: int) -> int:
    """A place as one number; places of a comparison are neighbours when sorted."""
    return (comparison * SLOT + place) * SLOT + size


def unpack(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Packed places -> comparison, place, size."""
    return packed // SLOT**2, packed // SLOT % SLOT, packed % SLOT


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Utilities [N, 1], packed places [N, M] (-1 = none) -> [N, 6] float64.

    The columns: comparisons, pairs, pairs right, comparisons right, right with ties, Kendall's tau.
    """
    out = torch.zeros(len(truth), 6, dtype=torch.float64)
    row, column = (truth >= 0).nonzero(as_tuple=True)
    packed, order = truth[row, column].sort()
    if not len(packed):
        return out
    row, utility = row[order], prediction.double().flatten()[row[order]]  # both one per place
    number, _, size = unpack(packed)
    _, group, count = number.unique_consecutive(return_inverse=True, return_counts=True)
    start = count.cumsum(0) - count  # [K] where each comparison begins
    sums = torch.zeros(len(count), 4, dtype=torch.float64)  # pairs right, pairs wrong, neighbours right, or tied
    for apart in range(1, SLOT):
        same = group[apart:] == group[:-apart]
        step = (utility[apart:] - utility[:-apart])[same]
        near = torch.full_like(step, float(apart == 1))
        marks = torch.stack([step > 0, step < 0, (step > 0) * near, (step >= 0) * near], dim=-1).double()
        sums.index_add_(0, group[apart:][same], marks)
    size = size[start].double()
    pairs = size * (size - 1) / 2
    right, wrong, up, level = sums.unbind(dim=-1)
    columns = [torch.ones_like(size), pairs, right, up == size - 1, level == size - 1, (right - wrong) / pairs]
    return out.index_add_(0, row[start], torch.stack([c.double() for c in columns], dim=-1))


def metrics(sums: Tensor, outputs: int) -> dict[str, Tensor]:
    """Summed statistics [..., 6] -> figure name -> [...]."""
    comparisons, pairs, hits, strict, compat, tau = sums.unbind(dim=-1)
    return {
        "pair_accuracy": hits / pairs,
        "list_accuracy": strict / comparisons,
        "list_accuracy_compat": compat / comparisons,
        "kendall": tau / comparisons,
    }


def chance(truth: Tensor, outputs: int) -> dict[str, float]:
    """Metrics expected of random utilities, given packed places [N, M]: a list of n is right in 1 of n! cases."""
    number, _, size = unpack(truth[truth >= 0].sort().values)
    _, count = number.unique_consecutive(return_counts=True)
    sizes = size[count.cumsum(0) - count].tolist()
    right = sum(1 / math.factorial(n) for n in sizes) / max(1, len(sizes))
    return {"pair_accuracy": 0.5, "list_accuracy": right, "list_accuracy_compat": right, "kendall": 0.0}
