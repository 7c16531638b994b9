"""Task: one label of a dataset, with its coding, loss, prediction and metrics.

Data flow: Sample.labels[name] (the dataset' own words) --encode, collate--> Label; logits --loss--> scalar;
logits --predict--> prediction --statistics--> sums over rows --metrics_of--> numbers, intervals and baselines.

Shapes: B rows of a batch, N rows of a split, C outputs, S additive statistics of a row.
A Task is plain data (it travels to loader workers and into checkpoints); it owns no parameters.
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

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.types import Label


class InvalidLabel(Exception):
    """A label that a Task cannot code: problem, expected, got."""


def number(value: Any) -> float:
    """A finite number, from a number or its text."""
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
        metric: the module of hero_lightning.metrics that scores it.
        activation: logits -> prediction.
        primary: name of the figure that selects a checkpoint; `higher_is_better` says which way.
        name: key in Sample.labels and Batch.labels.
        weight: factor of its loss in the sum.
        classes: names of the outputs; empty for a score.
        prior: [C] mean of the coded train labels (class shares, label rates, mean score), once fitted: the best
            constant answer, from which class weights and the majority line are made; [3, C] for a distribution.
    """

    kind: ClassVar[str]
    metric: ClassVar[ModuleType]
    activation: ClassVar[Literal["softmax", "sigmoid", "none"]] = "softmax"
    primary: str
    higher_is_better: bool = True

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
    def encode_label(self, value: Any) -> Any:
        """A label in the dataset' words -> its code (a number or a list of C); one that does not fit is refused."""

    @abstractmethod
    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Loss of every row [B] from logits [B, C] and Label.value."""

    def predict(self, logits: Tensor) -> Tensor:
        """Logits [B, C] -> probabilities or scores [B, C], float32."""
        x = logits.float()
        return x.softmax(dim=-1) if self.activation == "softmax" else x.sigmoid() if self.activation == "sigmoid" else x

    def decode(self, row: Tensor) -> str | float:
        """One prediction [C] -> the answer in the dataset' words: the strongest class."""
        return self.classes[int(row.argmax())]

    def encode(self, value: Any, where: object, unknown: Literal["error", "drop"] = "error") -> Any:
        """A label in the dataset' words -> its code.

        Args:
            unknown: what becomes of a label that does not fit; dropped = None, counted by the caller.

        Raises:
            DataError: with the expected list and what came, unless unknown labels are dropped.
        """
        try:
            return self.encode_label(value)
        except InvalidLabel as error:
            if unknown == "drop":
                return None
            problem, expected, got = error.args
            hint = f"correct the label, let dataset.tasks.{self.name} admit it, or set dataset.unknown_label=drop"
            problem = f"{problem} for task {self.name}."
            raise DataError(problem, expected=expected, got=got, where=where, hint=hint) from None

    def fit(self, values: Iterable[Any]) -> Task:
        """Learns from the labels of the train split (None = no label); those that do not fit are passed over."""
        codes = [self.encode(v, "the train split", "drop") for v in values if v is not None]
        codes = [c for c in codes if c is not None]
        if codes:
            self.prior = self._constant(self._spread(self._tensor(codes)).double())
        return self

    def collate(self, values: Sequence[Any], ids: Sequence[str]) -> Label:
        """B labels in the dataset' words (None = no label) and their sample ids -> Label."""
        codes = [None if v is None else self.encode(v, i) for v, i in zip(values, ids, strict=True)]
        mask = torch.tensor([c is not None for c in codes], dtype=torch.bool)
        return Label(value=self._tensor([self._blank() if c is None else c for c in codes]), mask=mask)

    def loss(self, logits: Tensor, label: Label, group: Tensor | None = None) -> Tensor:
        """Mean loss over the labelled rows.

        Args:
            logits: [B, C].
            group: [B] item of every row; read by Tasks that compare the rows of an item.

        Returns:
            Scalar; exactly zero, yet connected to the logits, where no row is labelled. Class weights multiply
            rows and do not divide the mean: they average to one over the train split.
        """
        rows = self.row_loss(logits.float(), label.value)
        return torch.where(label.mask, rows, 0.0).sum() / label.mask.sum().clamp(min=1)

    def statistics(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Predictions [N, C] and Label.value of labelled rows -> [N, S] float64, whose sums give the metrics."""
        return self.metric.statistics(prediction, value)

    def metrics_of(self, sums: Tensor) -> dict[str, Tensor]:
        """Summed statistics [..., S] -> figure name -> [...]; the primary figure first."""
        return self.metric.metrics(sums, self.outputs)

    def metrics(self, prediction: Tensor, label: Label) -> dict[str, float]:
        """Metrics over the labelled rows of predictions [N, C], the primary one first; empty without any."""
        rows = self.statistics(prediction[label.mask], label.value[label.mask])
        return {k: float(v) for k, v in self.metrics_of(rows.sum(dim=0)).items()} if len(rows) else {}

    def majority(self, label: Label) -> dict[str, float]:
        """Metrics of the constant answer fitted on the train split; empty before `fit`."""
        if self.prior is None:
            return {}
        return self.metrics(self.prior.expand(len(label.mask), -1), label)

    def chance(self, label: Label) -> dict[str, float]:
        """Metrics expected of uniform guessing; empty where that is not defined, or nothing is labelled."""
        guess = getattr(self.metric, "chance", None)
        return guess(label.value[label.mask], self.outputs) if guess and bool(label.mask.any()) else {}

    def per_class(self, prediction: Tensor, label: Label) -> dict[str, dict[str, float]]:
        """Class name -> its metrics over the labelled rows; empty where there are no classes to tell apart."""
        if (tell := getattr(self.metric, "per_class", None)) is None:
            return {}
        rows = self.statistics(prediction[label.mask], label.value[label.mask])
        return tell(rows.sum(dim=0), self.classes)

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """Columns of the prediction file, N long: truth (None without a label), prediction, p_<class>."""
        truth = self._spread(label.value)
        columns: dict[str, list[Any]] = {
            "truth": [self.decode(v) if m else None for v, m in zip(truth, label.mask.tolist(), strict=True)],
            "prediction": [self.decode(p) for p in prediction],
        }
        for i, name in enumerate(self.classes):
            columns[f"p_{name}"] = prediction[:, i].tolist()
        return columns

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, classes as fitted, in builtins."""
        given = {name: getattr(self, name) for name in signature(type(self)).parameters}
        return given | ({"classes": list(self.classes) or None} if "classes" in given else {})

    def state(self) -> dict[str, Any]:
        """Everything the Task is, in builtins, for the checkpoint."""
        prior = None if self.prior is None else self.prior.tolist()
        return {"kind": self.kind, "settings": self.settings(), "prior": prior}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Task:
        """The Task that `state` describes."""
        kinds: dict[str, Any] = {k.kind: k for k in Task.__subclasses__()}
        task: Task = kinds[state["kind"]](**state["settings"])
        task.prior = None if state["prior"] is None else torch.tensor(state["prior"], dtype=torch.float64)
        return task

    def _constant(self, truth: Tensor) -> Tensor:
        """Coded train labels [N, C] -> the best constant answer."""
        return truth.mean(dim=0)

    def _blank(self) -> Any:
        """The code that stands in rows without a label; the mask hides it."""
        return [0.0] * self.outputs

    def _tensor(self, codes: Sequence[Any]) -> Tensor:
        """B codes -> Label.value."""
        return torch.tensor(codes, dtype=torch.float32)

    def _spread(self, value: Tensor) -> Tensor:
        """Label.value -> [B, C], the shape of a prediction."""
        return value.reshape(len(value), self.outputs)

    def _wrong(self, key: str, expected: object, got: object) -> ConfigError:
        where = f"dataset.tasks.{self.name}.{key}"
        return ConfigError(f"{key} of task {self.name} is wrong.", expected=expected, got=got, where=where)

    def _vector(self, value: Any) -> list[float]:
        """Names present, name -> intensity, or C intensities -> C finite numbers >= 0; a name left out is 0."""
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
            raise InvalidLabel(
                "Wrong number of intensities", f"{self.outputs}, one for each of {expected}", repr(value)
            )
        if unknown := sorted(set(numbers) - set(self.classes)):
            raise InvalidLabel("Unknown label", expected, unknown)
        row = [number(numbers.get(c, 0.0)) for c in self.classes]
        if min(row) < 0:
            raise InvalidLabel("Negative intensity", "numbers >= 0", repr(value))
        return row
