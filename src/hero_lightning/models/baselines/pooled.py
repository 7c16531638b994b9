"""Small baselines: fusion of one pooled vector per modality.

Data flow: Features by modality -> Standardise -> mean and standard deviation over time -> one vector per modality
[B, E, d] -> fusion [B, P] -> one linear head per Task -> Outputs.

Shapes: B rows, E modalities, T steps, D feature width, d width, C outputs of a Task, P pooled width.
An absent modality is a learnt token or has no weight, so the content of its rows has no effect. docs/baselines.md lists
the papers. Each baseline is a dataclass whose fields are its options; layers are built in the order base, `_build`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hero_lightning.models.base import FusionModel
from hero_lightning.models.layers import EPS, Standardise, statistics
from hero_lightning.models.outputs import Fused, Outputs
from hero_lightning.types import Features

Steps = dict[str, tuple[Tensor, Tensor]]
"""Modality -> steps [B, T, D], zero where masked, and mask [B, T]; T >= 1."""
Mixed = tuple[Tensor, Tensor | None]
"""Pooled [B, P], and weights [B, E] of the modalities, if the fusion has any."""
Items = tuple[Tensor, Tensor] | None
"""Item [B] of every row and its place [B] in it; see `FusionModel.forward`."""
Logits = dict[str, Tensor]
"""Task -> logits."""
Named = dict[str, Mapping[int, Sequence[str]]]
"""See `FusionModel.named_axes`."""


@dataclass(eq=False, repr=False)
class Baseline(FusionModel):
    """Base: standardises the features and reads one linear head per Task.

    A subclass gives the width of the heads' input in `_pooled`, builds its layers in `_build` and writes `_fuse`.

    Attributes:
        dims, outputs, auxiliary_heads: see `FusionModel`.
    """

    dims: Mapping[str, int]
    outputs: Mapping[str, int]
    auxiliary_heads: Collection[str] = ()

    def __post_init__(self) -> None:
        super().__init__(self.dims, self.outputs, self.auxiliary_heads)
        self.norms = nn.ModuleDict({s: Standardise(d) for s, d in self.dims.items()})
        self.heads = nn.ModuleDict({t: nn.Linear(self._pooled(), n) for t, n in self.outputs.items()})
        self._build()

    def _pooled(self) -> int:
        """P, width of the heads' input."""
        return 1

    def _build(self) -> None:
        """Builds the layers of `_fuse`, if it has any."""

    def _fuse(self, steps: Steps, present: Tensor, items: Items) -> tuple[Tensor, Tensor, Tensor | None]:
        """Standardised steps, present [B, E], items -> pooled [B, P], summaries [B, E, d], weights [B, E]."""
        raise TypeError(f"{type(self).__name__} does not define _fuse")

    def _predict(self, pooled: Tensor, summaries: Tensor, weights: Tensor | None) -> tuple[Logits, Logits]:
        """What `_fuse` returns -> logits [B, C] and, where there are unimodal heads, logits [B, E, C]."""
        return {t: head(pooled) for t, head in self.heads.items()}, {}

    def forward(self, features: Mapping[str, Features], explain: bool = False, items: Items = None) -> Outputs:
        steps = {s: (self.norms[s](f.x, f.mask), f.mask) for s, f in self.complete(features).items()}
        present = torch.stack([mask.any(dim=1) for _, mask in steps.values()], dim=1)
        pooled, summaries, weights = self._fuse(steps, present, items)
        logits, unimodal_logits = self._predict(pooled, summaries, weights)
        return Outputs(
            logits=logits,
            unimodal_logits=unimodal_logits,
            experts=self.modalities,
            summaries=summaries,
            present=present,
            fused=Fused(context=pooled[:, None], pooled=pooled, gate=weights),
            imputed=torch.zeros_like(present),
            confidence=present.float(),
        )


class Majority(Baseline):
    """The best constant prediction: class shares or mean score of the train split, learnt by the heads' biases."""

    def _fuse(self, steps: Steps, present: Tensor, items: Items) -> tuple[Tensor, Tensor, None]:
        none = present.new_zeros(present.shape, dtype=torch.float32)
        return none[:, :1], none[..., None], None


@dataclass(eq=False, repr=False)
class EarlyFusion(Baseline):
    """Pooled statistics of all modalities side by side, then `layers` hidden layers; 0 layers = a linear probe.

    Attributes:
        width: d of the hidden layers.
        layers: of them.
        dropout: on the statistics and on hidden layers.
    """

    width: int = 128
    layers: int = 1
    dropout: float = 0.1

    def _pooled(self) -> int:
        return self.width if self.layers else sum(2 * d + 1 for d in self.dims.values())

    def _build(self) -> None:
        self.hidden, size = nn.Sequential(nn.Dropout(self.dropout)), sum(2 * d + 1 for d in self.dims.values())
        for _ in range(self.layers):
            self.hidden.extend([nn.Linear(size, self.width), nn.ReLU(), nn.Dropout(self.dropout)])
            size = self.width

    def named_axes(self) -> Named:
        first = ["hidden.1.weight"] if self.layers else [f"heads.{t}.weight" for t in self.outputs]
        return {name: {-1: self.modalities} for name in first}

    def _fuse(self, steps: Steps, present: Tensor, items: Items) -> tuple[Tensor, Tensor, None]:
        seen = [torch.where(m.any(dim=1, keepdim=True), statistics(x, m), 0.0) for x, m in steps.values()]
        pooled = self.hidden(torch.cat([*seen, present.to(seen[0].dtype)], dim=1))
        return pooled, present.to(pooled.dtype)[..., None], None


@dataclass(eq=False, repr=False)
class Pooled(Baseline):
    """Base of fusions of one vector per modality: statistics -> layer -> [B, E, d], learnt tokens where absent.

    A subclass writes `_mix`.

    Attributes:
        width: d.
        dropout: on the statistics and on the vectors.
    """

    width: int = 128
    dropout: float = 0.1

    def _pooled(self) -> int:
        return self.width

    def _build(self) -> None:
        self.drop = nn.Dropout(self.dropout)
        layers = {s: (self.drop, nn.Linear(2 * d, self.width), nn.ReLU(), self.drop) for s, d in self.dims.items()}
        self.project = nn.ModuleDict({s: nn.Sequential(*layer) for s, layer in layers.items()})
        self.missing = nn.Parameter(torch.randn(len(self.dims), self.width) * 0.02)

    def named_axes(self) -> Named:
        return {"missing": {0: self.modalities}}

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        """Vectors [B, E, d] of the modalities, present [B, E] -> Mixed."""
        raise TypeError(f"{type(self).__name__} does not define _mix")

    def _vectors(self, steps: Steps, present: Tensor) -> Tensor:
        """Vectors [B, E, d] of the modalities."""
        seen = torch.stack([self.project[s](statistics(x, mask)) for s, (x, mask) in steps.items()], dim=1)
        return torch.where(present[..., None], seen, self.missing.to(seen.dtype))

    def _fuse(self, steps: Steps, present: Tensor, items: Items) -> tuple[Tensor, Tensor, Tensor | None]:
        x = self._vectors(steps, present)
        pooled, weights = self._mix(x, present)
        return pooled, x, weights


class UtteranceAttention(Pooled):
    """MERBench's attention: all vectors together give the weight of each modality (Lian et al. 2024)."""

    def _build(self) -> None:
        super()._build()
        n = len(self.dims)
        hidden = nn.Sequential(nn.Linear(n * self.width, self.width), nn.ReLU(), self.drop)
        self.score = nn.Sequential(hidden, nn.Linear(self.width, n))

    def named_axes(self) -> Named:
        to, of = {0: self.modalities}, {1: self.modalities}
        return super().named_axes() | {"score.0.0.weight": of, "score.1.weight": to, "score.1.bias": to}

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        weights = shares(self.score(x.flatten(1)), present)
        return (weights[..., None] * x).sum(dim=1), weights


class GatedFusion(Pooled):
    """Gated multimodal unit (Arevalo et al. 2017): every element of a modality's vector has its own gate."""

    def _build(self) -> None:
        super()._build()
        self.value = nn.ModuleDict({s: nn.Linear(self.width, self.width) for s in self.dims})
        self.gate = nn.Linear(len(self.dims) * self.width, len(self.dims) * self.width)

    def named_axes(self) -> Named:
        gate: Named = {"gate.weight": {0: self.modalities, 1: self.modalities}, "gate.bias": {0: self.modalities}}
        return super().named_axes() | gate

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        gates = self.gate(x.flatten(1)).sigmoid().unflatten(1, (len(self.dims), self.width))
        gates = gates * present[..., None].to(gates.dtype)
        values = torch.stack([f(x[:, i]).tanh() for i, f in enumerate(self.value.values())], dim=1)
        weights = gates.mean(dim=2)
        return (gates * values).sum(dim=1), weights / weights.sum(dim=1, keepdim=True).clamp(min=EPS)


@dataclass(eq=False, repr=False)
class LowRankFusion(Pooled):
    """Low-rank multimodal fusion (Liu et al. 2018): the outer product of all vectors through factors of rank `rank`."""

    rank: int = 4

    def _build(self) -> None:
        super()._build()
        size = self.rank * self.width
        self.factors = nn.ModuleDict({s: nn.Linear(self.width, size) for s in self.dims})  # the bias is the appended 1
        for factor in self.factors.values():
            assert isinstance(factor, nn.Linear)
            nn.init.ones_(factor.bias)  # a product of E small numbers would start at zero
        self.blend = nn.Linear(self.rank, 1)

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        product = torch.stack([f(x[:, i]) for i, f in enumerate(self.factors.values())], dim=1)  # [B, E, rank * d]
        product = torch.where(present[..., None], product, 1.0).prod(dim=1)
        return self.blend(product.unflatten(1, (-1, self.width)).transpose(1, 2)).squeeze(2), None


class LateFusion(Pooled):
    """Every modality predicts alone; the logits are averaged with learnt weights over the present modalities."""

    offers = frozenset({"unimodal"})

    def _build(self) -> None:
        super()._build()
        self.alone = own_heads(self.outputs, self.modalities, self.width)
        self.heads = nn.ModuleDict()
        self.trust = nn.Parameter(torch.zeros(len(self.dims)))

    def named_axes(self) -> Named:
        return super().named_axes() | {"trust": {0: self.modalities}}

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        return x.flatten(1), shares(self.trust.expand(len(x), -1), present)

    def _predict(self, pooled: Tensor, summaries: Tensor, weights: Tensor | None) -> tuple[Logits, Logits]:
        assert weights is not None
        alone = apart(self.alone, summaries)
        return {t: (weights[..., None] * z).sum(dim=1) for t, z in alone.items()}, alone


def shares(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax of scores [B, E] over the present modalities; zero in a row without any."""
    low = scores.float().masked_fill(~present, torch.finfo(torch.float32).min)
    return torch.where(present, low.softmax(dim=1), 0.0).to(scores.dtype)


def own_heads(outputs: Mapping[str, int], modalities: Sequence[str], width: int) -> nn.ModuleDict:
    """Task -> a linear head per modality."""
    return nn.ModuleDict({t: nn.ModuleDict({s: nn.Linear(width, n) for s in modalities}) for t, n in outputs.items()})


def apart(heads: nn.ModuleDict, x: Tensor) -> dict[str, Tensor]:
    """Vectors [B, E, d] -> Task -> logits [B, E, C], each modality through its own head."""
    out = {}
    for t, own in heads.items():
        assert isinstance(own, nn.ModuleDict)
        out[t] = torch.stack([head(x[:, i]) for i, head in enumerate(own.values())], dim=1)
    return out
