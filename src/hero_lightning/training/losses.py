"""Auxiliary losses: named loss terms beside the Tasks' own losses.

Data flow: Outputs + Batch (+ the model, for a second look) -> scalar; the training step sums weight * auxiliary_loss.

Shapes: B rows, E experts, U modalities, C outputs of a Task, N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.errors import ConfigError
from hero_lightning.models.baselines.sequence import MultiTask
from hero_lightning.models.hero.evidence import SYNERGY
from hero_lightning.models.hero.hero import Hero
from hero_lightning.models.outputs import Outputs
from hero_lightning.types import Batch, Label


class AuxiliaryLoss:
    """One loss term.

    Args:
        weight: its factor in the sum; 0 skips the computation.

    Attributes:
        requires: auxiliary_heads of the model it reads (`model.hero.AUXILIARY_HEADS`).
    """

    requires: ClassVar[tuple[str, ...]] = ()

    def __init__(self, weight: float) -> None:
        if not weight >= 0:
            raise ConfigError(
                "An auxiliary_loss's weight is out of range.",
                expected=">= 0",
                got=weight,
                where=f"auxiliary_loss.{type(self).__name__}",
            )
        self.weight = float(weight)

    def __call__(self, outputs: Outputs, batch: Batch, model: Hero) -> Tensor:
        """The unweighted loss; zero without any work where the weight is 0."""
        return self.loss(outputs, batch, model) if self.weight else outputs.context.new_zeros(())

    def loss(self, outputs: Outputs, batch: Batch, model: Hero) -> Tensor:
        """The loss of a batch; exactly zero, yet connected to the graph, where no row has anything to say."""
        raise TypeError(f"{type(self).__name__} does not define loss")


def _share(value: float, key: str) -> float:
    """A setting between 0 and 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{key} is out of range.", expected="0 ... 1", got=value, where=f"auxiliary_loss.{key}")
    return value


class Sync(AuxiliaryLoss):
    """Does this sound belong to this movement? Binary, positive = match (`spec/hero.md` 5.4).

    Every row with both modalities gives one positive (its own pair) and one negative: the next sound of the batch that
    comes from another clip and item, or its own sound rotated by more than a quarter of its length. Rows that find no
    negative give no positive either, and clips whose modalities are known to conflict are left out: their own pair is no
    match.

    Args:
        weight: of the term.
        shifted: share of the negatives made by rotation even where another clip is at hand.
    """

    requires = ("sync",)
    shortest: ClassVar[int] = 4
    """Steps both modalities need before a rotation is told from the original."""

    def __init__(self, weight: float = 0.5, shifted: float = 0.0) -> None:
        super().__init__(weight)
        self.shifted = _share(shifted, "sync.shifted")

    def loss(self, outputs: Outputs, batch: Batch, model: Hero) -> Tensor:
        """Binary cross-entropy over as many matches as mismatches; zero without a synergy expert."""
        if outputs.sync_logit is None or model.synergy is None:
            return outputs.context.sum() * 0.0
        (_, sound), (_, movement) = (outputs.sequences[s] for s in model.pair)
        both = outputs.present[:, outputs.experts.index(SYNERGY)]
        conflict = torch.tensor([bool(s.truth.get("conflict")) for s in batch.samples], device=both.device)
        donors, found = partners(batch.ids, batch.group.to(both.device), sound.any(dim=1))
        long = (sound.sum(dim=1) >= self.shortest) & (movement.sum(dim=1) >= self.shortest)
        rotate = long & (~found | (torch.rand(len(found), device=found.device) < self.shifted))
        steps = model.synergy.steps
        shift = torch.randint(steps // 4 + 1, steps - steps // 4, found.shape, device=found.device)
        rows = torch.arange(len(found), device=found.device)
        mismatch = model.match(outputs, torch.where(rotate, rows, donors), torch.where(rotate, shift, 0))
        usable = both & ~conflict & (found | rotate)
        pairs = F.softplus(-outputs.sync_logit.float()) + F.softplus(mismatch.float())
        return torch.where(usable, pairs, 0.0).sum() / (2 * usable.sum()).clamp(min=1)


def partners(ids: Sequence[str], group: Tensor, sounding: Tensor) -> tuple[Tensor, Tensor]:
    """For every row the next row of the batch that has sound and is another clip of another item.

    Args:
        ids: B sample ids.
        group: [B] item of the row.
        sounding: [B] True where the row has sound.

    Returns:
        Row numbers [B] (the row itself where there is none) and [B] True where one was found.
    """
    numbers = {name: i for i, name in enumerate(dict.fromkeys(ids))}
    clip = torch.tensor([numbers[name] for name in ids], device=group.device)
    fits = sounding[None] & (clip[:, None] != clip[None]) & (group[:, None] != group[None])
    rows = torch.arange(len(clip), device=group.device)
    away = (rows[None] - rows[:, None]) % len(clip)
    nearest = torch.where(fits, away, len(clip)).argmin(dim=1)
    found = fits.any(dim=1)
    return torch.where(found, nearest, rows), found


class UnimodalLoss(AuxiliaryLoss):
    """Gives the gate something to be right about.

    Each modality's summary predicts the labels alone, through one shared head, and the gate says whose prediction to
    believe: the loss is the negative log likelihood of that mixture. A modality that carries no cue can do no better
    than the label frequencies, so every bit of gate on it costs likelihood. `alone` adds the modalities' own losses, which
    keeps those learning that the gate does not follow yet and their doubts honest. Synergy and imputed experts
    are no witnesses: the gate is to say which modality carries the label, so weight on them costs likelihood.

    Args:
        weight: of the term.
        alone: factor of the mean of the modalities' own losses.
    """

    requires = ("unimodal",)

    def __init__(self, weight: float = 0.5, alone: float = 0.25) -> None:
        super().__init__(weight)
        self.alone = _share(alone, "unimodal.alone")

    def loss(self, outputs: Outputs, batch: Batch, model: Hero) -> Tensor:
        """Mean over the labelled rows of every Task, mean over Tasks."""
        gate = outputs.gate if outputs.gate is not None else outputs.present.float()
        modalities = torch.tensor([e != SYNERGY for e in outputs.experts], device=gate.device)
        witness = outputs.present & modalities
        # not renormalised: weight on what is no witness is weight on no prediction, and costs likelihood
        trust = torch.where(witness, gate.float(), 0.0)
        terms = []
        for name, logits in outputs.unimodal_logits.items():
            label = batch.labels[name]
            if label.value.dim() == 2 and not label.value.is_floating_point():  # comparisons: no row has a likelihood
                terms.append(logits.float().sum() * 0.0)
                continue
            each = torch.where(witness, _expert_loss(logits.float(), label), 0.0)
            # -log sum_i trust_i exp(-loss_i): the mixture's likelihood
            low = torch.finfo(each.dtype).min
            mixed = -(trust.clamp(min=1e-30).log() - each).masked_fill(trust == 0, low).logsumexp(dim=1)
            own = each.sum(dim=1) / witness.sum(dim=1).clamp(min=1)
            rows = label.mask.to(gate.device) & (trust > 0).any(dim=1)
            terms.append(torch.where(rows, mixed + self.alone * own, 0.0).sum() / rows.sum().clamp(min=1))
        return torch.stack(terms).mean() if terms else outputs.context.sum() * 0.0


class SelfLabels(AuxiliaryLoss):
    """Every modality predicts alone, with labels of its own where the label is a score (Self-MM, Yu et al. 2021).

    Classes: mean loss of the modalities that are there against the clip's label (plain multi-task learning). The first
    score, under `model.baselines_large.MultiTask`: absolute error against the label that `own_scores` makes for each
    modality, weighed by tanh of how far that lies from the clip's.

    Args:
        weight: of the term.
    """

    requires = ("unimodal",)

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def loss(self, outputs: Outputs, batch: Batch, model: Hero) -> Tensor:
        """Mean over the labelled rows of every Task, mean over Tasks."""
        witness = outputs.present & torch.tensor([e != SYNERGY for e in outputs.experts], device=outputs.present.device)
        terms, made = [], False
        for name, logits in outputs.unimodal_logits.items():
            label = batch.labels[name]
            if isinstance(model, MultiTask) and not made and label.value.is_floating_point() and label.value.dim() == 1:
                own, made = model.own_scores(outputs, label.value, label.mask), True
                each = (own - label.value[:, None]).abs().tanh() * (logits[..., 0].float() - own).abs()
            else:
                each = _expert_loss(logits.float(), label)
            rows = witness & label.mask[:, None]
            terms.append(torch.where(rows, each, 0.0).sum() / rows.sum().clamp(min=1))
        return torch.stack(terms).mean() if terms else outputs.context.sum() * 0.0


def _expert_loss(logits: Tensor, label: Label) -> Tensor:
    """Loss of every expert alone: logits [B, E, C] and a Label -> [B, E].

    Class index: cross-entropy. One score: half the squared error (a normal of unit spread). A value per output, label
    set or distribution: mean binary cross-entropy, which is least at the value itself.
    """
    value = label.value
    if value.dim() == 2:
        value = value[:, None, : logits.shape[-1]].to(logits.dtype).expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, value, reduction="none").mean(dim=-1)
    if value.is_floating_point():
        return 0.5 * (logits[..., 0] - value[:, None]) ** 2
    index = value[:, None, None].expand(-1, logits.shape[1], 1).clamp(min=0)
    return -logits.log_softmax(dim=-1).gather(-1, index).squeeze(-1)


class GateEntropy(AuxiliaryLoss):
    """A floor under the gate's entropy: no expert is written off early (`spec/hero.md` 5.6).

    Args:
        weight: of the term.
        ratio: share of the greatest possible entropy (even weights over the available experts) that costs nothing.
    """

    def __init__(self, weight: float = 0.01, ratio: float = 0.5) -> None:
        super().__init__(weight)
        self.ratio = _share(ratio, "gate_entropy.ratio")

    def loss(self, outputs: Outputs, batch: Batch, model: Hero) -> Tensor:
        """Mean shortfall over the rows; 0 where one expert or none is available."""
        if outputs.gate is None:
            return outputs.context.sum() * 0.0
        gate = outputs.gate.float()
        available = outputs.present if outputs.imputed is None else outputs.present | outputs.imputed
        n = available.sum(dim=1)
        entropy = -torch.xlogy(gate, gate.clamp(min=1e-30)).sum(dim=1)
        short = (self.ratio - entropy / n.clamp(min=2).log()).clamp(min=0)
        return torch.where(n > 1, short, 0.0).mean()
