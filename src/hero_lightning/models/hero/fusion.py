"""Fusion: the experts' evidence -> context tokens, and what explains them.

Data flow: Evidence -> token bank [B, K, d], global query [B, d] -> panoramic attention -> context [B, O, d] -> Fused.

Shapes: B rows, E experts, U segments of the token bank, K its tokens, O context tokens, d width.
Three classes with one interface: EvidenceIntegration (HERO's layer), ConcatFusion and MeanFusion (ablations).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hero_lightning.errors import one_of
from hero_lightning.models.base import Shape
from hero_lightning.models.hero.evidence import Evidence, TokenBank, build_bank
from hero_lightning.models.hero.query import AdaptiveQuery, Strategy
from hero_lightning.models.layers import EPS, Block, masked_mean
from hero_lightning.models.outputs import Fused

Source = Literal["qformer", "sequence"]


class Fusion(nn.Module):
    """Base of the fusions. `Hero` builds one from its shape and the names of its experts in canonical order.

    Args:
        pooled: P, width of `Fused.pooled`.
        source: token bank of query tokens (`qformer`) or of the full sequences (`sequence`).
        include_synergy: whether the token bank includes the synergy token.
    """

    def __init__(self, pooled: int, source: Source = "qformer", include_synergy: bool = False) -> None:
        super().__init__()
        one_of("model.fusion.source", source, ("qformer", "sequence"))
        self.pooled, self.source, self.include_synergy = pooled, source, include_synergy

    def bank(self, evidence: Evidence) -> TokenBank:
        """The token bank of this fusion."""
        return build_bank(evidence, self.source, self.include_synergy)

    def forward(self, evidence: Evidence) -> Fused:
        """Evidence of a batch -> context and explanation."""
        raise TypeError(f"{type(self).__name__} does not define forward")


class PanoramicAttention(nn.Module):
    """Context queries, to which the global query is added, attend to the whole token bank."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, shape.context_tokens, shape.width) * 0.02)
        self.lead = nn.Linear(shape.width, shape.width)
        self.block = Block(shape, ("cross", "self"))

    def forward(self, query: Tensor, bank: TokenBank) -> tuple[Tensor, Tensor]:
        """Global query [B, d] and token bank -> context [B, O, d] and attention [B, K] before dropout (sums to 1)."""
        start = self.queries + self.lead(query)[:, None]
        context, attention = self.block(start, bank.tokens, bank.mask, bank.bias, weights=True)
        return context, torch.where(bank.mask, attention.mean(dim=1), 0.0)


class EvidenceIntegration(Fusion):
    """HERO's integration layer: adaptive global query, then panoramic attention over the token bank.

    Linear heads read the mean context token and the global query: the query is the shorter path from the gate to the
    loss, the context holds the details.

    Args:
        shape: widths and depths.
        experts: names of the E experts in canonical order.
        source, include_synergy: see `Fusion`.
        strategy, temperature, learnable_temperature, top_k: see `query.AdaptiveQuery`.
    """

    def __init__(
        self,
        shape: Shape,
        experts: tuple[str, ...],
        source: Source = "qformer",
        include_synergy: bool = False,
        strategy: Strategy = "dynamic",
        temperature: float = 1.0,
        learnable_temperature: bool = False,
        top_k: int | None = None,
    ) -> None:
        super().__init__(2 * shape.width, source, include_synergy)
        self.query = AdaptiveQuery(shape, experts, strategy, temperature, learnable_temperature, top_k)
        self.panorama = PanoramicAttention(shape)

    def forward(self, evidence: Evidence) -> Fused:
        """Evidence of a batch -> context, gate, attention and importance."""
        bank = self.bank(evidence)
        query, gate = self.query(evidence)
        context, attention = self.panorama(query, bank)
        importance, sizes = bank.per_segment(attention), bank.per_segment(bank.mask)
        return Fused(
            context=context,
            pooled=torch.cat([context.mean(dim=1), query.to(context.dtype)], dim=1),
            gate=gate,
            global_query=query,
            attention=attention,
            segments=bank.segments,
            importance=importance,
            density=importance * bank.mask.sum(dim=1, keepdim=True) / sizes.clamp(min=1),
        )


class ConcatFusion(Fusion):
    """No integration layer: the token bank itself is the context, heads read all summaries side by side.

    Args:
        shape: width d, dropout before the heads.
        experts: names of the E experts in canonical order.
        source, include_synergy: see `Fusion`.
    """

    def __init__(
        self, shape: Shape, experts: tuple[str, ...], source: Source = "qformer", include_synergy: bool = True
    ) -> None:
        super().__init__(shape.width, source, include_synergy)
        self.experts, wide, width = experts, len(experts) * shape.width, shape.width
        norm = nn.LayerNorm(width, eps=EPS)
        self.merge = nn.Sequential(nn.Linear(wide, width), nn.GELU(), nn.Dropout(shape.dropout), norm)

    def named_axes(self) -> Mapping[str, Mapping[int, Sequence[str]]]:
        """See `FusionModel.named_axes`."""
        return {"merge.0.weight": {1: self.experts}}

    def forward(self, evidence: Evidence) -> Fused:
        """Evidence of a batch -> its token bank as context."""
        bank, pooled = self.bank(evidence), self.merge(evidence.summaries.flatten(1))
        return Fused(bank.tokens, pooled, evidence.shares, bank.mask, segments=bank.segments)


class MeanFusion(Fusion):
    """No integration layer and no slots: one token per expert as context, heads read their mean; no parameters."""

    def __init__(self, shape: Shape, experts: tuple[str, ...]) -> None:
        super().__init__(shape.width)

    def forward(self, evidence: Evidence) -> Fused:
        """Evidence of a batch -> its summaries as context."""
        pooled = masked_mean(evidence.summaries, evidence.shares)
        return Fused(evidence.summaries, pooled, evidence.shares, evidence.available)
