"""Augmentation in training: modality dropout and mixup.

Data flow: Features by modality -> some rows of some modalities absent -> mixed with other clips of the batch -> model.

Shapes: B rows, U modalities, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hero_lightning.errors import in_range
from hero_lightning.types import Batch, Features, Label


class ModalityDropout:
    """Withholds each present modality of each row with a probability that grows with the epoch.

    A row keeps at least one of the modalities it has.

    Args:
        start: probability in the first epoch.
        end: probability from `ramp_epochs` on.
        ramp_epochs: epochs in which it grows, linearly.
    """

    def __init__(self, start: float = 0.0, end: float = 0.3, ramp_epochs: int = 5) -> None:
        in_range("modality_dropout.start", start, "[0, 1]")
        in_range("modality_dropout.end", end, "[0, 1]")
        in_range("modality_dropout.ramp_epochs", ramp_epochs, "[0, 1000]")
        self.start, self.end, self.ramp_epochs = start, end, ramp_epochs

    def probability(self, epoch: int) -> float:
        """Probability that a modality is withheld in this epoch."""
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
    """Draws the modalities that stay.

    Args:
        present: [B, U].
        chance: [B, U] uniform numbers from 0 to 1.
        p: probability of being withheld.

    Returns:
        [B, U] True = stays; of the modalities a row has, the one with the greatest chance always does.
    """
    best = torch.where(present, chance, -1.0).argmax(dim=1)
    return (chance >= p) | (torch.arange(present.shape[1], device=present.device) == best[:, None])


class Mixup:
    """Mixes every clip of a batch with another one, features and loss alike (Zhang et al. 2018).

    x = s x_own + (1 - s) x_partner and loss = s loss(y_own) + (1 - s) loss(y_partner), with s from Beta(alpha, alpha),
    one draw per batch. s is mirrored to at least one half: the pairs stay, and a row stays nearer to its own clip.

    Args:
        alpha: of the Beta distribution; near 0 most mixtures are almost one clip, 1 draws evenly, 0 turns it off.
    """

    def __init__(self, alpha: float = 0.4) -> None:
        in_range("mixup.alpha", alpha, "[0, inf)")
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


def between(own: Mapping[str, Tensor], partner: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Loss terms of the same outputs against own and partner labels -> s own + (1 - s) partner, term by term."""
    return {name: share * term + (1 - share) * partner[name] for name, term in own.items()}


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


@dataclass(frozen=True)
class Augmentation:
    """Modality dropout, then mixup; None = off."""

    modality_dropout: ModalityDropout | None = None
    mixup: Mixup | None = None

    def withholds(self, epoch: int) -> bool:
        """Whether modalities may be withheld in this epoch."""
        return self.modality_dropout is not None and self.modality_dropout.probability(epoch) > 0

    def __call__(
        self, features: dict[str, Features], batch: Batch, epoch: int
    ) -> tuple[dict[str, Features], Batch, float]:
        """Features, batch with the labels of the partners, and share s of the own clip (1 without mixup)."""
        if self.modality_dropout is not None:
            features = self.modality_dropout(features, epoch)
        return (features, batch, 1.0) if self.mixup is None else self.mixup(features, batch)
