"""Teacher: the outputs of clips with no modality withheld, for losses that compare the model under dropout with them.

Data flow: Features before modality dropout -> the model in eval mode, or the moving average of its weights -> Outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from hero_lightning.errors import in_range
from hero_lightning.models.base import FusionModel
from hero_lightning.models.outputs import Outputs
from hero_lightning.types import Features


class Teacher:
    """The model itself, or the exponential moving average of its weights (Tarvainen & Valpola 2017).

    Args:
        decay: share of the average that stays at each step; 0 = the model itself.
    """

    def __init__(self, decay: float = 0.0) -> None:
        in_range("losses.*.teacher.decay", decay, "[0, 1)")
        self.decay = decay
        self.average: FusionModel | None = None
        self._restored: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self, model: FusionModel, features: Mapping[str, Features], items: tuple[Tensor, Tensor] | None
    ) -> Outputs:
        """Outputs of the clips, without dropout and gradients; moves the average first."""
        network = self._averaged(model) if self.decay else model
        training = model.training
        network.eval()
        out: Outputs = network(features, items=items)
        model.train(training)
        return out

    def _averaged(self, model: FusionModel) -> FusionModel:
        if self.average is None:
            self.average = copy.deepcopy(model).requires_grad_(False)
            if self._restored:
                self.average.load_state_dict(self._restored)
        for own, now in zip(self.average.parameters(), model.parameters(), strict=True):
            own.lerp_(now, 1 - self.decay)
        for kept, buffer in zip(self.average.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        return self.average

    def state(self) -> dict[str, Tensor]:
        """The weights of the moving average; empty before the first step, and where the model itself teaches."""
        return self._restored if self.average is None else self.average.state_dict()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from the weights of a checkpoint."""
        self.average, self._restored = None, state
