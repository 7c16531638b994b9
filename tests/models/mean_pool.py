"""The smallest model that trains through the command line: what a new model has to define."""

from __future__ import annotations

import torch
from torch import nn

from hero_lightning.models.base import FusionModel
from hero_lightning.models.layers import masked_mean
from hero_lightning.models.outputs import Fused, Outputs


class MeanPool(FusionModel):
    """Mean over time and modalities, then a linear head per Task."""

    def __init__(self, dims, outputs, auxiliary_heads=(), size=8):
        super().__init__(dims, outputs, auxiliary_heads)
        self.project = nn.ModuleDict({s: nn.Linear(d, size) for s, d in self.dims.items()})
        self.heads = nn.ModuleDict({t: nn.Linear(size, n) for t, n in self.outputs.items()})

    def forward(self, features, explain=False, items=None):
        seen = self.complete(features)
        summaries = torch.stack([self.project[s](masked_mean(f.x, f.mask)) for s, f in seen.items()], dim=1)
        present = torch.stack([f.present for f in seen.values()], dim=1)
        pooled = masked_mean(summaries, present)
        return Outputs(
            logits={t: head(pooled) for t, head in self.heads.items()},
            experts=self.modalities,
            summaries=summaries,
            present=present,
            fused=Fused(context=pooled[:, None], pooled=pooled),
        )
