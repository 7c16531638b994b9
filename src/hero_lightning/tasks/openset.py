"""OpenTask: a set of free words per clip, learnt over the vocabulary of the train split.

Data flow: words --code--> [C + 1] (last: how many lie outside the vocabulary); logits --row_loss--> [B].

Shapes: B rows of a batch, C words of the vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from hero_lightning.errors import DataError
from hero_lightning.metrics import labelsets
from hero_lightning.tasks.base import InvalidLabel, Task
from hero_lightning.types import Label


class OpenTask(Task):
    """Any words (OV-MERD): a sigmoid for each of the train split's frequent ones; the F1 of label sets decides.

    A label is a collection of at least one word; case does not count. A word outside the vocabulary cannot be
    predicted and costs recall.

    Args:
        classes: the vocabulary; None = words of the train split, most frequent first.
        least: how often the train split must hold a word.
        most: greatest size of the vocabulary.
    """

    kind = "open"
    metric: ClassVar[ModuleType] = labelsets
    activation = "sigmoid"
    primary = "set_f1"

    def __init__(
        self, name: str, classes: Iterable[object] | None = None, weight: float = 1.0, least: int = 2, most: int = 500
    ) -> None:
        super().__init__(name, classes, weight)
        self.least, self.most = least, most
        if least < 1 or most < 1:
            raise self._wrong("least" if least < 1 else "most", "at least 1", min(least, most))

    def fit(self, values: Iterable[Any]) -> Task:
        """Fixes the vocabulary where it is open, and how often each word occurs."""
        known = [v for v in values if v is not None]
        if not self.classes:
            counts = Counter(word for v in known for word in _words(v))
            ranked = sorted((w for w, n in counts.items() if n >= self.least), key=lambda w: (-counts[w], w))
            self.classes = tuple(ranked[: self.most])
        if not self.classes:
            raise DataError(
                f"The train split gives task {self.name} no vocabulary.",
                expected=f"words that occur at least {self.least} times",
                got=f"{len(known)} label sets without one",
                where=f"dataset.tasks.{self.name}",
                hint=f"dataset.tasks.{self.name}.least=1, or list its classes",
            )
        return super().fit(known)

    def encode_label(self, value: Any) -> list[float]:
        """Words -> C numbers, 0 or 1, and how many words are none of them."""
        words = _words(value)
        return [float(c in words) for c in self.classes] + [float(len(words - set(self.classes)))]

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Binary cross-entropy [B], mean over the vocabulary; logits [B, C], value [B, C + 1]."""
        return F.binary_cross_entropy_with_logits(logits, value[:, :-1], reduction="none").mean(dim=-1)

    def decode(self, row: Tensor) -> str:
        """The words said, joined by |."""
        return "|".join(c for c, said in zip(self.classes, labelsets.named(row[None])[0].tolist(), strict=True) if said)

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """truth (+n: words outside the vocabulary) and prediction; no column per word."""
        truth = []
        for row, labelled in zip(label.value.tolist(), label.mask.tolist(), strict=True):
            said = [c for c, v in zip(self.classes, row, strict=False) if v] + [f"+{row[-1]:.0f}"] * bool(row[-1])
            truth.append("|".join(said) if labelled else None)
        return {"truth": truth, "prediction": [self.decode(p) for p in prediction]}

    def _blank(self) -> list[float]:
        return [0.0] * (self.outputs + 1)

    def _spread(self, value: Tensor) -> Tensor:
        return value[:, :-1]


def _words(value: Any) -> set[str]:
    """A label's words in lower case."""
    if isinstance(value, str) or not isinstance(value, Iterable) or not (words := {str(w).lower() for w in value}):
        raise InvalidLabel("Label that is no set of words", "a list of at least one word", repr(value))
    return words
