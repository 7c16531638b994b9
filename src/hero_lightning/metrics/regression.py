"""Metrics of a score, from additive statistics: errors, correlations, and the agreed cuts of sentiment datasets.

Data flow: scores, truth --statistics--> [N, 8 + K] --sum--> metrics.

Shapes: N rows, K statistics of a dataset' own set; leading axes `...` of sums are resamples or nothing.

Definitions, p prediction and y truth, moments over N (not N - 1): pearson = cov(p, y) / (sd_p sd_y), undefined (nan)
where either is constant; ccc = 2 cov(p, y) / (var_p + var_y + (mean_p - mean_y)^2) (Lin 1989).

Sets of metrics (`SETS`):
  plain    mae, rmse, pearson, ccc
  ccc      the same, ccc first
  mer2023  the same, mse added: the dataset' score is weighted F1 of the classes - 0.25 mse
  mosi     CMU-MOSI and CMU-MOSEI as MMSA scores them: mae, pearson, acc7 and acc5 = share of round(clip(p, -k..k)) =
           round(clip(y, -k..k)), k = 3 and 2, halves to even as numpy rounds; has0: y >= 0 against p >= 0 over all
           rows; non0: rows with y = 0 left out, y > 0 against p > 0; f1 is weighted over the two sides
  sims     CH-SIMS and SIMS v2 as MMSA scores them: p and y clipped to -1..1; acc2 cuts at 0, acc3 at -0.1, 0.1, acc5 at
           -0.7, -0.1, 0.1, 0.7, each interval with its upper end; f1 is weighted over the two sides of acc2
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.metrics.classification import weighted_f1

SETS = ("plain", "ccc", "mer2023", "mosi", "sims")
SIMS_CUTS = {"acc2": (0.0,), "acc3": (-0.1, 0.1), "acc5": (-0.7, -0.1, 0.1, 0.7)}


def statistics(prediction: Tensor, truth: Tensor, form: str = "plain") -> Tensor:
    """Scores [N, 1], truth [N] -> [N, 8 + K] float64: 1, |p - y|, (p - y)^2, p, y, p^2, y^2, p y, and the set's own.

    Moments are taken from the mean truth; no figure changes by that and no digits are lost in the squares.
    """
    p, y = prediction.double().squeeze(-1), truth.double()
    own = _mosi(p, y) if form == "mosi" else _sims(p, y) if form == "sims" else []
    centre = y.mean() if len(y) else y.new_zeros(())
    error, p, y = p - y, p - centre, y - centre
    moments = torch.stack([torch.ones_like(p), error.abs(), error**2, p, y, p * p, y * y, p * y], dim=-1)
    return torch.cat([moments, *own], dim=-1)


def metrics(sums: Tensor, outputs: int, form: str = "plain") -> dict[str, Tensor]:
    """Summed statistics [..., 8 + K] -> figure name -> [...]."""
    absolute, square, p, y, pp, yy, py = (sums[..., 1:8] / sums[..., :1]).unbind(dim=-1)
    # Rounding leaves about 1e-16 of the second moment where the variance is zero.
    var_p = torch.where(pp - p * p > 1e-12 * pp, pp - p * p, 0.0)
    var_y = torch.where(yy - y * y > 1e-12 * yy, yy - y * y, 0.0)
    covariance = torch.where((var_p > 0) & (var_y > 0), py - p * y, 0.0)
    pearson = covariance / (var_p * var_y).sqrt()
    if form in ("mosi", "sims"):
        own = sums[..., 8:]
        cells = {"has0": own[..., 2:6], "non0": own[..., 6:10]} if form == "mosi" else {"": own[..., 2:6]}
        shares = ("acc7", "acc5") if form == "mosi" else ("acc5", "acc3")
        out = {"mae": absolute, "pearson": pearson}
        out |= {name: own[..., i] / sums[..., 0] for i, name in enumerate(shares)}
        for name, c in cells.items():
            tail = f"_{name}" if name else ""
            out |= {f"acc2{tail}": (c[..., 0] + c[..., 3]) / c.sum(dim=-1), f"f1{tail}": weighted_f1(c)}
        return out
    ccc = {"ccc": 2 * covariance / (var_p + var_y + (p - y) ** 2)}
    out = {"mae": absolute, "rmse": square.sqrt(), "pearson": pearson, **ccc}
    return {**ccc, **out} if form == "ccc" else {**out, "mse": square} if form == "mer2023" else out


def _sides(truth: Tensor, said: Tensor) -> Tensor:
    """Two yes-or-no answers [N] -> their cell [N, 4] of `weighted_f1`."""
    return F.one_hot(2 * truth.long() + said.long(), 4).double()


def _mosi(p: Tensor, y: Tensor) -> list[Tensor]:
    """[N, 1] hits of seven and five classes, [N, 4] cells with and without neutral rows."""
    hits = [(p.clamp(-k, k).round() == y.clamp(-k, k).round()).double().unsqueeze(-1) for k in (3, 2)]
    return [*hits, _sides(y >= 0, p >= 0), _sides(y > 0, p > 0) * (y != 0).unsqueeze(-1)]


def _sims(p: Tensor, y: Tensor) -> list[Tensor]:
    """[N, 1] hits of five and three classes, [N, 4] cells of two; cuts compare in float32, as labels are kept."""
    part = {
        name: [torch.bucketize(x.clamp(-1, 1).float(), torch.tensor(cuts, device=x.device)) for x in (y, p)]
        for name, cuts in SIMS_CUTS.items()
    }
    hits = [(part[name][0] == part[name][1]).double().unsqueeze(-1) for name in ("acc5", "acc3")]
    return [*hits, _sides(*part["acc2"])]
