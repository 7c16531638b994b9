"""OpenTask: a set of words per clip, predicted over the vocabulary of the train split.

Data flow: words --encode_label--> [C + 1] (last: number of words outside the vocabulary); logits --row_loss--> [B].

Shapes: B rows of a batch, C words of the vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from hero_lightning.errors import DataError, in_range
from hero_lightning.metrics import labelsets
from hero_lightning.tasks.base import InvalidLabel, Task
from hero_lightning.types import Label


class OpenTask(Task):
    """Open vocabulary (OV-MERD): a sigmoid for each frequent word of the train split, primary metric set F1.

    A label is a collection of at least one word, in any case. Words outside the vocabulary lower recall.

    Args:
        classes: the vocabulary; None = words of the train split, most frequent first.
        min_count: fewest occurrences of a word in the train split.
        max_classes: greatest size of the vocabulary.
    """

    kind = "open"
    formulas = labelsets
    activation = "sigmoid"
    primary = "set_f1"

    def __init__(
        self,
        name: str,
        classes: Iterable[object] | None = None,
        weight: float = 1.0,
        min_count: int = 2,
        max_classes: int = 500,
    ) -> None:
        super().__init__(name, classes, weight)
        self.min_count, self.max_classes = min_count, max_classes
        in_range(self.key("min_count"), min_count, "[1, inf)")
        in_range(self.key("max_classes"), max_classes, "[1, inf)")

    def fit(self, values: Iterable[Any]) -> Task:
        """Sets the vocabulary, if none was given, and the share of samples with each word; DataError without words."""
        known = [v for v in values if v is not None]
        if not self.classes:
            counts = Counter(word for v in known for word in _words(v))
            ranked = sorted((w for w, n in counts.items() if n >= self.min_count), key=lambda w: (-counts[w], w))
            self.classes = tuple(ranked[: self.max_classes])
        if not self.classes:
            problem = f"The train split has no vocabulary for task {self.name}."
            expected, got = f"words that occur at least {self.min_count} times", f"{len(known)} label sets without any"
            where, hint = self.key("min_count"), f"{self.key('min_count')}=1"
            raise DataError(problem, expected=expected, got=got, where=where, hint=hint)
        return super().fit(known)

    def encode_label(self, value: Any) -> list[float]:
        """Words -> C numbers 0 or 1, and the number of words outside the vocabulary."""
        words = _words(value)
        return [float(c in words) for c in self.classes] + [float(len(words - set(self.classes)))]

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Binary cross-entropy [B], mean over the vocabulary; logits [B, C], value [B, C + 1]."""
        return F.binary_cross_entropy_with_logits(logits, value[:, :-1], reduction="none").mean(dim=-1)

    def decode(self, row: Tensor) -> str:
        """The predicted words, joined by |."""
        predicted = labelsets.predicted_set(row[None])[0]
        return "|".join(c for c, p in zip(self.classes, predicted, strict=True) if p)

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """Columns truth (+n: n words outside the vocabulary) and prediction; no column per word."""
        truth = []
        for row, labelled in zip(label.value.tolist(), label.mask.tolist(), strict=True):
            words = [c for c, v in zip(self.classes, row, strict=False) if v] + [f"+{row[-1]:.0f}"] * bool(row[-1])
            truth.append("|".join(words) if labelled else None)
        return {"truth": truth, "prediction": [self.decode(p) for p in prediction]}

    def _placeholder(self) -> list[float]:
        return [0.0] * (self.outputs + 1)

    def _as_prediction(self, value: Tensor) -> Tensor:
        return value[:, :-1]


def _words(value: Any) -> set[str]:
    """The words of a label in lower case."""
    if isinstance(value, str) or not isinstance(value, Iterable) or not (words := {str(w).lower() for w in value}):
        raise InvalidLabel("Label that is no set of words", "a list of at least one word", repr(value))
    return words
