"""The Encoder contract: raw material of one clip -> encoder inputs (worker) -> Features (device).

Data flow: media.Frames | media.Waveform | media.Words | media.Table --preprocess (worker, one clip)--> dict of tensors
--collate--> batch of tensors --forward (device)--> Features.

Shapes: B clips, T steps, D = `dim`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hero_lightning.data.types import Features, pad

Material = Literal["frames", "audio", "text", "table"]


class Encoder(nn.Module):
    """Turns raw material of one stream into a sequence of feature vectors.

    A subclass sets `takes` (which raw material it reads) and `dim`, and writes `preprocess` and `forward`.
    A frozen encoder stays in eval mode whatever its owner does and runs without gradients; `trainable=True` says
    that some of its parameters learn, so its features must not be stored.

    Attributes:
        takes: raw material it reads: frames, audio, text or table.
        dim: width D of its features.
        trainable: whether it owns parameters that learn.
        alone: True if clips must be encoded one by one (group-norm audio models change with padding).
    """

    takes: ClassVar[Material]
    alone: ClassVar[bool] = False
    dim: int
    trainable: bool = False

    def preprocess(self, material: Any) -> dict[str, Tensor]:
        """One clip's raw material -> encoder inputs without a batch axis. Runs in the loader's worker."""
        raise TypeError(f"{type(self).__name__} does not define preprocess")

    def collate(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pads each input to the longest clip; the mask of input `k` is `k_mask` [B, T]."""
        out: dict[str, Tensor] = {}
        for key in rows[0]:
            out[key], out[f"{key}_mask"] = pad([r[key] for r in rows])
        return out

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Collated inputs -> Features [B, T, dim]."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def encode(self, inputs: dict[str, Tensor]) -> Features:
        """`forward`, without gradients where the encoder is frozen."""
        if self.trainable:
            return self(inputs)
        with torch.no_grad():
            return self(inputs)

    def train(self, mode: bool = True) -> Encoder:
        """A frozen encoder stays in eval mode: its dropout and statistics are not the model's to switch."""
        return super().train(mode and self.trainable)
