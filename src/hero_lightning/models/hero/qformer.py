"""Q-Former: a fixed number of learnt queries reads a sequence of any length.

Data flow: sequence [B, T, d] + mask -> learnt queries attend to each other and to it, layer by layer -> [B, Q, d].

Shapes: B rows, T steps, Q queries, d width. Masks are True = real.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hero_lightning.models.layers import EPS, Block


class QFormer(nn.Module):
    """Learnt queries over a sequence (`spec/hero.md` 2.2).

    Args:
        width: d.
        queries: Q.
        layers: blocks of self-attention, cross-attention and feed-forward.
        num_heads: attention heads.
        dropout: in every block and on the queries.
    """

    def __init__(self, width: int, queries: int, layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, width) * 0.02)
        self.enter = nn.LayerNorm(width, eps=EPS)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Block(width, num_heads, dropout, ("self", "cross")) for _ in range(layers))
        self.leave = nn.LayerNorm(width, eps=EPS)

    def forward(self, memory: Tensor, mask: Tensor, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Reads the sequence.

        Args:
            memory: [B, T, d].
            mask: [B, T]; every row has at least one True.
            weights: return the last layer's cross-attention.

        Returns:
            [B, Q, d] and, if asked for, [B, Q, T].
        """
        # [1, Q, d] until the first cross-attention: before it every row has the same queries, so they attend to each
        # other once per batch (and share their dropout there)
        x = self.drop(self.enter(self.queries))
        seen: Tensor | None = None
        for i, layer in enumerate(self.layers):
            x, seen = layer(x, memory, mask, weights=weights and i == len(self.layers) - 1)
        return self.leave(x), seen
