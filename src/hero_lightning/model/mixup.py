"""Mixup: training between clips, so that a model on few clips learns straight lines instead of the clips by heart.

Data flow: Features by stream, Batch -> mixed Features, a Batch with the partners' labels, share of the row's own clip.

Shapes: B rows, T steps, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hero_lightning.data.types import Batch, Features, Label
from hero_lightning.errors import ConfigError


class Mixup:
    """Mixes every clip of a batch with another one, features and loss alike (Zhang et al. 2018).

    x = s x_own + (1 - s) x_partner and loss = s loss(y_own) + (1 - s) loss(y_partner), with s from Beta(alpha, alpha),
    one draw per batch. s is mirrored to at least one half: no pair is changed by that, and a row stays nearer to
    its own clip.

    Args:
        alpha: of the Beta distribution; near 0 most mixtures are almost one clip, 1 draws evenly, 0 mixes nothing.
    """

    def __init__(self, alpha: float = 0.4) -> None:
        if not alpha >= 0:
            raise ConfigError("alpha is out of range.", expected=">= 0", got=alpha, where="mixup.alpha")
        self.alpha = alpha

    def __call__(self, features: Mapping[str, Features], batch: Batch) -> tuple[dict[str, Features], Batch, float]:
        """Mixed features, the batch with its partners' labels, and s; nothing is changed in place."""
        if not self.alpha:
            return dict(features), batch, 1.0
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        share = max(share, 1 - share)
        partner = torch.randperm(len(batch)).to(batch.index.device)
        labels = {name: Label(label.value[partner], label.mask[partner]) for name, label in batch.labels.items()}
        return {n: mixed(f, partner, share) for n, f in features.items()}, replace(batch, labels=labels), share


def mixed(own: Features, partner: Tensor, share: float) -> Features:
    """s x_own + (1 - s) x_partner at the steps both have; where one has none, the other's step as it is.

    Args:
        own: of B rows.
        partner: [B] row that each is mixed with.
        share: s.
    """
    x, mask = own.x[partner], own.mask[partner]
    both, alone = (own.mask & mask)[..., None], own.mask[..., None]
    time = own.time if own.time is None else torch.where(own.mask, own.time, own.time[partner])
    mean = torch.where(both, share * own.x + (1 - share) * x, torch.where(alone, own.x, x))
    return Features(mean, own.mask | mask, time)


def between(own: Mapping[str, Tensor], partner: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Loss terms of the same outputs against own and partner labels -> s own + (1 - s) partner, term by term."""
    return {name: share * term + (1 - share) * partner[name] for name, term in own.items()}
