"""Expert: one modality's Features -> query tokens, a summary and the projected sequence.

Data flow: Features [B, T, D] -> projection + LayerNorm -> sequence [B, T, d] -> (+ positions) Q-Former ->
tokens [B, Q, d] -> mean -> summary [B, d].

Shapes: B rows, T steps, D feature width, Q queries, d width. Masks are True = real.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hero_lightning.errors import in_range, one_of
from hero_lightning.models.base import Shape
from hero_lightning.models.hero.qformer import QFormer
from hero_lightning.models.layers import EPS, Positions, Standardise, statistics
from hero_lightning.types import MODALITIES, Features


@dataclass(frozen=True)
class ExpertOptions:
    """How experts read their features.

    Attributes:
        position: none, sinusoidal or learned step positions for the Q-Former.
        mlp: modalities projected by two layers instead of one (for hand-made features such as action units).
        stat_pooling: add mean and standard deviation over time to every token. A linear probe on them reads at once
            what a Q-Former learns slowly on a small dataset.
        standardise: bring every feature to mean 0 and standard deviation 1 of the train split first.
        feature_dropout: share of the features withheld from a clip in training, at all its steps; few clips with wide
            features (a few thousand by a few hundred) want 0.3 to 0.7.
    """

    position: Literal["none", "sinusoidal", "learned"] = "sinusoidal"
    mlp: Collection[str] = ("au",)
    stat_pooling: bool = True
    standardise: bool = False
    feature_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in self.mlp:
            one_of("model.mlp", name, MODALITIES)
        in_range("model.feature_dropout", self.feature_dropout, "[0, 1)")


@dataclass(slots=True)
class Observation:
    """An expert's reading of a batch.

    Attributes:
        tokens: [B, Q, d], zero where the modality is absent.
        summary: [B, d], mean of the tokens.
        sequence: [B, T, d] projected steps, T >= 1; meaningful where `mask`.
        mask: [B, T].
        time: [B, T] seconds, or None.
        attention: [B, Q, T] of the last cross-attention, on request.
    """

    tokens: Tensor
    summary: Tensor
    sequence: Tensor
    mask: Tensor
    time: Tensor | None
    attention: Tensor | None = None

    @property
    def present(self) -> Tensor:
        """[B] True where the modality has at least one real step."""
        return self.mask.any(dim=1)


class Expert(nn.Module):
    """Observes one modality.

    A row whose modality is absent reads one learnt "missing" token and its outputs are zeroed: nothing of the
    absent content can leak, no softmax is empty, and every parameter is in the graph at every step.

    Args:
        name: the modality.
        dim: feature width D.
        shape: widths and depths.
        options: how features are read.
    """

    def __init__(self, name: str, dim: int, shape: Shape, options: ExpertOptions) -> None:
        super().__init__()
        self.dim, self.feature_dropout, width = dim, options.feature_dropout, shape.width
        self.norm = Standardise(dim) if options.standardise else None
        deep = (nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width))
        self.project = nn.Sequential(*(deep if name in options.mlp else deep[:1]), nn.LayerNorm(width, eps=EPS))
        self.stat_pooling = (
            nn.Sequential(nn.Linear(2 * dim, width), nn.LayerNorm(width, eps=EPS)) if options.stat_pooling else None
        )
        self.positions = Positions(options.position, width)
        self.missing = nn.Parameter(torch.randn(width) * 0.02)
        self.qformer = QFormer(shape)

    def forward(self, features: Features, explain: bool = False) -> Observation:
        """Features of a batch, T >= 1 -> tokens, summary and sequence."""
        mask, present = features.mask, features.present
        # Padding may hold NaN, which a product with a zero mask would keep.
        x = torch.where(mask[..., None], features.x, 0.0).to(self.missing.dtype)
        x = x if self.norm is None else self.norm(x, mask)
        if self.training and self.feature_dropout:
            x = x * F.dropout(x.new_ones(len(x), 1, self.dim), self.feature_dropout)
        sequence = self.project(x)
        blank = ~present[:, None] & (torch.arange(x.shape[1], device=x.device) == 0)
        sequence = torch.where(blank[..., None], self.missing.to(sequence.dtype), sequence)
        tokens, attention = self.qformer(self.positions(sequence), mask | blank, weights=explain)
        if self.stat_pooling is not None:
            tokens = tokens + self.stat_pooling(statistics(x, mask))[:, None]
        tokens = torch.where(present[:, None, None], tokens, 0.0)
        return Observation(tokens, tokens.mean(dim=1), sequence, mask, features.time, attention)
