"""Kinds of Task: one of C classes, any of C labels, a score, a distribution.

Data flow: label --encode_label--> number(s); logits --row_loss--> [B]; logits --predict--> [B, C].

Shapes: B rows of a batch, N rows of a split, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.errors import DataError, in_range, one_of
from hero_lightning.metrics import classification, distribution, multilabel, regression
from hero_lightning.tasks.base import InvalidLabel, Task, number
from hero_lightning.types import Label

LOSSES: dict[str, Any] = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}
"""Losses of a ScoreTask."""


class ClassTask(Task):
    """One of C classes: softmax cross-entropy, primary metric weighted F1.

    Args:
        name, weight: see Task.
        classes: class names in output order; None = those of the train split, sorted.
        class_weights: balanced = class c has weight N / (C' N_c), where C' classes occur in the train split.
        label_smoothing: share of the target probability spread over all classes.
    """

    kind = "class"
    formulas = classification
    dtype = torch.long
    primary = "weighted_f1"
    min_classes = 2

    def __init__(
        self,
        name: str,
        classes: Iterable[object] | None = None,
        weight: float = 1.0,
        class_weights: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(name, classes, weight)
        self.class_weights, self.label_smoothing = class_weights, float(label_smoothing)
        one_of(self.key("class_weights"), class_weights, ("none", "balanced"))
        in_range(self.key("label_smoothing"), self.label_smoothing, "[0, 1)")

    def fit(self, values: Iterable[Any]) -> Task:
        """Sets the classes, if none were given, and the class shares; DataError if the labels do not suffice."""
        known = [str(v) for v in values if v is not None]
        self.classes = self.classes or tuple(sorted(set(known)))
        super().fit(known)
        if len(self.classes) < 2 or (self.prior is None and self.class_weights == "balanced"):
            raise DataError(
                f"The train split has too few labels for task {self.name}.",
                expected="train labels of at least two classes" if len(self.classes) < 2 else "train labels",
                got=f"{len(known)} labels, of {sorted(set(known))}",
                where=f"dataset.tasks.{self.name}",
                hint=f"{self.key('classes')}=[NAME,NAME] {self.key('class_weights')}=none",
            )
        return self

    def encode_label(self, value: Any) -> int:
        if str(value) not in self.classes:
            raise InvalidLabel("Unknown label", list(self.classes), repr(value))
        return self.classes.index(str(value))

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Cross-entropy [B]; logits [B, C], value [B]."""
        weight = None
        if self.class_weights == "balanced" and self.prior is not None:
            occurs = self.prior > 0  # classes that do not occur in the train split have weight 1
            weight = torch.where(occurs, 1.0 / (occurs.sum() * self.prior), 1.0).to(logits)
        return F.cross_entropy(logits, value, weight, reduction="none", label_smoothing=self.label_smoothing)

    def confusion(self, prediction: Tensor, label: Label) -> Tensor:
        """Counts [C, C] over the labelled rows that have an answer: rows truth, columns prediction."""
        return classification.confusion(prediction[label.mask], label.value[label.mask])[:, :-1]

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """Adds `confidence`: the probability of the prediction."""
        return {**super().columns(prediction, label), "confidence": prediction.amax(dim=-1).tolist()}

    def _placeholder(self) -> int:
        return 0

    def _as_prediction(self, value: Tensor) -> Tensor:
        return F.one_hot(value, self.outputs)


class MultilabelTask(Task):
    """Any number of C labels: a sigmoid each, primary metric macro F1 at threshold 0.5.

    A label is a collection of names, a mapping name -> intensity (present if > 0, as in CMU-MOSEI), or C intensities.
    An empty collection means that no label applies; None means that the sample is not labelled.
    """

    kind = "multilabel"
    formulas = multilabel
    activation = "sigmoid"
    primary = "macro_f1"
    min_classes = 1

    def encode_label(self, value: Any) -> list[float]:
        """Names or intensities -> C numbers 0 or 1."""
        return [float(v > 0) for v in self._intensities(value)]

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Binary cross-entropy [B], mean over the labels; logits and value [B, C]."""
        return F.binary_cross_entropy_with_logits(logits, value, reduction="none").mean(dim=-1)

    def decode(self, row: Tensor) -> str:
        """The labels above the threshold, joined by |."""
        return "|".join(c for c, v in zip(self.classes, row.tolist(), strict=True) if v > multilabel.THRESHOLD)

    def metrics(self, prediction: Tensor, label: Label) -> dict[str, float]:
        """Adds `auc`, which is not additive and therefore has no interval."""
        out = super().metrics(prediction, label)
        return {**out, "auc": multilabel.auc(prediction[label.mask], label.value[label.mask])} if out else {}


class ScoreTask(Task):
    """A number between `low` and `high`; primary metric mean absolute error.

    The logit is on a scale where low..high is -1..1, so the size of the loss does not depend on the range.

    Args:
        low, high: range of the dataset.
        loss: mse, mae or huber (quadratic up to half the range).
        metrics: plain, ccc (makes ccc the primary metric), mosi, sims or mer2023; see `metrics.regression`.
    """

    kind = "score"
    formulas = regression
    primary = "mae"
    higher_is_better = False
    activation = "none"

    def __init__(
        self,
        name: str,
        low: float,
        high: float,
        weight: float = 1.0,
        loss: Literal["mse", "mae", "huber"] = "mse",
        metrics: str = "plain",
    ) -> None:
        super().__init__(name, None, weight)
        self.low, self.high = float(low), float(high)
        self.middle, self.half = (self.high + self.low) / 2, (self.high - self.low) / 2
        self.loss_name, self.metric_set = loss, metrics
        in_range(self.key("high"), self.high, f"({self.low}, inf)")
        one_of(self.key("loss"), loss, LOSSES)
        one_of(self.key("metrics"), metrics, regression.METRIC_SETS)
        if metrics == "ccc":
            self.primary, self.higher_is_better = "ccc", True

    @property
    def outputs(self) -> int:
        return 1

    def encode_label(self, value: Any) -> float:
        score = number(value)
        if not self.low <= score <= self.high:
            raise InvalidLabel("Score out of range", f"{self.low} to {self.high}", repr(value))
        return score

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Loss [B] on the -1..1 scale; logits [B, 1], value [B]."""
        return LOSSES[self.loss_name](logits.squeeze(-1), (value - self.middle) / self.half, reduction="none")

    def predict(self, logits: Tensor) -> Tensor:
        """Scores [B, 1], clamped to the range."""
        return (super().predict(logits) * self.half + self.middle).clamp(self.low, self.high)

    def statistics(self, prediction: Tensor, value: Tensor) -> Tensor:
        return regression.statistics(prediction, value, self.metric_set)

    def metrics_of(self, sums: Tensor) -> dict[str, Tensor]:
        return regression.metrics(sums, 1, self.metric_set)

    def settings(self) -> dict[str, Any]:
        own = {"low": self.low, "high": self.high, "loss": self.loss_name, "metrics": self.metric_set}
        return {"name": self.name, "weight": self.weight, **own}

    def _placeholder(self) -> float:
        return self.middle


class DistributionTask(Task):
    """Distribution over C emotions (VCE intensities, rater votes); primary metric KL divergence.

    A label is a mapping name -> intensity, or C intensities; they are divided by their sum.
    """

    kind = "distribution"
    formulas = distribution
    primary = "kl"
    higher_is_better = False
    min_classes = 2

    def encode_label(self, value: Any) -> list[float]:
        """Intensities -> C shares that sum to one."""
        row = self._intensities(value)
        if sum(row) == 0:
            raise InvalidLabel("Distribution without mass", "at least one intensity above 0", repr(value))
        return [v / sum(row) for v in row]

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """KL(truth || prediction) [B] in nats; logits and value [B, C]."""
        return F.kl_div(logits.log_softmax(dim=-1), value, reduction="none").sum(dim=-1)

    def majority(self, label: Label) -> dict[str, float]:
        """Every metric of the constant prediction that is best for it, see `distribution.constants`."""
        if self.prior is None:
            return {}
        mean, top1, top3 = (self.metrics(row.expand(len(label.mask), -1), label) for row in self.prior)
        best = {"acc_true1_in_pred3": top1, "top1": top1, "acc_pred1_in_true3": top3}
        return {k: best.get(k, mean)[k] for k in mean}

    def _best_constant(self, truth: Tensor) -> Tensor:
        return distribution.constants(truth)
