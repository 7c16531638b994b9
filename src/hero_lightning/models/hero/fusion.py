"""Fusion: the experts' evidence -> context tokens, and what explains them.

Data flow: Evidence -> token bank [B, K, d], global query [B, d] -> panoramic attention -> context [B, O, d] -> Fused.

Shapes: B rows, E experts, U segments of the token bank, K its tokens, O context tokens, d width.
Three of one interface: EvidenceIntegration (HERO's layer), ConcatFusion and MeanFusion (the ablations without it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hero_lightning.errors import ConfigError
from hero_lightning.models.hero.evidence import Evidence, TokenBank, build_bank
from hero_lightning.models.hero.query import AdaptiveQuery, Strategy
from hero_lightning.models.layers import EPS, Block, masked_mean


@dataclass(slots=True)
class Fused:
    """What a fusion returns; the names are those of `outputs.Outputs`.

    Attributes:
        context: [B, O, d].
        pooled: [B, P], what linear heads read; P is `Fusion.pooled`.
        gate: [B, E].
        context_mask: [B, O], or None.
        global_query: [B, d], or None.
        attention: [B, K], or None.
        segments: of the token bank.
        importance: [B, U], or None.
        density: [B, U], or None.
    """

    context: Tensor
    pooled: Tensor
    gate: Tensor
    context_mask: Tensor | None = None
    global_query: Tensor | None = None
    attention: Tensor | None = None
    segments: tuple[tuple[str, int, int], ...] = ()
    importance: Tensor | None = None
    density: Tensor | None = None


class Fusion(nn.Module):
    """Base of the fusions. `model.hero.Hero` builds one with width, experts, num_heads, dropout and context_tokens.

    Args:
        pooled: P, width of `Fused.pooled`.
        source: token bank of query tokens (`qformer`) or of the full sequences (`sequence`).
        include_synergy: whether the synergy token joins the token bank.
    """

    def __init__(
        self, pooled: int, source: Literal["qformer", "sequence"] = "qformer", include_synergy: bool = False
    ) -> None:
        super().__init__()
        if source not in ("qformer", "sequence"):
            raise ConfigError(
                "Unknown token bank source.", expected="qformer or sequence", got=source, where="model.fusion.source"
            )
        self.pooled = pooled
        self.source = source
        self.include_synergy = include_synergy

    def bank(self, evidence: Evidence) -> TokenBank:
        """The token bank this fusion looks at."""
        return build_bank(evidence, self.source, self.include_synergy)

    def forward(self, evidence: Evidence) -> Fused:
        """Evidence of a batch -> context and explanation."""
        raise TypeError(f"{type(self).__name__} does not define forward")


class PanoramicAttention(nn.Module):
    """Context queries, led by the global query, look at the whole token bank (`spec/hero.md` 3.3).

    Args:
        width: d.
        context_tokens: O.
        num_heads: attention heads.
        dropout: of the block.
    """

    def __init__(self, width: int, context_tokens: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, context_tokens, width) * 0.02)
        self.lead = nn.Linear(width, width)
        self.block = Block(width, num_heads, dropout, ("cross", "self"))

    def forward(self, query: Tensor, bank: TokenBank) -> tuple[Tensor, Tensor]:
        """Global query [B, d] and token bank -> context [B, O, d] and attention [B, K] before dropout (sums to 1)."""
        start = self.queries + self.lead(query)[:, None]
        context, attention = self.block(start, bank.tokens, bank.mask, bank.bias, weights=True)
        return context, torch.where(bank.mask, attention.mean(dim=1), 0.0)


class EvidenceIntegration(Fusion):
    """HERO's integration layer: adaptive global query, then panoramic attention over the token bank.

    Linear heads read the mean context token beside the global query: the query is the shorter way from the gate to
    the loss, the context holds the details.

    Args:
        width: d.
        experts: names of the E experts in canonical order.
        num_heads: attention heads.
        dropout: of its layers.
        context_tokens: O.
        source: token bank of query tokens (`qformer`) or of the full sequences (`sequence`).
        include_synergy: whether the synergy token joins the token bank.
        strategy: dynamic, audio or concat; with the next three, see `query.AdaptiveQuery`.
        temperature: of the dynamic gate.
        learnable_temperature: learn it.
        top_k: how many experts pass the dynamic gate; None = all.
    """

    def __init__(
        self,
        *,
        width: int,
        experts: tuple[str, ...],
        num_heads: int,
        dropout: float,
        context_tokens: int,
        source: Literal["qformer", "sequence"] = "qformer",
        include_synergy: bool = False,
        strategy: Strategy = "dynamic",
        temperature: float = 1.0,
        learnable_temperature: bool = False,
        top_k: int | None = None,
    ) -> None:
        super().__init__(2 * width, source, include_synergy)
        self.query = AdaptiveQuery(
            width, experts, num_heads, dropout, strategy, temperature, learnable_temperature, top_k
        )
        self.panorama = PanoramicAttention(width, context_tokens, num_heads, dropout)

    def forward(self, evidence: Evidence) -> Fused:
        """Evidence of a batch -> context, gate, attention and importance."""
        bank = self.bank(evidence)
        query, gate = self.query(evidence)
        context, attention = self.panorama(query, bank)
        importance = bank.per_segment(attention)
        sizes = bank.per_segment(bank.mask)
        density = importance * bank.mask.sum(dim=1, keepdim=True) / sizes.clamp(min=1)
        return Fused(
            context=context,
            pooled=torch.cat([context.mean(dim=1), query.to(context.dtype)], dim=1),
            gate=gate,
            global_query=query,
            attention=attention,
            segments=bank.segments,
            importance=importance,
            density=density,
        )


def _even(evidence: Evidence) -> Tensor:
    """Gate weights of a fusion without a gate: [B, E] in proportion to confidence."""
    return evidence.confidence / evidence.confidence.sum(dim=1, keepdim=True).clamp(min=EPS)


class ConcatFusion(Fusion):
    """No integration layer: the token bank itself is the context, heads read all summaries side by side.

    Args:
        width: d.
        experts: names of the E experts in canonical order.
        num_heads: unused, as `context_tokens`: the context is as long as the token bank.
        dropout: before the heads.
        context_tokens: unused.
        source: token bank of query tokens (`qformer`) or of the full sequences (`sequence`).
        include_synergy: whether the synergy token joins the token bank.
    """

    def __init__(
        self,
        *,
        width: int,
        experts: tuple[str, ...],
        num_heads: int,
        dropout: float,
        context_tokens: int,
        source: Literal["qformer", "sequence"] = "qformer",
        include_synergy: bool = True,
    ) -> None:
        super().__init__(width, source, include_synergy)
        self.merge = nn.Sequential(
            nn.Linear(len(experts) * width, width), nn.GELU(), nn.Dropout(dropout), nn.LayerNorm(width, eps=EPS)
        )

    def forward(self, evidence: Evidence) -> Fused:
        """Evidence of a batch -> its token bank as context."""
        bank = self.bank(evidence)
        return Fused(
            context=bank.tokens,
            pooled=self.merge(evidence.summaries.flatten(1)),
            gate=_even(evidence),
            context_mask=bank.mask,
            segments=bank.segments,
        )


class MeanFusion(Fusion):
    """No integration layer and no slots: one token per expert as context, heads read their mean.

    Args:
        width: d.
        experts: unused, as the rest: a mean has no parameters.
        num_heads: unused.
        dropout: unused.
        context_tokens: unused.
    """

    def __init__(
        self, *, width: int, experts: tuple[str, ...], num_heads: int, dropout: float, context_tokens: int
    ) -> None:
        super().__init__(width)

    def forward(self, evidence: Evidence) -> Fused:
        """Evidence of a batch -> its summaries as context."""
        gate = _even(evidence)
        return Fused(
            context=evidence.summaries,
            pooled=masked_mean(evidence.summaries, gate),
            gate=gate,
            context_mask=evidence.available,
        )
