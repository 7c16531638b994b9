"""Metrics of a score, from additive statistics: errors, correlations, and class accuracies of sentiment datasets.

Data flow: scores, truth --statistics--> [N, 8 + K] --sum--> metrics.

Shapes: N rows, K further statistics of a metric set; `...` in the shape of sums are optional axes (resamples).

Definitions, p prediction and y truth, moments over N (not N - 1):
  pearson  cov(p, y) / (sd_p sd_y), nan if either is constant
  ccc      2 cov(p, y) / (var_p + var_y + (mean_p - mean_y)^2) (Lin 1989)

Metric sets (`METRIC_SETS`), mosi and sims as in MMSA (github.com/thuiar/MMSA):
  plain    mae, rmse, pearson, ccc
  ccc      the same, ccc first
  mer2023  the same and mse; the challenge score is the weighted F1 of the classes - 0.25 mse
  mosi     CMU-MOSI, CMU-MOSEI: mae, pearson; acc7, acc5: round(clip(p, -k, k)) = round(clip(y, -k, k)), k = 3 and 2,
           halves to even; acc2, f1 (weighted): y >= 0 against p >= 0 (has0), y > 0 against p > 0 where y != 0 (non0)
  sims     CH-SIMS, SIMS v2: p and y clipped to -1..1; acc2 cuts at 0, acc3 at -0.1, 0.1, acc5 at -0.7, -0.1, 0.1, 0.7,
           intervals closed above; f1 is weighted over the two classes of acc2
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.metrics.classification import weighted_f1

METRIC_SETS = ("plain", "ccc", "mer2023", "mosi", "sims")
SIMS_CUTS = {"acc2": (0.0,), "acc3": (-0.1, 0.1), "acc5": (-0.7, -0.1, 0.1, 0.7)}


def statistics(prediction: Tensor, truth: Tensor, metric_set: str = "plain") -> Tensor:
    """Scores [N, 1], truth [N] -> [N, 8 + K] float64: 1, |p - y|, (p - y)^2, p, y, p^2, y^2, p y, and the set's own.

    p and y are centred on the mean truth: no metric depends on it, and the squares keep their precision.
    """
    p, y = prediction.double().squeeze(-1), truth.double()
    own = _mosi(p, y) if metric_set == "mosi" else _sims(p, y) if metric_set == "sims" else []
    centre = y.mean() if len(y) else y.new_zeros(())
    error, p, y = p - y, p - centre, y - centre
    moments = torch.stack([torch.ones_like(p), error.abs(), error**2, p, y, p * p, y * y, p * y], dim=-1)
    return torch.cat([moments, *own], dim=-1)


def metrics(sums: Tensor, outputs: int, metric_set: str = "plain") -> dict[str, Tensor]:
    """Summed statistics [..., 8 + K] -> metric name -> [...]."""
    absolute, square, p, y, pp, yy, py = (sums[..., 1:8] / sums[..., :1]).unbind(dim=-1)
    # Rounding leaves about 1e-16 of the second moment where the variance is zero.
    var_p = torch.where(pp - p * p > 1e-12 * pp, pp - p * p, 0.0)
    var_y = torch.where(yy - y * y > 1e-12 * yy, yy - y * y, 0.0)
    covariance = torch.where((var_p > 0) & (var_y > 0), py - p * y, 0.0)
    pearson = covariance / (var_p * var_y).sqrt()
    if metric_set in ("mosi", "sims"):
        own = sums[..., 8:]
        shares, suffixes = (("acc7", "acc5"), ("_has0", "_non0")) if metric_set == "mosi" else (("acc5", "acc3"), ("",))
        out = {"mae": absolute, "pearson": pearson}
        out |= {name: own[..., i] / sums[..., 0] for i, name in enumerate(shares)}
        for suffix, cells in zip(suffixes, own[..., 2:].split(4, dim=-1), strict=True):
            accuracy = (cells[..., 0] + cells[..., 3]) / cells.sum(dim=-1)
            out |= {f"acc2{suffix}": accuracy, f"f1{suffix}": weighted_f1(cells)}
        return out
    ccc = {"ccc": 2 * covariance / (var_p + var_y + (p - y) ** 2)}
    out = {"mae": absolute, "rmse": square.sqrt(), "pearson": pearson, **ccc}
    return {**ccc, **out} if metric_set == "ccc" else {**out, "mse": square} if metric_set == "mer2023" else out


def _binary(truth: Tensor, prediction: Tensor) -> Tensor:
    """Binary truth and prediction [N] -> one-hot cells [N, 4] (tn, fp, fn, tp) for `weighted_f1`."""
    return F.one_hot(2 * truth.long() + prediction.long(), 4).double()


def _mosi(p: Tensor, y: Tensor) -> list[Tensor]:
    """Hits of acc7 and acc5 [N, 1], cells of has0 and non0 [N, 4]."""
    hits = [(p.clamp(-k, k).round() == y.clamp(-k, k).round()).double().unsqueeze(-1) for k in (3, 2)]
    return [*hits, _binary(y >= 0, p >= 0), _binary(y > 0, p > 0) * (y != 0).unsqueeze(-1)]


def _sims(p: Tensor, y: Tensor) -> list[Tensor]:
    """Hits of acc5 and acc3 [N, 1], cells of acc2 [N, 4]; compared in float32, the precision of the stored labels."""
    bins = {
        name: [torch.bucketize(x.clamp(-1, 1).float(), torch.tensor(cuts, device=x.device)) for x in (y, p)]
        for name, cuts in SIMS_CUTS.items()
    }
    hits = [(bins[name][0] == bins[name][1]).double().unsqueeze(-1) for name in ("acc5", "acc3")]
    return [*hits, _binary(*bins["acc2"])]
