"""Metrics of predicted utilities against preference comparisons of videos.

Data flow: utilities, packed places --statistics--> [N, 6] --sum--> metrics.

Shapes: N videos, M comparisons per video, K comparisons; `...` in the shape of sums are optional axes (resamples).

A comparison lists 2..7 videos from least to most preferred; `pack` encodes one video's place in it as an integer. The
statistics of a comparison are in the row of its first video.

Definitions (V2V, Mazeika et al. 2022); pairs with a missing video count as errors:
  pair_accuracy         share of pairs (all pairs of each list) with a strictly higher utility of the preferred video
  list_accuracy         share of comparisons in strictly correct order
  list_accuracy_compat  the same with ties counted as correct, as in the official code: a constant model scores 1
  kendall               mean over comparisons of (concordant - discordant pairs) / pairs
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLOT = 8
"""Upper bound (exclusive) of places and sizes."""


def pack(comparison: int, place: int, size: int) -> int:
    """Encodes a place as an integer; sorting puts the places of a comparison in order."""
    return (comparison * SLOT + place) * SLOT + size


def unpack(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Packed places -> comparison, place, size."""
    return packed // SLOT**2, packed // SLOT % SLOT, packed % SLOT


def statistics(prediction: Tensor, truth: Tensor) -> Tensor:
    """Utilities [N, 1], packed places [N, M] (-1 = none) -> [N, 6] float64.

    Columns: comparisons, pairs, correct pairs, correct lists, lists correct with ties, Kendall's tau.
    """
    out = torch.zeros(len(truth), 6, dtype=torch.float64)
    row, column = (truth >= 0).nonzero(as_tuple=True)
    packed, order = truth[row, column].sort()
    if not len(packed):
        return out
    row, utility = row[order], prediction.double().flatten()[row[order]]  # one per place
    number, _, size = unpack(packed)
    _, group, count = number.unique_consecutive(return_inverse=True, return_counts=True)
    start = count.cumsum(0) - count  # [K] first place of each comparison
    # [K, 4] concordant and discordant pairs, neighbours in strict order, neighbours in order or tied
    sums = torch.zeros(len(count), 4, dtype=torch.float64)
    for distance in range(1, SLOT):
        same = group[distance:] == group[:-distance]
        step = (utility[distance:] - utility[:-distance])[same]
        neighbours = torch.full_like(step, float(distance == 1))
        hits = torch.stack([step > 0, step < 0, (step > 0) * neighbours, (step >= 0) * neighbours], dim=-1).double()
        sums.index_add_(0, group[distance:][same], hits)
    size = size[start].double()
    pairs = size * (size - 1) / 2
    concordant, discordant, strict, compat = sums.unbind(dim=-1)
    tau = (concordant - discordant) / pairs
    columns = [torch.ones_like(size), pairs, concordant, strict == size - 1, compat == size - 1, tau]
    return out.index_add_(0, row[start], torch.stack([c.double() for c in columns], dim=-1))


def metrics(sums: Tensor, outputs: int) -> dict[str, Tensor]:
    """Summed statistics [..., 6] -> metric name -> [...]."""
    comparisons, pairs, hits, strict, compat, tau = sums.unbind(dim=-1)
    return {
        "pair_accuracy": hits / pairs,
        "list_accuracy": strict / comparisons,
        "list_accuracy_compat": compat / comparisons,
        "kendall": tau / comparisons,
    }


def chance(truth: Tensor, outputs: int) -> dict[str, float]:
    """Metrics expected of random utilities, given packed places [N, M]: a list of n is correct in 1 of n! cases."""
    number, _, size = unpack(truth[truth >= 0].sort().values)
    _, count = number.unique_consecutive(return_counts=True)
    sizes = size[count.cumsum(0) - count].tolist()
    share = sum(1 / math.factorial(n) for n in sizes) / max(1, len(sizes))
    return {"pair_accuracy": 0.5, "list_accuracy": share, "list_accuracy_compat": share, "kendall": 0.0}
