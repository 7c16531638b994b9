"""The kinds of Task: one of C classes, any of C labels, a score, shares that sum to one.

Data flow: label in the dataset' words --code--> number(s); logits --row_loss--> [B]; logits --predict--> [B, C].

Shapes: B rows of a batch, N rows of a split, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.errors import DataError
from hero_lightning.metrics import classification, distribution, multilabel, regression
from hero_lightning.tasks.base import InvalidLabel, Task, number
from hero_lightning.types import Label


class ClassTask(Task):
    """One of C classes: softmax cross-entropy; weighted F1 decides.

    Args:
        name, weight: see Task.
        classes: class names in output order; None = those of the train split, sorted.
        class_weights: `balanced` weighs class c by N / (C' N_c), counted over the C' classes of the train split.
        label_smoothing: share of the truth spread over all classes.
    """

    kind = "class"
    metric: ClassVar[ModuleType] = classification
    primary = "weighted_f1"

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
        if class_weights not in ("none", "balanced"):
            raise self._wrong("class_weights", "none or balanced", class_weights)
        if not 0 <= self.label_smoothing < 1:
            raise self._wrong("label_smoothing", "a number in [0, 1)", label_smoothing)
        if classes is not None and len(self.classes) < 2:
            raise self._wrong("classes", "at least two names, or null for those of the train split", list(self.classes))

    def fit(self, values: Iterable[Any]) -> Task:
        """Fixes the class list where it is open, and the class shares."""
        known = [str(v) for v in values if v is not None]
        self.classes = self.classes or tuple(sorted(set(known)))
        super().fit(known)
        if len(self.classes) < 2 or (self.prior is None and self.class_weights == "balanced"):
            raise DataError(
                f"The train split does not say what task {self.name} needs.",
                expected="train labels of at least two classes" if len(self.classes) < 2 else "train labels",
                got=f"{len(known)} labels, of {sorted(set(known))}",
                where=f"dataset.tasks.{self.name}",
                hint=f"list dataset.tasks.{self.name}.classes with class_weights=none, or train on labelled data",
            )
        return self

    def encode_label(self, value: Any) -> int:
        """Class name -> its index."""
        if str(value) not in self.classes:
            raise InvalidLabel("Unknown label", list(self.classes), repr(value))
        return self.classes.index(str(value))

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Cross-entropy [B]; logits [B, C], value [B]."""
        weight = None
        if self.class_weights == "balanced" and self.prior is not None:
            seen = self.prior > 0  # a class the train split does not hold weighs 1; it occurs only outside training
            weight = torch.where(seen, 1.0 / (seen.sum() * self.prior), 1.0).to(logits)
        return F.cross_entropy(logits, value, weight, reduction="none", label_smoothing=self.label_smoothing)

    def confusion(self, prediction: Tensor, label: Label) -> Tensor:
        """[C, C] counts over the labelled rows that have an answer, truth down, prediction across."""
        return classification.confusion(prediction[label.mask], label.value[label.mask])[:, :-1]

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """truth, prediction, p_<class>, confidence (the probability of the prediction)."""
        return {**super().columns(prediction, label), "confidence": prediction.amax(dim=-1).tolist()}

    def _blank(self) -> int:
        return 0

    def _tensor(self, codes: Sequence[int]) -> Tensor:
        return torch.tensor(codes, dtype=torch.long)

    def _spread(self, value: Tensor) -> Tensor:
        return F.one_hot(value, self.outputs)


class MultilabelTask(Task):
    """Any number of C labels: a sigmoid each; macro F1 at threshold 0.5 decides.

    A label is a collection of names, a mapping name -> intensity (present where > 0, as in CMU-MOSEI), or C
    intensities. An empty collection says that no label applies, which is not the same as having no label.
    """

    kind = "multilabel"
    metric: ClassVar[ModuleType] = multilabel
    activation = "sigmoid"
    primary = "macro_f1"

    def __init__(self, name: str, classes: Iterable[object], weight: float = 1.0) -> None:
        super().__init__(name, classes, weight)
        if not self.classes:
            raise self._wrong("classes", "at least one name", [])

    def encode_label(self, value: Any) -> list[float]:
        """Names or intensities -> C numbers, 0 or 1."""
        return [float(v > 0) for v in self._vector(value)]

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Binary cross-entropy [B], mean over the labels; logits and value [B, C]."""
        return F.binary_cross_entropy_with_logits(logits, value, reduction="none").mean(dim=-1)

    def decode(self, row: Tensor) -> str:
        """The labels above the threshold, joined by |."""
        return "|".join(c for c, v in zip(self.classes, row.tolist(), strict=True) if v > multilabel.THRESHOLD)

    def metrics(self, prediction: Tensor, label: Label) -> dict[str, float]:
        """Those of `metrics_of`, and `auc`, which has no additive statistics and so no interval."""
        out = super().metrics(prediction, label)
        return {**out, "auc": multilabel.auc(prediction[label.mask], label.value[label.mask])} if out else {}


class ScoreTask(Task):
    """A number between `low` and `high`; mean absolute error decides.

    The output lives on the scale where low..high is -1..1, so that the loss weighs alike whatever the range.

    Args:
        low, high: range of the dataset.
        loss: mse, mae or huber (quadratic up to half the range).
        metrics: plain, ccc (which then decides), mosi, sims or mer2023: see `metrics.regression`.
    """

    kind = "score"
    metric: ClassVar[ModuleType] = regression
    primary = "mae"
    higher_is_better = False

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
        self.form = metrics
        self.low, self.high, self.distance = float(low), float(high), loss
        self.middle, self.half = (self.high + self.low) / 2, (self.high - self.low) / 2
        if not self.low < self.high:
            raise self._wrong("high", f"more than low ({low})", high)
        if loss not in ("mse", "mae", "huber"):
            raise self._wrong("loss", "mse, mae or huber", loss)
        if metrics not in regression.SETS:
            raise self._wrong("metrics", ", ".join(regression.SETS), metrics)
        if metrics == "ccc":
            self.primary, self.higher_is_better = "ccc", True

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    def encode_label(self, value: Any) -> float:
        """A number inside the range."""
        score = number(value)
        if not self.low <= score <= self.high:
            raise InvalidLabel("Score out of range", f"{self.low} to {self.high}", repr(value))
        return score

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Distance [B] on the -1..1 scale; logits [B, 1], value [B]."""
        forms: dict[str, Any] = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}
        return forms[self.distance](logits.squeeze(-1), (value - self.middle) / self.half, reduction="none")

    def predict(self, logits: Tensor) -> Tensor:
        """Scores [B, 1], held inside the range."""
        return (logits.float() * self.half + self.middle).clamp(self.low, self.high)

    def decode(self, row: Tensor) -> float:
        """The score."""
        return float(row)

    def statistics(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Those of the chosen set of metrics."""
        return regression.statistics(prediction, value, self.form)

    def metrics_of(self, sums: Tensor) -> dict[str, Tensor]:
        """The chosen set of metrics."""
        return regression.metrics(sums, 1, self.form)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, in builtins."""
        own = {"low": self.low, "high": self.high, "loss": self.distance, "metrics": self.form}
        return {"name": self.name, "weight": self.weight, **own}

    def _blank(self) -> float:
        return self.middle


class DistributionTask(Task):
    """Shares of C emotions that sum to one (VCE intensities, rater votes); KL divergence decides.

    A label is a mapping name -> intensity or C intensities; they are divided by their sum.
    """

    kind = "distribution"
    metric: ClassVar[ModuleType] = distribution
    primary = "kl"
    higher_is_better = False

    def __init__(self, name: str, classes: Iterable[object], weight: float = 1.0) -> None:
        super().__init__(name, classes, weight)
        if len(self.classes) < 2:
            raise self._wrong("classes", "at least two names", list(self.classes))

    def encode_label(self, value: Any) -> list[float]:
        """Intensities -> C shares that sum to one."""
        row = self._vector(value)
        if sum(row) == 0:
            raise InvalidLabel("Distribution without mass", "at least one intensity above 0", repr(value))
        return [v / sum(row) for v in row]

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """KL divergence from the prediction to the truth [B], in nats; logits and value [B, C]."""
        return F.kl_div(logits.log_softmax(dim=-1), value, reduction="none").sum(dim=-1)

    def majority(self, label: Label) -> dict[str, float]:
        """Every figure of the constant answer that is best for it on the train split; empty before `fit`."""
        if self.prior is None:
            return {}
        mean, first, among = (self.metrics(row.expand(len(label.mask), -1), label) for row in self.prior)
        best = {"acc_true1_in_pred3": first, "top1": first, "acc_pred1_in_true3": among}
        return {k: best.get(k, mean)[k] for k in mean}

    def _constant(self, truth: Tensor) -> Tensor:
        return distribution.constants(truth)
