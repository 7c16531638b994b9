"""The Encoder contract: raw material of one clip -> encoder inputs (worker) -> Features (device).

Data flow: Frames | Waveform | Utterance | ActionUnits --preprocess (worker, one clip)--> dict of tensors --collate-->
batch of tensors --forward (device)--> Features.

Shapes: B clips, T steps, D = `dim`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hero_lightning.types import Features, pad

Material = Literal["frames", "audio", "text", "table"]


class Encoder(nn.Module):
    """Turns raw material of one modality into a sequence of feature vectors.

    A subclass sets `takes` (which raw material it reads), `dim` and `options`, and implements `preprocess` and
    `forward`. The constructor only checks its values, so that an encoder is cheap to pickle for the loader's workers,
    which call `preprocess`; `load` reads the weights that `forward` needs. A frozen encoder always stays in eval mode
    and runs without gradients; `trainable=True` means that some of its parameters learn, so that its features must
    not be stored.

    Attributes:
        takes: raw material it reads: frames, audio, text or table.
        version: raised when the code changes the features of the same options, so that they are extracted again.
        dim: width D of its features.
        trainable: whether it owns parameters that learn.
        options: constructor values that determine the features, as builtins.
    """

    takes: ClassVar[Material]
    version: ClassVar[int] = 1
    dim: int
    trainable: bool = False
    options: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.options = {}

    def identity(self) -> dict[str, Any]:
        """All that determines the features: class, code version and options, as builtins."""
        return {"class": type(self).__name__, "version": self.version, **self.options}

    def load(self) -> None:
        """Builds or reads the weights, if there are any; called once, in the process that calls `forward`."""

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
        """Collated inputs -> Features [B, T, dim]; real steps come first, padding last."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def encode(self, inputs: dict[str, Tensor]) -> Features:
        """`forward`, without gradients where the encoder is frozen."""
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            return self(inputs)

    def train(self, mode: bool = True) -> Encoder:
        """Sets the mode; a frozen encoder stays in eval mode, without dropout."""
        return super().train(mode and self.trainable)


def per_step(x: Tensor, mask: Tensor, formula: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies a formula per step to the real steps only: x [B, T, ...], mask [B, T] -> [B, T, D], 0 elsewhere."""
    values = formula(x[mask])  # [N, D]
    out = values.new_zeros(*mask.shape, values.shape[1])
    out[mask] = values
    return out


def averaged(x: Tensor, steps: int) -> Tensor:
    """[T, C] -> the same if T <= `steps`, else the means of `steps` equal intervals [steps, C]."""
    return x if len(x) <= steps else F.adaptive_avg_pool1d(x.T[None], steps)[0].T
