"""Stream dropout: whole streams are withheld while training, so that no expert rests on the others.

Data flow: Features by stream -> the same, some rows of some streams absent -> model.

Shapes: B rows, U streams, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hero_lightning.data.types import Features
from hero_lightning.errors import ConfigError


class StreamDropout:
    """Withholds each present stream of each row with a probability that grows with the epoch (`spec/hero.md` 3.4).

    A row keeps at least one of the streams it has.

    Args:
        start: probability in the first epoch.
        end: probability from `ramp_epochs` on.
        ramp_epochs: epochs in which it grows, linearly.
    """

    def __init__(self, start: float = 0.0, end: float = 0.3, ramp_epochs: int = 5) -> None:
        for key, value, most in (("start", start, 1), ("end", end, 1), ("ramp_epochs", ramp_epochs, 1000)):
            if not 0 <= value <= most:
                where = f"stream_dropout.{key}"
                raise ConfigError(f"{key} is out of range.", expected=f"0..{most}", got=value, where=where)
        self.start, self.end, self.ramp_epochs = start, end, ramp_epochs

    def probability(self, epoch: int) -> float:
        """Of withholding a stream in this epoch."""
        return self.start + (self.end - self.start) * min(1.0, epoch / max(1, self.ramp_epochs))

    def __call__(self, features: Mapping[str, Features], epoch: int) -> dict[str, Features]:
        """Features with some rows absent; nothing is changed in place."""
        p = self.probability(epoch)
        if p == 0 or len(features) < 2:
            return dict(features)
        present = torch.stack([f.present for f in features.values()], dim=1)  # [B, U]
        keep = keep_one(present, torch.rand(present.shape, device=present.device), p)
        return {name: Features(f.x, f.mask & keep[:, i, None], f.time) for i, (name, f) in enumerate(features.items())}


def keep_one(present: Tensor, chance: Tensor, p: float) -> Tensor:
    """Which streams stay.

    Args:
        present: [B, U].
        chance: [B, U] uniform numbers from 0 to 1.
        p: probability of being withheld.

    Returns:
        [B, U] True = stays; of the streams a row has, the one with the greatest chance always does.
    """
    best = torch.where(present, chance, -1.0).argmax(dim=1)
    return (chance >= p) | (torch.arange(present.shape[1], device=present.device) == best[:, None])
