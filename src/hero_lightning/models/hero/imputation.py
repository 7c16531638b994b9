"""Evidence imputation: infers the summary of a missing expert from the others, with a confidence.

Data flow: summaries [B, E, d] + present [B, E] -> transformer over the present experts -> inferred [B, E, d],
confidence [B, E].

Shapes: B rows, E experts, d width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hero_lightning.models.base import Shape
from hero_lightning.models.layers import EPS, Block


class EvidenceImputation(nn.Module):
    """Infers summaries per sample.

    It infers a summary for every slot of every row, so that its parameters are in the graph at every step; the
    caller uses those of the missing slots. Nothing is changed in place.

    Args:
        shape: width d, heads, dropout of the blocks and the output layer.
        experts: names of the E experts.
        layers: transformer blocks.
    """

    def __init__(self, shape: Shape, experts: Sequence[str], layers: int = 2) -> None:
        super().__init__()
        self.experts, width = tuple(experts), shape.width
        self.slots = nn.Parameter(torch.randn(1, len(experts), width) * 0.02)
        self.layers = nn.ModuleList(Block(shape, ("self",)) for _ in range(layers))
        self.infer = nn.Sequential(
            nn.Linear(width, width),
            nn.LayerNorm(width, eps=EPS),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width, eps=EPS),
        )
        self.sure = nn.Sequential(nn.Linear(width, max(width // 4, 1)), nn.GELU(), nn.Linear(max(width // 4, 1), 1))

    def named_axes(self) -> Mapping[str, Mapping[int, Sequence[str]]]:
        """See `FusionModel.named_axes`."""
        return {"slots": {1: self.experts}}

    def forward(self, summaries: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Summaries and `present` -> inferred summaries [B, E, d] and their confidence [B, E] in (0, 1)."""
        c = summaries + self.slots.to(summaries.dtype)
        for layer in self.layers:
            c, _ = layer(c, mask=present)
        # [B, E, E]: attention of slot j to present expert i
        score = (self.slots @ c.transpose(1, 2)).float() / math.sqrt(c.shape[-1])
        attention = score.masked_fill(~present[:, None], torch.finfo(score.dtype).min).softmax(dim=-1)
        inferred = self.infer(self.slots + attention.to(c.dtype) @ c)
        return inferred, self.sure(inferred).squeeze(-1).float().sigmoid()
