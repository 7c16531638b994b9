"""Percentile bootstrap of metrics that are functions of summed row statistics (Efron & Tibshirani 1993, ch. 13).

Data flow: statistics [N, S] -> how often each row is drawn [R, G] @ sums per group [G, S] -> metrics [R] -> quantiles.

Shapes: N rows, S statistics, R resamples, G groups drawn together (dialogues; one row each where none are given).
A resample is a row of counts, so a figure over 1000 resamples is one matrix product; no prediction is looked at twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Metrics = Callable[[Tensor], Mapping[str, Tensor]]
"""Summed statistics [R, S] -> figure name -> [R]; `Task.metrics_of`."""
Groups = Sequence[Hashable] | None

CELLS = 4_000_000
"""Draws held in memory at once (32 MB)."""


@dataclass(frozen=True, slots=True)
class Paired:
    """How much better or worse a is than b on the same rows.

    Difference: figure of a minus figure of b, with its interval. p: two-sided, twice the smaller share of resamples on
    one side of zero.
    """

    difference: float
    low: float
    high: float
    p: float


def intervals(
    rows: Tensor, metrics: Metrics, *, groups: Groups = None, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % interval (low, high) of every figure; nan where it is undefined in every resample.

    Args:
        rows: [N, S] statistics of the labelled rows.
        groups: N names; rows of one name are drawn together. None = every row on its own.
        seed: same seed, same interval.
    """
    drawn = [metrics(sums) for (sums,) in _resamples((rows,), groups, resamples, seed)]
    return {k: _quantiles(torch.cat([d[k] for d in drawn])) for k in drawn[0]}


def paired_bootstrap(
    a: Tensor, b: Tensor, metrics: Metrics, *, groups: Groups = None, resamples: int = 1000
) -> dict[str, Paired]:
    """Compares two systems by their statistics [N, S] of the same rows, drawn together; the rest as in `intervals`."""
    drawn: dict[str, list[Tensor]] = {}
    for of_a, of_b in _resamples((a, b), groups, resamples, seed=0):
        fa, fb = metrics(of_a), metrics(of_b)
        for k in fa:
            drawn.setdefault(k, []).append(fa[k] - fb[k])
    whole_a, whole_b = metrics(a.sum(dim=0)), metrics(b.sum(dim=0))
    out = {}
    for k, parts in drawn.items():
        d = torch.cat(parts)
        side = min(int((d <= 0).sum()), int((d >= 0).sum()))
        low, high = _quantiles(d)
        p = min(1.0, 2 * (side + 1) / (resamples + 1))  # + 1: the sample itself is one of the possible draws
        out[k] = Paired(float(whole_a[k] - whole_b[k]), low, high, p)
    return out


def _resamples(tables: tuple[Tensor, ...], groups: Groups, resamples: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Sums of every table over blocks of resamples, each [block, S]; all tables see the same draws."""
    tables = tuple(t.double().cpu() for t in tables)
    if groups is not None:
        codes: dict[Hashable, int] = {}
        place = torch.tensor([codes.setdefault(g, len(codes)) for g in groups])
        tables = tuple(t.new_zeros(len(codes), t.shape[1]).index_add_(0, place, t) for t in tables)
    units = len(tables[0])
    rng = np.random.default_rng(seed)
    block = max(1, CELLS // max(1, units))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, units, (size, units)) + units * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        weight = torch.from_numpy(counts).double()  # [block, G]
        yield tuple(weight @ t for t in tables)


def _quantiles(values: Tensor) -> tuple[float, float]:
    """Lower and upper quantile of [R], undefined resamples left out."""
    low, high = torch.nanquantile(values.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
