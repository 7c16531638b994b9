"""Baselines on HERO's loop: what a fusion model must beat, small and honest about missing modalities.

Data flow: Features by modality -> Standardise -> mean and spread over time -> one vector per modality
[B, E, d] -> fusion [B, P] -> one linear head per Task -> Outputs.

Shapes: B rows, E modalities, T steps, D feature width, d width, C outputs of a Task, P pooled width.
An absent modality is a learnt token or has no weight: what its rows hold changes nothing. docs/baselines.md names papers.
Each is a dataclass whose fields are its configuration; layers are made once, in the order base, `_build`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hero_lightning.errors import ConfigError
from hero_lightning.models.hero.experts import absent, check_width, size_of, statistics
from hero_lightning.models.layers import EPS, Standardise
from hero_lightning.models.outputs import Outputs
from hero_lightning.types import MODALITIES, Features

Steps = dict[str, tuple[Tensor, Tensor]]
"""Modality -> steps [B, T, D], zero where masked, and mask [B, T]; T >= 1."""
Mixed = tuple[Tensor, Tensor | None]
"""Pooled [B, P], and weights of the modalities [B, E] where there are such."""
Fused = tuple[Tensor, Tensor, Tensor | None]
"""Pooled [B, P], summaries [B, E, d], weights."""


@dataclass(eq=False, repr=False)
class Baseline(nn.Module):
    """Base: takes modalities in, standardises them, reads one linear head per Task.

    A subclass says in `_pooled` what the heads read, makes its layers in `_build` and writes `_fuse`.

    Attributes:
        dims: modality -> feature width.
        outputs: Task name -> number of outputs C.
        auxiliary_heads: what the auxiliary_losses need (`model.hero.AUXILIARY_HEADS`); refused where the model does not offer it.
        synergy: none has a synergy expert.
        offers: auxiliary_heads it can give.
    """

    dims: Mapping[str, int]
    outputs: Mapping[str, int]
    auxiliary_heads: Collection[str] = ()

    synergy: ClassVar[None] = None
    offers: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        super().__init__()
        self.dims = {s: self.dims[s] for s in MODALITIES if s in self.dims}
        self.outputs, self.modalities = dict(self.outputs), tuple(self.dims)
        if not set(self.auxiliary_heads) <= self.offers:
            expected = f"auxiliary_losses that need {' or '.join(self.offers) or 'no part of the model'}"
            hint = "loss@losses.sync=none loss@losses.unimodal=none"
            problem, got = "A baseline lacks what an auxiliary_loss requires.", self.auxiliary_heads
            raise ConfigError(problem, expected=expected, got=got, where="losses", hint=hint)
        self.norms = nn.ModuleDict({s: Standardise(d) for s, d in self.dims.items()})
        self.heads = nn.ModuleDict({t: nn.Linear(self._pooled(), n) for t, n in self.outputs.items()})
        self._build()

    def _pooled(self) -> int:
        """P, width of what the heads read."""
        return 1

    def _build(self) -> None:
        """Makes the layers of `_fuse`, where it has any."""

    def _fuse(self, steps: Steps, present: Tensor) -> Fused:
        """Standardised steps, present [B, E] -> Fused."""
        raise TypeError(f"{type(self).__name__} does not define _fuse")

    def forward(self, features: Mapping[str, Features], explain: bool = False) -> Outputs:
        """Features by modality -> predictions.

        Args:
            features: modality -> Features; a missing modality is absent in every row.
            explain: unused; there is nothing to explain beside the weights of the modalities.

        Raises:
            DataError: none of the model's modalities is given.
            FeatureError: a modality has another width than the model was built for.
        """
        steps = self._take(features)
        present = torch.stack([mask.any(dim=1) for _, mask in steps.values()], dim=1)
        pooled, summaries, weights = self._fuse(steps, present)
        return Outputs(
            logits={t: head(pooled) for t, head in self.heads.items()},
            experts=self.modalities,
            summaries=summaries,
            present=present,
            context=pooled[:, None],
            gate=weights,
            imputed=torch.zeros_like(present),
            confidence=present.float(),
        )

    def _take(self, features: Mapping[str, Features]) -> Steps:
        out: Steps = {}
        rows, device = size_of(features, self.modalities)
        for s, dim in self.dims.items():
            f = features.get(s)
            f = absent(rows, dim, device) if f is None or not f.x.shape[1] else f
            check_width(s, f, dim)
            out[s] = self.norms[s](f.x, f.mask), f.mask
        return out


class Majority(Baseline):
    """The best constant answer: class shares or mean score of the train split, learnt by the heads' biases."""

    def _fuse(self, steps: Steps, present: Tensor) -> Fused:
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

    def _fuse(self, steps: Steps, present: Tensor) -> Fused:
        seen = [torch.where(m.any(dim=1, keepdim=True), statistics(x, m), 0.0) for x, m in steps.values()]
        pooled = self.hidden(torch.cat([*seen, present.to(seen[0].dtype)], dim=1))
        return pooled, present.to(pooled.dtype)[..., None], None


@dataclass(eq=False, repr=False)
class Pooled(Baseline):
    """Base of those that fuse one vector per modality: statistics -> layer -> [B, E, d], learnt tokens where absent.

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

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        """Vectors [B, E, d] of the modalities, present [B, E] -> Mixed."""
        raise TypeError(f"{type(self).__name__} does not define _mix")

    def _fuse(self, steps: Steps, present: Tensor) -> Fused:
        seen = torch.stack([self.project[s](statistics(x, mask)) for s, (x, mask) in steps.items()], dim=1)
        x = torch.where(present[..., None], seen, self.missing.to(seen.dtype))
        pooled, weights = self._mix(x, present)
        return pooled, x, weights


class UtteranceAttention(Pooled):
    """MERBench's attention: all vectors together say how much each modality weighs (Lian et al. 2024)."""

    def _build(self) -> None:
        super()._build()
        n = len(self.dims)
        hidden = nn.Sequential(nn.Linear(n * self.width, self.width), nn.ReLU(), self.drop)
        self.score = nn.Sequential(hidden, nn.Linear(self.width, n))

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        weights = shares(self.score(x.flatten(1)), present)
        return (weights[..., None] * x).sum(dim=1), weights


class GatedFusion(Pooled):
    """Gated multimodal unit (Arevalo et al. 2017): every number of a modality's vector has a gate of its own."""

    def _build(self) -> None:
        super()._build()
        self.value = nn.ModuleList(nn.Linear(self.width, self.width) for _ in self.dims)
        self.gate = nn.Linear(len(self.dims) * self.width, len(self.dims) * self.width)

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        gates = self.gate(x.flatten(1)).sigmoid().unflatten(1, (len(self.dims), self.width))
        gates = gates * present[..., None].to(gates.dtype)
        values = torch.stack([f(x[:, i]).tanh() for i, f in enumerate(self.value)], dim=1)
        weights = gates.mean(dim=2)
        return (gates * values).sum(dim=1), weights / weights.sum(dim=1, keepdim=True).clamp(min=EPS)


@dataclass(eq=False, repr=False)
class LowRankFusion(Pooled):
    """Low-rank multimodal fusion (Liu et al. 2018): the outer product of all vectors through factors of rank `rank`."""

    rank: int = 4

    def _build(self) -> None:
        super()._build()
        size = self.rank * self.width
        self.factors = nn.ModuleList(nn.Linear(self.width, size) for _ in self.dims)  # the bias is the appended 1
        for factor in self.factors:
            assert isinstance(factor, nn.Linear)
            nn.init.ones_(factor.bias)  # a product of E small numbers would start at zero
        self.blend = nn.Linear(self.rank, 1)

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        product = torch.stack([f(x[:, i]) for i, f in enumerate(self.factors)], dim=1)  # [B, E, rank * d]
        product = torch.where(present[..., None], product, 1.0).prod(dim=1)
        return self.blend(product.unflatten(1, (-1, self.width)).transpose(1, 2)).squeeze(2), None


class LateFusion(Pooled):
    """Every modality predicts by itself; their logits are averaged with learnt weights over those that are there."""

    offers = frozenset({"unimodal"})

    def _build(self) -> None:
        super()._build()
        self.alone = own_heads(self.outputs, len(self.dims), self.width)
        self.heads = nn.ModuleDict()
        self.trust = nn.Parameter(torch.zeros(len(self.dims)))

    def _mix(self, x: Tensor, present: Tensor) -> Mixed:
        return x.flatten(1), shares(self.trust.expand(len(x), -1), present)

    def forward(self, features: Mapping[str, Features], explain: bool = False) -> Outputs:
        """See Baseline."""
        out = super().forward(features, explain)
        out.unimodal_logits = apart(self.alone, out.summaries)
        assert out.gate is not None
        out.logits = {t: (out.gate[..., None] * z).sum(dim=1) for t, z in out.unimodal_logits.items()}
        return out


def shares(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax of scores [B, E] over the modalities that are there; zero in a row that has none."""
    low = scores.float().masked_fill(~present, torch.finfo(torch.float32).min)
    return torch.where(present, low.softmax(dim=1), 0.0).to(scores.dtype)


def own_heads(outputs: Mapping[str, int], modalities: int, width: int) -> nn.ModuleDict:
    """Task -> a linear head per modality."""
    return nn.ModuleDict({t: nn.ModuleList(nn.Linear(width, n) for _ in range(modalities)) for t, n in outputs.items()})


def apart(heads: nn.ModuleDict, x: Tensor) -> dict[str, Tensor]:
    """Vectors [B, E, d] -> Task -> logits [B, E, C], each modality through its own head."""
    out = {}
    for t, own in heads.items():
        assert isinstance(own, nn.ModuleList)
        out[t] = torch.stack([head(x[:, i]) for i, head in enumerate(own)], dim=1)
    return out
