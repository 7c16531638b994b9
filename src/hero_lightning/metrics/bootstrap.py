"""Percentile bootstrap of metrics that are functions of summed row statistics (Efron & Tibshirani 1993, ch. 13).

Data flow: statistics [N, S] -> counts of drawn groups [R, G] @ sums per group [G, S] -> metrics [R] -> quantiles.

Shapes: N rows, S statistics, R resamples, G groups (dialogues; without groups every row is its own).
A resample is a row of counts, so 1000 resamples cost one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Metrics = Callable[[Tensor], Mapping[str, Tensor]]
"""Summed statistics [R, S] -> metric name -> [R]; `Task.metrics_of`."""
Groups = Sequence[Hashable] | None
"""Group of every row; rows of one group are drawn together. None = every row is its own group."""

MAX_DRAWS = 4_000_000
"""Draws held in memory at once (32 MB)."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Difference of a metric between two systems on the same rows.

    Attributes:
        difference: metric of a minus metric of b.
        low, high: its 95 % interval.
        p: two-sided p-value, twice the smaller share of resamples on one side of zero.
    """

    difference: float
    low: float
    high: float
    p: float


def intervals(
    rows: Tensor, metrics: Metrics, *, groups: Groups = None, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % interval (low, high) of every metric; nan if it is undefined in every resample.

    Args:
        rows: [N, S] statistics of the labelled rows.
    """
    drawn = [metrics(sums) for (sums,) in _resamples((rows,), groups, resamples, seed)]
    return {k: _quantiles(torch.cat([d[k] for d in drawn])) for k in drawn[0]}


def paired_bootstrap(
    a: Tensor, b: Tensor, metrics: Metrics, *, groups: Groups = None, resamples: int = 1000
) -> dict[str, PairedDifference]:
    """Paired bootstrap of two systems' statistics a and b, both [N, S] of the same rows."""
    drawn = [(metrics(sums_a), metrics(sums_b)) for sums_a, sums_b in _resamples((a, b), groups, resamples, seed=0)]
    total_a, total_b = metrics(a.sum(dim=0)), metrics(b.sum(dim=0))
    out = {}
    for k in total_a:
        d = torch.cat([of_a[k] - of_b[k] for of_a, of_b in drawn])
        smaller = min(int((d <= 0).sum()), int((d >= 0).sum()))
        p = min(1.0, 2 * (smaller + 1) / (resamples + 1))  # + 1: the sample itself is one of the possible draws
        out[k] = PairedDifference(float(total_a[k] - total_b[k]), *_quantiles(d), p)
    return out


def _resamples(tables: tuple[Tensor, ...], groups: Groups, resamples: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Summed statistics of every table, [block, S] per block of resamples; all tables get the same draws."""
    tables = tuple(t.double().cpu() for t in tables)
    if groups is not None:
        numbers: dict[Hashable, int] = {}
        group = torch.tensor([numbers.setdefault(g, len(numbers)) for g in groups])
        tables = tuple(t.new_zeros(len(numbers), t.shape[1]).index_add_(0, group, t) for t in tables)
    units = len(tables[0])
    rng = np.random.default_rng(seed)
    block = max(1, MAX_DRAWS // max(1, units))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, units, (size, units)) + units * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        weight = torch.from_numpy(counts).double()  # [block, G]
        yield tuple(weight @ t for t in tables)


def _quantiles(values: Tensor) -> tuple[float, float]:
    """2.5 % and 97.5 % quantile of [R]; undefined resamples are left out."""
    low, high = torch.nanquantile(values.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
