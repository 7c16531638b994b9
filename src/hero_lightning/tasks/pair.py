"""PairTask: a utility whose differences say which of two clips is preferred (Bradley & Terry 1952).

Data flow: places of a clip in comparisons --code--> packed numbers; logits + items of the batch --loss--> scalar;
logits --predict--> utility [B, 1].

Shapes: B rows of a batch, M places a clip may have.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.metrics import ranking
from hero_lightning.tasks.base import InvalidLabel, Task
from hero_lightning.types import Label


class PairTask(Task):
    """A utility per clip, learnt from comparisons; pair accuracy decides.

    A label is the clip's places: (comparison, place, clips in it), place 0 the least preferred. The loss looks at the
    items of the batch instead: the clips of one item, least preferred first, so a list counts with all its pairs.

    Args:
        most: M, the most comparisons one clip stands in.
    """

    kind = "pair"
    metric: ClassVar[ModuleType] = ranking
    activation = "none"
    primary = "pair_accuracy"

    def __init__(self, name: str, weight: float = 1.0, most: int = 64) -> None:
        super().__init__(name, None, weight)
        self.most = most
        if most < 1:
            raise self._wrong("most", "at least 1", most)

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    def encode_label(self, value: Any) -> list[int]:
        """Places -> M packed numbers, -1 for none."""
        try:
            places = [tuple(map(int, place)) for place in value]
        except (TypeError, ValueError):
            places = [()]
        for place in places:
            if len(place) != 3 or place[0] < 0 or not 0 <= place[1] < place[2] < ranking.SLOT or place[2] < 2:
                expected = f"(comparison, place, size) with place < size < {ranking.SLOT}"
                raise InvalidLabel("Label that is no place in a comparison", expected, repr(value))
        if len(places) > self.most:
            raise InvalidLabel("Clip in too many comparisons", f"at most {self.most} (the task's `most`)", len(places))
        return [ranking.pack(*place) for place in places] + [-1] * (self.most - len(places))

    def fit(self, values: Iterable[Any]) -> Task:
        """The constant answer: all clips are alike."""
        self.prior = torch.zeros(1, dtype=torch.float64)
        return self

    def loss(self, logits: Tensor, label: Label, group: Tensor | None = None) -> Tensor:
        """-log sigmoid(better - worse): mean over the pairs inside items; zero, yet connected, without any.

        Args:
            logits: [B, 1] utilities.
            label: which rows are labelled.
            group: [B] item of every row; rows of an item stand from least to most preferred. None = one item.
        """
        utility = logits.float().squeeze(-1)
        rows = torch.arange(len(utility), device=utility.device)
        same = torch.ones_like(rows)[:, None] == 1 if group is None else group[:, None] == group[None]
        pairs = same & (rows[:, None] < rows[None]) & label.mask[:, None] & label.mask[None]  # [worse, better]
        each = F.softplus(utility[:, None] - utility[None])
        return torch.where(pairs, each, 0.0).sum() / pairs.sum().clamp(min=1)

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """The loss of all rows as one item, the same for each [B]: a clip alone has none."""
        return self.loss(logits, Label(value, (value >= 0).any(dim=-1))).expand(len(value))

    def decode(self, row: Tensor) -> float:
        """The utility."""
        return float(row)

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """truth (comparison:place/size, joined by |) and prediction (the utility)."""
        parts = torch.stack(ranking.unpack(label.value), dim=-1).tolist()
        return {
            "truth": ["|".join(f"{n}:{p}/{s}" for n, p, s in row if n >= 0) or None for row in parts],
            "prediction": prediction.flatten().tolist(),
        }

    def _blank(self) -> list[int]:
        return [-1] * self.most

    def _tensor(self, codes: Any) -> Tensor:
        return torch.tensor(codes, dtype=torch.long)
