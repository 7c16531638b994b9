"""Auxiliary losses: named loss terms in addition to those of the Tasks.

Data flow: Outputs + Batch (+ the model, which computes further logits or labels) -> scalar; the training step sums
weight * loss. Losses with networks of their own stand in contrastive.py, disentangle.py and distillation.py.

Shapes: B rows, E experts, C outputs of a Task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hero_lightning.errors import in_range
from hero_lightning.models.base import FusionModel
from hero_lightning.models.llm.reasoner import Reasoner
from hero_lightning.models.outputs import SYNERGY, Outputs
from hero_lightning.training.teacher import Teacher
from hero_lightning.types import Batch, Label


class AuxiliaryLoss(nn.Module):
    """One loss term. It may own parameters, which learn with those of the model.

    Args:
        weight: its factor in the sum; a loss of weight 0 is not built.

    Attributes:
        requires: auxiliary heads of the model that it reads.
        mixable: whether it can be computed on mixed clips (`Mixup`).
        teacher: the network whose outputs it reads as `Outputs.full`: those of the same clips with no modality
            withheld; None = it reads none.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    mixable: ClassVar[bool] = True
    teacher: Teacher | None = None

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        in_range(f"losses.{type(self).__name__}.weight", weight, "[0, inf)")
        self.weight = float(weight)

    def build(self, model: FusionModel, reasoner: Reasoner | None) -> bool:
        """Creates its own parameters for a model; False if the model has nothing that it reads."""
        return set(self.requires) <= set(model.auxiliary_heads)

    def state(self) -> dict[str, Any]:
        """What it has learnt beside its parameters, as tensors and builtins, for a run that is resumed."""
        return {}

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on from the `state` of a checkpoint."""

    def forward(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """The unweighted loss; zero without any work where the weight is 0."""
        return self.loss(outputs, batch, model) if self.weight else outputs.context.new_zeros(())

    def loss(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """The loss of a batch; exactly zero, yet connected to the graph, where no row contributes."""
        raise TypeError(f"{type(self).__name__} does not define loss")


def zero(outputs: Outputs) -> Tensor:
    """A zero that is connected to the graph."""
    return outputs.context.sum() * 0.0


def _observed(outputs: Outputs) -> Tensor:
    """[B, E] True where a modality, not synergy, saw real data."""
    return outputs.present & torch.tensor([e != SYNERGY for e in outputs.experts], device=outputs.present.device)


def _mean(terms: Sequence[Tensor], outputs: Outputs) -> Tensor:
    """Mean over Tasks, or a zero that is connected to the graph."""
    return torch.stack(list(terms)).mean() if terms else zero(outputs)


class Sync(AuxiliaryLoss):
    """Whether a sound belongs to a movement: binary, positive = match.

    Every row with both modalities gives one positive (its own pair) and one negative: the next sound of the batch that
    comes from another clip and item, or its own sound rotated by more than a quarter of its length. Rows without a
    negative give no positive either. Clips whose modalities are known to conflict are left out: their own pair is no
    match.

    Args:
        weight: of the term.
        shifted: share of the negatives made by rotation even where another clip is available.
    """

    requires = ("sync",)
    shortest: ClassVar[int] = 4
    """Steps that both modalities need before a rotation differs from the original."""

    def __init__(self, weight: float = 0.5, shifted: float = 0.0) -> None:
        super().__init__(weight)
        in_range("losses.sync.shifted", shifted, "[0, 1]")
        self.shifted = shifted

    def loss(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """Binary cross-entropy over as many matches as mismatches; zero without a synergy expert."""
        if outputs.sync_logit is None:
            return zero(outputs)
        (_, sound), (_, movement) = (outputs.sequences[s] for s in model.pair)
        both = sound.any(dim=1) & movement.any(dim=1)
        conflict = torch.tensor([bool(s.truth.get("conflict")) for s in batch.samples], device=both.device)
        donors, found = partners(batch.ids, batch.group.to(both.device), sound.any(dim=1))
        long = (sound.sum(dim=1) >= self.shortest) & (movement.sum(dim=1) >= self.shortest)
        rotate = long & (~found | (torch.rand(len(found), device=found.device) < self.shifted))
        steps = model.moments
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
    """Supervises the gate.

    Each modality's summary predicts the labels alone, through one shared head, and the gate weights the predictions:
    the loss is the negative log likelihood of that mixture. A modality without a cue can do no better than the label
    frequencies, so gate weight on it costs likelihood. `alone` adds the modalities' own losses, so that those with
    little gate weight also learn and stay calibrated. Synergy and imputed experts do not take part: the gate is to
    find the modality that carries the label, so weight on them costs likelihood.

    Args:
        weight: of the term.
        alone: factor of the mean of the modalities' own losses.
    """

    requires = ("unimodal",)

    def __init__(self, weight: float = 0.5, alone: float = 0.25) -> None:
        super().__init__(weight)
        in_range("losses.unimodal.alone", alone, "[0, 1]")
        self.alone = alone

    def loss(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """Mean over the labelled rows of every Task, mean over Tasks."""
        gate = outputs.gate if outputs.gate is not None else outputs.present.float()
        observed = _observed(outputs)
        # not renormalised: weight on an expert that does not take part costs likelihood
        weight = torch.where(observed, gate.float(), 0.0)
        terms = []
        for name, logits in outputs.unimodal_logits.items():
            label = batch.labels[name]
            if label.value.dim() == 2 and not label.value.is_floating_point():  # comparisons: no row has a likelihood
                terms.append(logits.float().sum() * 0.0)
                continue
            each = torch.where(observed, _expert_loss(logits.float(), label), 0.0)
            # -log sum_i weight_i exp(-loss_i): the mixture's likelihood
            low = torch.finfo(each.dtype).min
            mixed = -(weight.clamp(min=1e-30).log() - each).masked_fill(weight == 0, low).logsumexp(dim=1)
            own = each.sum(dim=1) / observed.sum(dim=1).clamp(min=1)
            rows = label.mask.to(gate.device) & (weight > 0).any(dim=1)
            terms.append(torch.where(rows, mixed + self.alone * own, 0.0).sum() / rows.sum().clamp(min=1))
        return _mean(terms, outputs)


class SelfLabels(AuxiliaryLoss):
    """Every modality predicts alone, with labels of its own where the label is a score (Self-MM, Yu et al. 2021).

    Classes: mean loss of the present modalities against the clip's label (plain multi-task learning). The first score,
    if the model makes labels for its modalities (`FusionModel.own_scores`): absolute error against these, weighted by
    tanh of their distance to the clip's label.

    Args:
        weight: of the term.
    """

    requires = ("unimodal",)
    mixable = False  # it makes labels for one clip

    def loss(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """Mean over the labelled rows of every Task, mean over Tasks."""
        observed, terms = _observed(outputs), []
        labels = {name: batch.labels[name] for name in outputs.unimodal_logits}
        scores = (n for n, label in labels.items() if label.value.is_floating_point() and label.value.dim() == 1)
        first = next(scores, None)
        for name, label in labels.items():
            logits = outputs.unimodal_logits[name].float()
            own = model.own_scores(outputs, label.value, label.mask) if name == first else None
            if own is None:
                each = _expert_loss(logits, label)
            else:
                each = (own - label.value[:, None]).abs().tanh() * (logits[..., 0] - own).abs()
            rows = observed & label.mask[:, None]
            terms.append(torch.where(rows, each, 0.0).sum() / rows.sum().clamp(min=1))
        return _mean(terms, outputs)


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
    """A lower bound on the gate's entropy, so that the gate does not drop an expert early.

    Args:
        weight: of the term.
        ratio: share of the greatest possible entropy (even weights over the available experts) that costs nothing.
    """

    def __init__(self, weight: float = 0.01, ratio: float = 0.5) -> None:
        super().__init__(weight)
        in_range("losses.entropy.ratio", ratio, "[0, 1]")
        self.ratio = ratio

    def loss(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """Mean shortfall over the rows; 0 where one expert or none is available."""
        if outputs.gate is None:
            return zero(outputs)
        gate = outputs.gate.float()
        available = outputs.present if outputs.imputed is None else outputs.present | outputs.imputed
        n = available.sum(dim=1)
        entropy = -torch.xlogy(gate, gate.clamp(min=1e-30)).sum(dim=1)
        short = (self.ratio - entropy / n.clamp(min=2).log()).clamp(min=0)
        return torch.where(n > 1, short, 0.0).mean()
