"""Random encoders for tests: a few numbers per step and one seeded linear layer.

Shapes: B clips, T steps, C numbers per step, D = `dim`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from hero_lightning.encoders.base import Encoder, Material
from hero_lightning.media.types import Frames, Utterance, Waveform
from hero_lightning.types import Features


class _Tiny(Encoder):
    """One linear layer with weights from a seed."""

    channels: ClassVar[int]
    linear: nn.Linear

    def __init__(self, dim: int = 16, trainable: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.dim, self.trainable, self.seed = dim, trainable, seed
        self.options.update(dim=dim, seed=seed)

    def load(self) -> None:
        """Makes the layer without a change of the global random state."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.linear = nn.Linear(self.channels, self.dim)

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """x [B, T, C] -> Features [B, T, D]."""
        return Features(self.linear(inputs["x"]), inputs["x_mask"], inputs.get("time"))


class TinyFrames(_Tiny):
    """Mean colour of each quarter of a picture."""

    takes: ClassVar[Material] = "frames"
    channels = 12

    def preprocess(self, material: Frames) -> dict[str, Tensor]:
        """Frames -> x [T, 12], time [T]."""
        pixels = material.pixels.permute(0, 3, 1, 2).float() / 255
        return {"x": nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1), "time": material.time.float()}


class TinyAudio(_Tiny):
    """Level and roughness, ten steps per second."""

    takes: ClassVar[Material] = "audio"
    channels = 2

    def preprocess(self, material: Waveform) -> dict[str, Tensor]:
        """Waveform -> x [T, 2], time [T]."""
        step = material.rate // 10
        x = nn.functional.pad(material.x, (0, -len(material.x) % step)).view(-1, step)  # [T, samples]
        values = torch.stack([x.square().mean(dim=1), x.diff(dim=1).square().mean(dim=1)], dim=1).sqrt()
        return {"x": values, "time": (torch.arange(len(x)) + 0.5) / 10}


class TinyText(_Tiny):
    """Length and first letter of each word, previous turns first."""

    takes: ClassVar[Material] = "text"
    channels = 2

    def preprocess(self, material: Utterance) -> dict[str, Tensor]:
        """Utterance -> x [T, 2]."""
        words = " ".join([*(t.text for t in material.turns), material.text]).split() or ["-"]
        return {"x": torch.tensor([[len(w) / 8, (ord(w[0]) % 32) / 32] for w in words])}
