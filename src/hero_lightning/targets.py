"""Targets: one label of a corpus each, with its coding, loss, prediction and figures.

Data flow: Sample.labels[name] (the corpus' own words) --encode, collate--> Label; logits --loss--> scalar;
logits --predict--> prediction --statistics--> sums over rows --figures_of--> numbers, intervals and baselines.

Shapes: B rows of a batch, N rows of a split, C outputs, S additive statistics of a row.
A Target is plain data (it travels to loader workers and into checkpoints); it owns no parameters.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.data.types import Label
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.metrics import classification, distribution, multilabel, regression


class _Unfit(Exception):
    """A label that a Target cannot code: problem, expected, got."""


class Target(ABC):
    """One label of a corpus.

    Attributes:
        kind: class, multilabel, score or distribution.
        primary: name of the figure that selects a checkpoint; `higher_is_better` says which way.
        name: key in Sample.labels and Batch.labels.
        weight: factor of its loss in the sum.
        classes: names of the outputs; empty for a score.
        prior: [C] mean of the coded train labels (class shares, label rates, mean score), once fitted: the best
            constant answer, from which class weights and the majority line are made.
    """

    kind: ClassVar[str]
    primary: ClassVar[str]
    higher_is_better: ClassVar[bool] = True

    def __init__(self, name: str, classes: Iterable[object] | None, weight: float) -> None:
        self.name = name
        self.weight = float(weight)
        self.classes: tuple[str, ...] = tuple(str(c) for c in classes or ())
        self.prior: Tensor | None = None
        if not self.weight >= 0:
            raise self._wrong("weight", "a number >= 0", weight)
        if len(set(self.classes)) < len(self.classes):
            raise self._wrong("classes", "names that differ", list(self.classes))

    @property
    def outputs(self) -> int:
        """C, the width of the logits."""
        return len(self.classes)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, in builtins."""

    @abstractmethod
    def code(self, value: Any) -> Any:
        """A label in the corpus' words -> its code (a number or a list of C); one that does not fit is refused."""

    @abstractmethod
    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Loss of every row [B] from logits [B, C] and Label.value."""

    @abstractmethod
    def predict(self, logits: Tensor) -> Tensor:
        """Logits [B, C] -> probabilities or scores [B, C], float32."""

    @abstractmethod
    def statistics(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Predictions [N, C] and Label.value of labelled rows -> [N, S] float64, whose sums give the figures."""

    @abstractmethod
    def figures_of(self, sums: Tensor) -> dict[str, Tensor]:
        """Summed statistics [..., S] -> figure name -> [...]; the primary figure first."""

    @abstractmethod
    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """Columns of the prediction file, N long: `truth` (None without a label), `prediction`, numbers per class."""

    def encode(self, value: Any, where: object, unknown: Literal["error", "drop"] = "error") -> Any:
        """A label in the corpus' words -> its code.

        Args:
            value: the label; never None.
            where: sample id or file, for the message.
            unknown: what becomes of a label that does not fit; dropped = None, counted by the caller.

        Raises:
            DataError: with the expected list and what came, unless unknown labels are dropped.
        """
        try:
            return self.code(value)
        except _Unfit as error:
            if unknown == "drop":
                return None
            problem, expected, got = error.args
            mend = f"correct the label, let targets.{self.name} admit it, or set dataset.unknown_label=drop"
            problem = f"{problem} for target {self.name}."
            raise DataError(problem, expected=expected, got=got, where=where, mend=mend) from None

    def fit(self, values: Iterable[Any]) -> Target:
        """Learns from the labels of the train split (None = no label); those that do not fit are passed over."""
        codes = [self.encode(v, "the train split", "drop") for v in values if v is not None]
        codes = [c for c in codes if c is not None]
        if codes:
            self.prior = self.shares(self.tensor(codes)).double().mean(dim=0)
        return self

    def collate(self, values: Sequence[Any], ids: Sequence[str]) -> Label:
        """B labels in the corpus' words (None = no label) and their sample ids -> Label."""
        blank = self.blank()
        codes = [None if v is None else self.encode(v, i) for v, i in zip(values, ids, strict=True)]
        mask = torch.tensor([c is not None for c in codes], dtype=torch.bool)
        return Label(value=self.tensor([blank if c is None else c for c in codes]), mask=mask)

    def loss(self, logits: Tensor, label: Label) -> Tensor:
        """Mean loss over the labelled rows.

        Args:
            logits: [B, C].
            label: the batch's labels.

        Returns:
            Scalar; exactly zero, yet connected to the logits, where no row is labelled. Class weights multiply
            rows and do not divide the mean: they average to one over the train split.
        """
        rows = self.row_loss(logits.float(), label.value)
        return torch.where(label.mask, rows, 0.0).sum() / label.mask.sum().clamp(min=1)

    def figures(self, prediction: Tensor, label: Label) -> dict[str, float]:
        """Figures over the labelled rows of predictions [N, C], the primary one first; empty without any."""
        rows = self.statistics(prediction[label.mask], label.value[label.mask])
        return {k: float(v) for k, v in self.figures_of(rows.sum(dim=0)).items()} if len(rows) else {}

    def majority(self, label: Label) -> dict[str, float]:
        """Figures of the constant answer fitted on the train split; empty before `fit`."""
        if self.prior is None:
            return {}
        return self.figures(self.prior.to(label.mask.device).expand(len(label.mask), -1), label)

    def chance(self, label: Label) -> dict[str, float]:
        """Figures expected of uniform guessing; empty where that is not defined."""
        return {}

    def per_class(self, prediction: Tensor, label: Label) -> dict[str, dict[str, float]]:
        """Figures of every class over the labelled rows; empty where the Target has no classes."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything the Target is, in builtins, for the checkpoint."""
        return {"kind": self.kind, "settings": self.settings(), "prior": None if self.prior is None else self.prior.tolist()}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Target:
        """The Target that `state` describes."""
        kinds: tuple[Any, ...] = (ClassTarget, MultilabelTarget, ScoreTarget, DistributionTarget)
        target: Target = {k.kind: k for k in kinds}[state["kind"]](**state["settings"])
        target.prior = None if state["prior"] is None else torch.tensor(state["prior"], dtype=torch.float64)
        return target

    def blank(self) -> Any:
        """The code that stands in rows without a label; the mask hides it."""
        return [0.0] * self.outputs

    def tensor(self, codes: Sequence[Any]) -> Tensor:
        """B codes -> Label.value: [B] long, [B] float or [B, C] float."""
        return torch.tensor(codes, dtype=torch.float32)

    def shares(self, value: Tensor) -> Tensor:
        """Label.value -> [B, C] numbers whose mean is the prior."""
        return value

    def _wrong(self, key: str, expected: object, got: object) -> ConfigError:
        where = f"targets.{self.name}.{key}"
        return ConfigError(f"{key} of target {self.name} is wrong.", expected=expected, got=got, where=where)

    def _vector(self, value: Any) -> list[float]:
        """Names present, name -> intensity, or C intensities -> C finite numbers >= 0; a name left out is 0."""
        expected = list(self.classes)
        if isinstance(value, Mapping):
            numbers = {str(k): v for k, v in value.items()}
        elif isinstance(value, str) or not isinstance(value, Iterable):
            raise _Unfit("Label of a wrong kind", f"a list or mapping over {expected}", repr(value))
        elif all(isinstance(v, str) for v in value):
            numbers = dict.fromkeys(value, 1.0)
        elif len(list(value)) == self.outputs:
            numbers = dict(zip(self.classes, value, strict=True))
        else:
            raise _Unfit("Wrong number of intensities", f"{self.outputs}, one for each of {expected}", repr(value))
        if unknown := sorted(set(numbers) - set(self.classes)):
            raise _Unfit("Unknown label", expected, unknown)
        row = [_number(numbers.get(c, 0.0)) for c in self.classes]
        if min(row) < 0:
            raise _Unfit("Negative intensity", "numbers >= 0", repr(value))
        return row


class ClassTarget(Target):
    """One of C classes: softmax cross-entropy; weighted F1 decides.

    Args:
        name: key of the label.
        classes: class names in output order; None = those of the train split, sorted.
        weight: factor of the loss.
        class_weights: `balanced` weighs class c by N / (C' N_c), counted over the C' classes of the train split.
        label_smoothing: share of the truth spread over all classes.
    """

    kind = "class"
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

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments; classes as fitted."""
        return {
            "name": self.name,
            "classes": list(self.classes) or None,
            "weight": self.weight,
            "class_weights": self.class_weights,
            "label_smoothing": self.label_smoothing,
        }

    def fit(self, values: Iterable[Any]) -> Target:
        """Fixes the class list where it is open, and the class shares."""
        known = [str(v) for v in values if v is not None]
        self.classes = self.classes or tuple(sorted(set(known)))
        super().fit(known)
        if len(self.classes) < 2 or (self.prior is None and self.class_weights == "balanced"):
            raise DataError(
                f"The train split does not say what target {self.name} needs.",
                expected="train labels of at least two classes" if len(self.classes) < 2 else "train labels",
                got=f"{len(known)} labels, of {sorted(set(known))}",
                where=f"targets.{self.name}",
                mend=f"list targets.{self.name}.classes and set class_weights=none, or train on a labelled corpus",
            )
        return self

    def code(self, value: Any) -> int:
        """Class name -> its index."""
        if str(value) not in self.classes:
            raise _Unfit("Unknown label", list(self.classes), repr(value))
        return self.classes.index(str(value))

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Cross-entropy [B]; logits [B, C], value [B]."""
        weight = None
        if self.class_weights == "balanced" and self.prior is not None:
            seen = self.prior > 0  # a class the train split does not hold weighs 1; it occurs only outside training
            weight = torch.where(seen, 1.0 / (seen.sum() * self.prior), 1.0).to(logits)
        return F.cross_entropy(logits, value, weight, reduction="none", label_smoothing=self.label_smoothing)

    def predict(self, logits: Tensor) -> Tensor:
        """Class probabilities [B, C]."""
        return logits.float().softmax(dim=-1)

    def statistics(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Confusion cell and calibration bin of every row, [N, S]."""
        return classification.statistics(prediction, value)

    def figures_of(self, sums: Tensor) -> dict[str, Tensor]:
        """weighted_f1, macro_f1, accuracy (WAR), uar, ece."""
        return classification.figures(sums, self.outputs)

    def chance(self, label: Label) -> dict[str, float]:
        """Figures of guessing uniformly over the C classes."""
        support = torch.bincount(label.value[label.mask], minlength=self.outputs)
        return classification.chance(support) if bool(label.mask.any()) else {}

    def confusion(self, prediction: Tensor, label: Label) -> Tensor:
        """[C, C] counts over the labelled rows, truth down, prediction across."""
        return classification.confusion(prediction[label.mask], label.value[label.mask])

    def per_class(self, prediction: Tensor, label: Label) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of every class."""
        return classification.per_class(self.confusion(prediction, label), self.classes)

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """truth, prediction, confidence (the probability of the prediction), p_<class>."""
        confidence, best = prediction.max(dim=-1)
        names = [self.classes[b] for b in best.tolist()]
        truth = [self.classes[v] if m else None for v, m in zip(label.value.tolist(), label.mask.tolist(), strict=True)]
        shares = {f"p_{c}": p for c, p in zip(self.classes, prediction.T.tolist(), strict=True)}
        return {"truth": truth, "prediction": names, "confidence": confidence.tolist(), **shares}

    def blank(self) -> int:
        """Class 0, hidden by the mask."""
        return 0

    def tensor(self, codes: Sequence[int]) -> Tensor:
        """Class indices -> [B] long."""
        return torch.tensor(codes, dtype=torch.long)

    def shares(self, value: Tensor) -> Tensor:
        """Class indices [B] -> one-hot [B, C]."""
        return F.one_hot(value, self.outputs)


class MultilabelTarget(Target):
    """Any number of C labels: a sigmoid each; macro F1 at threshold 0.5 decides.

    A label is a collection of names, a mapping name -> intensity (present where > 0, as in CMU-MOSEI), or C
    intensities. An empty collection says that no label applies, which is not the same as having no label.

    Args:
        name: key of the label.
        classes: label names in output order.
        weight: factor of the loss.
    """

    kind = "multilabel"
    primary = "macro_f1"

    def __init__(self, name: str, classes: Iterable[object], weight: float = 1.0) -> None:
        super().__init__(name, classes, weight)
        if not self.classes:
            raise self._wrong("classes", "at least one name", [])

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"name": self.name, "classes": list(self.classes), "weight": self.weight}

    def code(self, value: Any) -> list[float]:
        """Names or intensities -> C numbers, 0 or 1."""
        return [float(v > 0) for v in self._vector(value)]

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Binary cross-entropy [B], mean over the labels; logits and value [B, C]."""
        return F.binary_cross_entropy_with_logits(logits, value, reduction="none").mean(dim=-1)

    def predict(self, logits: Tensor) -> Tensor:
        """Label probabilities [B, C]."""
        return logits.float().sigmoid()

    def statistics(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Hits and misses of every row and label, [N, S]."""
        return multilabel.statistics(prediction, value)

    def figures_of(self, sums: Tensor) -> dict[str, Tensor]:
        """macro_f1, micro_f1, weighted_f1, weighted_accuracy."""
        return multilabel.figures(sums, self.outputs)

    def figures(self, prediction: Tensor, label: Label) -> dict[str, float]:
        """Those of `figures_of`, and `auc`, which has no additive statistics and so no interval."""
        out = super().figures(prediction, label)
        return {**out, "auc": multilabel.auc(prediction[label.mask], label.value[label.mask])} if out else {}

    def chance(self, label: Label) -> dict[str, float]:
        """Figures of tossing a coin for every label."""
        return multilabel.chance(label.value[label.mask]) if bool(label.mask.any()) else {}

    def per_class(self, prediction: Tensor, label: Label) -> dict[str, dict[str, float]]:
        """F1, weighted accuracy and support of every label."""
        rows = self.statistics(prediction[label.mask], label.value[label.mask])
        return multilabel.per_class(rows.sum(dim=0), self.classes)

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """truth and prediction (names joined by |), p_<label>."""
        truth = [self._names(v) if m else None for v, m in zip(label.value, label.mask.tolist(), strict=True)]
        shares = {f"p_{c}": p for c, p in zip(self.classes, prediction.T.tolist(), strict=True)}
        return {"truth": truth, "prediction": [self._names(p) for p in prediction], **shares}

    def _names(self, row: Tensor) -> str:
        return "|".join(c for c, v in zip(self.classes, row.tolist(), strict=True) if v > multilabel.THRESHOLD)


class ScoreTarget(Target):
    """A number between `low` and `high`; mean absolute error decides.

    The output lives on the scale where low..high is -1..1, so that the loss weighs alike whatever the range.

    Args:
        name: key of the label.
        low: least score of the corpus.
        high: greatest score of the corpus.
        weight: factor of the loss.
        loss: mse, mae or huber (quadratic up to half the range).
    """

    kind = "score"
    primary = "mae"
    higher_is_better = False

    def __init__(
        self, name: str, low: float, high: float, weight: float = 1.0, loss: Literal["mse", "mae", "huber"] = "mse"
    ) -> None:
        super().__init__(name, None, weight)
        self.low, self.high, self.distance = float(low), float(high), loss
        if not self.low < self.high:
            raise self._wrong("high", f"more than low ({low})", high)
        if loss not in ("mse", "mae", "huber"):
            raise self._wrong("loss", "mse, mae or huber", loss)

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"name": self.name, "low": self.low, "high": self.high, "weight": self.weight, "loss": self.distance}

    def code(self, value: Any) -> float:
        """A number inside the range."""
        score = _number(value)
        if not self.low <= score <= self.high:
            raise _Unfit("Score out of range", f"{self.low} to {self.high}", repr(value))
        return score

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Distance [B] on the -1..1 scale; logits [B, 1], value [B]."""
        distance = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}[self.distance]
        truth = (value - self._middle) / self._half
        return distance(logits.squeeze(-1), truth, reduction="none")

    def predict(self, logits: Tensor) -> Tensor:
        """Scores [B, 1], held inside the range."""
        return (logits.float() * self._half + self._middle).clamp(self.low, self.high)

    def statistics(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Errors and moments of every row, [N, S]."""
        return regression.statistics(prediction.squeeze(-1), value)

    def figures_of(self, sums: Tensor) -> dict[str, Tensor]:
        """mae, rmse, pearson, ccc."""
        return regression.figures(sums)

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """truth, prediction."""
        truth = [v if m else None for v, m in zip(label.value.tolist(), label.mask.tolist(), strict=True)]
        return {"truth": truth, "prediction": prediction.squeeze(-1).tolist()}

    def blank(self) -> float:
        """The middle of the range, hidden by the mask."""
        return self._middle

    def shares(self, value: Tensor) -> Tensor:
        """Scores [B] -> [B, 1]."""
        return value.unsqueeze(-1)

    @property
    def _middle(self) -> float:
        return (self.low + self.high) / 2

    @property
    def _half(self) -> float:
        return (self.high - self.low) / 2


class DistributionTarget(Target):
    """Shares of C emotions that sum to one (VCE intensities, rater votes); KL divergence decides.

    A label is a mapping name -> intensity or C intensities; they are divided by their sum.

    Args:
        name: key of the label.
        classes: emotion names in output order.
        weight: factor of the loss.
    """

    kind = "distribution"
    primary = "kl"
    higher_is_better = False

    def __init__(self, name: str, classes: Iterable[object], weight: float = 1.0) -> None:
        super().__init__(name, classes, weight)
        if len(self.classes) < 2:
            raise self._wrong("classes", "at least two names", list(self.classes))

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"name": self.name, "classes": list(self.classes), "weight": self.weight}

    def code(self, value: Any) -> list[float]:
        """Intensities -> C shares that sum to one."""
        row = self._vector(value)
        if sum(row) == 0:
            raise _Unfit("Distribution without mass", "at least one intensity above 0", repr(value))
        return [v / sum(row) for v in row]

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """KL divergence of the truth from the prediction [B], in nats; logits and value [B, C]."""
        return F.kl_div(logits.log_softmax(dim=-1), value, reduction="none").sum(dim=-1)

    def predict(self, logits: Tensor) -> Tensor:
        """Shares [B, C]."""
        return logits.float().softmax(dim=-1)

    def statistics(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Divergence, cosine and hit of every row, [N, S]."""
        return distribution.statistics(prediction, value)

    def figures_of(self, sums: Tensor) -> dict[str, Tensor]:
        """kl, cosine, top3."""
        return distribution.figures(sums)

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """truth and prediction (the greatest share), t_<class>, p_<class>."""
        mask = label.mask.tolist()
        out: dict[str, list[Any]] = {
            "truth": [self.classes[v] if m else None for v, m in zip(label.value.argmax(-1).tolist(), mask, strict=True)],
            "prediction": [self.classes[p] for p in prediction.argmax(-1).tolist()],
        }
        for i, c in enumerate(self.classes):
            out[f"t_{c}"] = [v if m else None for v, m in zip(label.value[:, i].tolist(), mask, strict=True)]
            out[f"p_{c}"] = prediction[:, i].tolist()
        return out


def _number(value: Any) -> float:
    """A finite number, from a number or its text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _Unfit("Label that is no number", "a finite number", repr(value))
    return number
