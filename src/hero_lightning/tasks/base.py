"""Task: one label of a dataset with its encoding, loss, prediction and metrics.

Data flow: Sample.labels[name] (as the dataset writes it) --encode, collate--> Label; logits --loss--> scalar;
logits --predict--> prediction --statistics--> summed over rows --metrics_of--> metrics, intervals and baselines.

Shapes: B rows of a batch, N rows of a split, C outputs, S additive statistics of a row.
A Task has no parameters; it is pickled into loader workers and saved in checkpoints.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from hero_lightning.errors import ConfigError, DataError, in_range
from hero_lightning.types import Label


class InvalidLabel(Exception):
    """A label that a Task cannot encode; args: problem, expected, got."""


def number(value: Any) -> float:
    """A finite number, from a number or its text; InvalidLabel for anything else."""
    try:
        out = float(value)
    except (TypeError, ValueError):
        out = math.nan
    if not math.isfinite(out):
        raise InvalidLabel("Label that is no number", "a finite number", repr(value))
    return out


class Task(ABC):
    """One label of a dataset.

    Attributes:
        kind: class, multilabel, score, distribution, pair or open.
        formulas: module of hero_lightning.metrics with `statistics`, `metrics`, and optionally `chance`, `per_class`.
        activation: function from logits to prediction.
        dtype: of Label.value.
        primary: name of the metric that selects a checkpoint; `higher_is_better` is its direction.
        min_classes: fewest classes that may be given.
        name: key in Sample.labels and Batch.labels.
        weight: factor of the loss in the total loss.
        classes: names of the outputs; empty for a score.
        prior: [C] mean of the encoded train labels (class shares, label rates, mean score), None before `fit`: the
            constant prediction of the majority baseline, and source of class weights; [3, C] for a distribution.
    """

    kind: ClassVar[str]
    formulas: ModuleType
    min_classes: ClassVar[int] = 0
    activation: ClassVar[Literal["softmax", "sigmoid", "none"]] = "softmax"
    dtype: ClassVar[torch.dtype] = torch.float32
    primary: str
    higher_is_better: bool = True

    def __init__(self, name: str, classes: Iterable[object] | None, weight: float = 1.0) -> None:
        self.name, self.weight = name, float(weight)
        self.classes: tuple[str, ...] = tuple(str(c) for c in classes or ())
        self.prior: Tensor | None = None
        in_range(self.key("weight"), self.weight, "[0, inf)")
        if classes is not None and len(set(self.classes)) < max(len(self.classes), self.min_classes):
            expected, where = f"at least {self.min_classes} different names", self.key("classes")
            raise ConfigError("Invalid list of classes.", expected=expected, got=list(self.classes), where=where)

    @property
    def outputs(self) -> int:
        """C, the width of the logits; 0 if the classes are not known yet."""
        return len(self.classes)

    def key(self, option: str) -> str:
        """Config key of an option, for messages."""
        return f"dataset.tasks.{self.name}.{option}"

    @abstractmethod
    def encode_label(self, value: Any) -> Any:
        """A label as the dataset writes it -> its code, a number or a list of numbers; InvalidLabel if it has none."""

    @abstractmethod
    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Loss of every row [B], from logits [B, C] and Label.value."""

    def predict(self, logits: Tensor) -> Tensor:
        """Logits [B, C] -> probabilities or scores [B, C], float32."""
        x = logits.float()
        return x.softmax(dim=-1) if self.activation == "softmax" else x.sigmoid() if self.activation == "sigmoid" else x

    def decode(self, row: Tensor) -> str | float:
        """One prediction [C] -> a label as the dataset writes it: the most probable class, or the score."""
        return self.classes[int(row.argmax())] if self.classes else float(row)

    def encode(self, value: Any, where: object, unknown: Literal["error", "drop"] = "error") -> Any:
        """`encode_label`, with the sample id `where` in the message; None for an invalid label if unknown is drop.

        Raises:
            DataError: the label is invalid and `unknown` is error.
        """
        try:
            return self.encode_label(value)
        except InvalidLabel as error:
            if unknown == "drop":
                return None
            problem, expected, got = error.args
            problem, hint = f"{problem} for task {self.name}.", "dataset.unknown_label=drop"
            raise DataError(problem, expected=expected, got=got, where=where, hint=hint) from None

    def fit(self, values: Iterable[Any]) -> Task:
        """Sets `prior` from the labels of the train split; None and invalid labels are skipped. Returns the Task."""
        codes = [self.encode(v, "the train split", "drop") for v in values if v is not None]
        if codes := [c for c in codes if c is not None]:
            self.prior = self._best_constant(self._as_prediction(torch.tensor(codes, dtype=self.dtype)).double())
        return self

    def collate(self, values: Sequence[Any], ids: Sequence[str]) -> Label:
        """B labels as the dataset writes them (None = no label) and their sample ids -> Label."""
        codes = [None if v is None else self.encode(v, i) for v, i in zip(values, ids, strict=True)]
        values = [self._placeholder() if c is None else c for c in codes]
        mask = torch.tensor([c is not None for c in codes], dtype=torch.bool)
        return Label(torch.tensor(values, dtype=self.dtype), mask)

    def loss(self, logits: Tensor, label: Label, group: Tensor | None = None) -> Tensor:
        """Mean loss over the labelled rows.

        Args:
            logits: [B, C].
            label: labels of the B rows.
            group: [B] item of every row, for Tasks that compare the rows of an item.

        Returns:
            Scalar, 0 without labelled rows. It is not divided by the class weights: their mean over train is 1.
        """
        rows = self.row_loss(logits.float(), label.value)
        return torch.where(label.mask, rows, 0.0).sum() / label.mask.sum().clamp(min=1)

    def statistics(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Predictions [N, C] and Label.value of labelled rows -> additive statistics [N, S] float64."""
        return self.formulas.statistics(prediction, value)

    def metrics_of(self, sums: Tensor) -> dict[str, Tensor]:
        """Summed statistics [..., S] -> metric name -> [...], the primary metric first."""
        return self.formulas.metrics(sums, self.outputs)

    def metrics(self, prediction: Tensor, label: Label) -> dict[str, float]:
        """Metrics over the labelled rows of predictions [N, C], the primary one first; empty without labelled rows."""
        rows = self.statistics(prediction[label.mask], label.value[label.mask])
        return {k: float(v) for k, v in self.metrics_of(rows.sum(dim=0)).items()} if len(rows) else {}

    def majority(self, label: Label) -> dict[str, float]:
        """Metrics of predicting `prior` for every row; empty before `fit`."""
        return {} if self.prior is None else self.metrics(self.prior.expand(len(label.mask), -1), label)

    def chance(self, label: Label) -> dict[str, float]:
        """Expected metrics of uniform guessing; empty if not defined for the kind, or without labelled rows."""
        chance = getattr(self.formulas, "chance", None)
        return chance(label.value[label.mask], self.outputs) if chance and bool(label.mask.any()) else {}

    def per_class(self, prediction: Tensor, label: Label) -> dict[str, dict[str, float]]:
        """Class name -> its metrics over the labelled rows; empty if not defined for the kind."""
        per_class = getattr(self.formulas, "per_class", None)
        rows = self.statistics(prediction[label.mask], label.value[label.mask])
        return per_class(rows.sum(dim=0), self.classes) if per_class else {}

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """Columns of the prediction file, N values each: truth (None without a label), prediction, p_<class>."""
        truth = self._as_prediction(label.value)
        columns: dict[str, list[Any]] = {
            "truth": [self.decode(v) if m else None for v, m in zip(truth, label.mask.tolist(), strict=True)],
            "prediction": [self.decode(p) for p in prediction],
        }
        for i, name in enumerate(self.classes):
            columns[f"p_{name}"] = prediction[:, i].tolist()
        return columns

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, with the fitted classes, in builtin types."""
        arguments = {name: getattr(self, name) for name in signature(type(self)).parameters}
        return arguments | ({"classes": list(self.classes) or None} if "classes" in arguments else {})

    def state(self) -> dict[str, Any]:
        """The Task in builtin types, for a checkpoint."""
        prior = None if self.prior is None else self.prior.tolist()
        return {"kind": self.kind, "settings": self.settings(), "prior": prior}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Task:
        """The Task saved by `state`."""
        kinds: dict[str, Any] = {k.kind: k for k in Task.__subclasses__()}
        task: Task = kinds[state["kind"]](**state["settings"])
        task.prior = None if state["prior"] is None else torch.tensor(state["prior"], dtype=torch.float64)
        return task

    def _best_constant(self, truth: Tensor) -> Tensor:
        """Train labels in the shape of predictions [N, C] -> the best constant prediction."""
        return truth.mean(dim=0)

    def _placeholder(self) -> Any:
        """Code of a row without a label, where the mask is False."""
        return [0.0] * self.outputs

    def _as_prediction(self, value: Tensor) -> Tensor:
        """Label.value -> the prediction [B, C] that equals it."""
        return value.reshape(len(value), self.outputs)

    def _intensities(self, value: Any) -> list[float]:
        """Class names, a mapping name -> intensity, or C intensities -> C numbers >= 0; missing names are 0."""
        expected = list(self.classes)
        if isinstance(value, Mapping):
            numbers = {str(k): v for k, v in value.items()}
        elif isinstance(value, str) or not isinstance(value, Iterable):
            raise InvalidLabel("Label of a wrong kind", f"a list or mapping over {expected}", repr(value))
        elif all(isinstance(v, str) for v in value):
            numbers = dict.fromkeys(value, 1.0)
        elif len(list(value)) == self.outputs:
            numbers = dict(zip(self.classes, value, strict=True))
        else:
            raise InvalidLabel("Wrong number of intensities", f"one for each of {expected}", repr(value))
        if unknown := sorted(set(numbers) - set(self.classes)):
            raise InvalidLabel("Unknown label", expected, unknown)
        row = [number(numbers.get(c, 0.0)) for c in self.classes]
        if min(row) < 0:
            raise InvalidLabel("Negative intensity", "numbers >= 0", repr(value))
        return row
