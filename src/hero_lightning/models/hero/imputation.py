"""Evidence imputation: what would a missing expert have said, judging by the others, and how sure is that?

Data flow: summaries [B, E, d] + present [B, E] -> transformer over the present experts -> inferred [B, E, d],
confidence [B, E].

Shapes: B rows, E experts, d width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hero_lightning.models.layers import EPS, Block


class EvidenceImputation(nn.Module):
    """Infers summaries per sample (`spec/hero.md` 3.5).

    It proposes a summary for every slot of every row, so that its parameters are in the graph at every step; the
    caller takes those of the missing slots. Nothing is changed in place.

    Args:
        width: d.
        experts: E.
        layers: transformer blocks.
        num_heads: attention heads.
        dropout: of the blocks and the output layer.
    """

    def __init__(self, width: int, experts: int, layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(1, experts, width) * 0.02)
        self.layers = nn.ModuleList(Block(width, num_heads, dropout, ("self",)) for _ in range(layers))
        self.infer = nn.Sequential(
            nn.Linear(width, width),
            nn.LayerNorm(width, eps=EPS),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width, eps=EPS),
        )
        self.sure = nn.Sequential(nn.Linear(width, max(width // 4, 1)), nn.GELU(), nn.Linear(max(width // 4, 1), 1))

    def forward(self, summaries: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Summaries and who is present -> inferred summaries [B, E, d] and their confidence [B, E] in (0, 1)."""
        c = summaries + self.slots.to(summaries.dtype)
        for layer in self.layers:
            c, _ = layer(c, mask=present)
        # [B, E, E]: how much slot j borrows from present expert i
        score = (self.slots @ c.transpose(1, 2)).float() / math.sqrt(c.shape[-1])
        borrow = score.masked_fill(~present[:, None], torch.finfo(score.dtype).min).softmax(dim=-1)
        inferred = self.infer(self.slots + borrow.to(c.dtype) @ c)
        return inferred, self.sure(inferred).squeeze(-1).float().sigmoid()
