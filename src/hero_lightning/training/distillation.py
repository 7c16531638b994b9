"""Losses that compare a clip with modalities withheld to the whole clip: distillation and imputation.

Data flow: Outputs under modality dropout + `Outputs.full` (teacher, without gradients) -> scalar over the rows that
lost something.

Shapes: B rows, E experts, C outputs of a Task, O context tokens, d width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.errors import ConfigError, in_range, one_of
from hero_lightning.models.base import FusionModel
from hero_lightning.models.llm.reasoner import Reasoner
from hero_lightning.models.outputs import Outputs
from hero_lightning.training.losses import AuxiliaryLoss, zero
from hero_lightning.training.teacher import Teacher
from hero_lightning.types import Batch, Label


class Distillation(AuxiliaryLoss):
    """The prediction from what is left of a clip agrees with the prediction from all of it (Hinton et al. 2015).

    KL(teacher || student) at a temperature T, times T squared, so that its gradients keep their size.

    Args:
        weight: of the term.
        target: `head`: the predictions of the linear heads; `llm`: the language model's scores of the classes;
            `context`: squared error of the context tokens.
        temperature: T.
        decay: of the moving average of the weights that teaches; 0 = the model itself teaches.
    """

    mixable = False  # the teacher sees one clip
    teacher: Teacher

    def __init__(
        self,
        weight: float = 0.5,
        target: Literal["head", "llm", "context"] = "head",
        temperature: float = 1.0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(weight)
        one_of("losses.distillation.target", target, ("head", "llm", "context"))
        in_range("losses.distillation.temperature", temperature, "(0, inf)")
        self.target, self.temperature, self.teacher = target, temperature, Teacher(decay)
        self._reasoner: tuple[Reasoner, ...] = ()  # not a submodule

    def build(self, model: FusionModel, reasoner: Reasoner | None) -> bool:
        if self.target == "llm" and reasoner is None:
            expected, where = "model=hero_cot, or target=head", "losses.distillation.target"
            raise ConfigError("There is no language model to distil.", expected=expected, got="llm", where=where)
        self._reasoner = () if reasoner is None else (reasoner,)
        return True

    def state(self) -> dict[str, Any]:
        """The moving average, for a run that is resumed."""
        return self.teacher.state()

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on with the moving average of a checkpoint."""
        self.teacher.restore(state)

    def loss(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """Mean over the rows that lost a modality, mean over Tasks."""
        full = outputs.full
        if full is None:
            return zero(outputs)
        lost = (full.present & ~outputs.present).any(dim=1)
        if self.target == "context":
            error = (full.context - outputs.context).float() ** 2
            terms = [error.flatten(1).mean(dim=1)] if full.context.shape == outputs.context.shape else []
        elif self.target == "llm":
            (reasoner,) = self._reasoner
            rows = lost.nonzero().flatten().tolist()
            if not rows:
                return zero(outputs)
            student = reasoner.label_scores(outputs, batch, rows)
            training = reasoner.training
            with torch.no_grad():
                teacher = reasoner.eval().label_scores(full, batch, rows)
            reasoner.train(training)
            return kl(teacher, student, self.temperature).mean() + zero(outputs)
        else:
            terms = [
                divergence(full.logits[name].float(), logits.float(), batch.labels[name], self.temperature)
                for name, logits in outputs.logits.items()
            ]
        if not terms:
            return zero(outputs)
        each = torch.stack(terms).mean(dim=0)
        return torch.where(lost, each, 0.0).sum() / lost.sum().clamp(min=1) + zero(outputs)


def kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Logits [B, C] of both -> KL(teacher || student) of the softmax at the temperature, times its square, [B]."""
    p, q = (logits.div(temperature).log_softmax(dim=-1) for logits in (teacher, student))
    return temperature**2 * (p.exp() * (p - q)).sum(dim=-1)


def divergence(teacher: Tensor, student: Tensor, label: Label, temperature: float) -> Tensor:
    """Disagreement [B] of two predictions [B, C] of a Task, by the kind of its labels.

    Classes: `kl`. A value per output: mean KL of the Bernoulli variables. A score, or comparisons: half the squared
    error.
    """
    value = label.value
    if value.dim() == 1 and not value.is_floating_point():
        return kl(teacher, student, temperature)
    if value.dim() == 2 and value.is_floating_point():
        p = (teacher / temperature).sigmoid()
        cross = F.binary_cross_entropy_with_logits(student / temperature, p, reduction="none")
        own = F.binary_cross_entropy_with_logits(teacher / temperature, p, reduction="none")
        return temperature**2 * (cross - own).mean(dim=-1)
    return 0.5 * ((teacher - student) ** 2).mean(dim=-1)


class ImputationLoss(AuxiliaryLoss):
    """An inferred summary is near the one that was withheld, and its confidence says how near.

    Mean squared error to the teacher's summary, plus `confidence` times the cross-entropy of the confidence against
    exp(-error / mean error), so that 1 is an exact and 0.37 an average inference. It learns from what modality dropout
    withheld.

    Args:
        weight: of the term.
        confidence: factor of the confidence's part.
        momentum: of the running mean of the error.
    """

    requires = ("imputation",)
    mixable = False  # the teacher sees one clip
    typical: Tensor

    def __init__(self, weight: float = 0.1, confidence: float = 0.1, momentum: float = 0.99) -> None:
        super().__init__(weight)
        in_range("losses.imputation.confidence", confidence, "[0, inf)")
        in_range("losses.imputation.momentum", momentum, "[0, 1)")
        self.confidence, self.momentum, self.teacher = confidence, momentum, Teacher()
        self.register_buffer("typical", torch.zeros(()))  # running mean of the error; 0 = none seen yet

    def loss(self, outputs: Outputs, batch: Batch, model: FusionModel) -> Tensor:
        """Mean over the withheld experts of all rows."""
        full = outputs.full
        if full is None or outputs.imputed is None or outputs.confidence is None:
            return zero(outputs)
        withheld = full.present & outputs.imputed
        count = withheld.sum().clamp(min=1)
        error = ((outputs.summaries - full.summaries).float() ** 2).mean(dim=-1)  # [B, E]
        mean = torch.where(withheld, error, 0.0).sum() / count
        with torch.no_grad():
            known = self.typical > 0
            moved = torch.where(known, self.typical.lerp(mean, 1 - self.momentum), mean)
            self.typical.copy_(torch.where(withheld.any(), moved, self.typical))
        near = (-error.detach() / self.typical.clamp(min=1e-12)).exp()
        sure = outputs.confidence.float().clamp(1e-6, 1 - 1e-6)
        doubt = -(near * sure.log() + (1 - near) * (1 - sure).log())
        return mean + self.confidence * torch.where(withheld, doubt, 0.0).sum() / count + zero(outputs)
