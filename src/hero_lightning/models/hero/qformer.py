"""Q-Former: a fixed number of learnt queries reads a sequence of any length (Li et al. 2023, BLIP-2).

Data flow: sequence [B, T, d] + mask -> learnt queries attend to each other and to it, layer by layer -> [B, Q, d].

Shapes: B rows, T steps, Q queries, d width. Masks are True = real.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hero_lightning.models.base import Shape
from hero_lightning.models.layers import EPS, Block


class QFormer(nn.Module):
    """Learnt queries over a sequence; each block has self-attention, cross-attention and feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, shape.queries, shape.width) * 0.02)
        self.enter = nn.LayerNorm(shape.width, eps=EPS)
        self.drop = nn.Dropout(shape.dropout)
        self.layers = nn.ModuleList(Block(shape, ("self", "cross")) for _ in range(shape.layers))
        self.leave = nn.LayerNorm(shape.width, eps=EPS)

    def forward(self, memory: Tensor, mask: Tensor, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Reads the sequence.

        Args:
            memory: [B, T, d].
            mask: [B, T]; every row has at least one True.
            weights: return the last layer's cross-attention.

        Returns:
            [B, Q, d] and, on request, [B, Q, T].
        """
        # [1, Q, d] until the first cross-attention: before it every row has the same queries, so they attend to each
        # other once per batch (and share their dropout there)
        x = self.drop(self.enter(self.queries))
        seen: Tensor | None = None
        for i, layer in enumerate(self.layers):
            x, seen = layer(x, memory, mask, weights=weights and i == len(self.layers) - 1)
        return self.leave(x), seen
