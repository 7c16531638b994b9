"""PairTask: a utility per clip whose differences predict preferences (Bradley & Terry 1952).

Data flow: places of a clip in comparisons --encode_label--> packed integers; logits, items of the batch --loss-->
scalar; logits --predict--> utility [B, 1].

Shapes: B rows of a batch, M comparisons per clip.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.errors import in_range
from hero_lightning.metrics import ranking
from hero_lightning.tasks.base import InvalidLabel, Task
from hero_lightning.types import Label


class PairTask(Task):
    """A utility per clip, learnt from comparisons; primary metric pair accuracy.

    A label lists the clip's places in comparisons: (comparison, place, number of clips), place 0 the least preferred.
    The loss uses the items of the batch instead: an item has its clips from least to most preferred, and every pair of
    them counts.

    Args:
        max_comparisons: M, the most comparisons of one clip.
    """

    kind = "pair"
    formulas = ranking
    dtype = torch.long
    activation = "none"
    primary = "pair_accuracy"

    def __init__(self, name: str, weight: float = 1.0, max_comparisons: int = 64) -> None:
        super().__init__(name, None, weight)
        self.max_comparisons = max_comparisons
        in_range(self.key("max_comparisons"), max_comparisons, "[1, inf)")

    @property
    def outputs(self) -> int:
        return 1

    def encode_label(self, value: Any) -> list[int]:
        """Places -> M packed integers, padded with -1."""
        try:
            places = [(int(comparison), int(place), int(size)) for comparison, place, size in value]
        except (TypeError, ValueError):
            places = [(-1, 0, 0)]
        if any(n < 0 or not 0 <= place < size < ranking.SLOT or size < 2 for n, place, size in places):
            expected = f"(comparison, place, size) with place < size < {ranking.SLOT}"
            raise InvalidLabel("Label that is no place in a comparison", expected, repr(value))
        if len(places) > self.max_comparisons:
            raise InvalidLabel("Clip in too many comparisons", f"at most {self.max_comparisons}", len(places))
        return [ranking.pack(*place) for place in places] + [-1] * (self.max_comparisons - len(places))

    def fit(self, values: Iterable[Any]) -> Task:
        """The constant prediction is equal utilities."""
        self.prior = torch.zeros(1, dtype=torch.float64)
        return self

    def loss(self, logits: Tensor, label: Label, group: Tensor | None = None) -> Tensor:
        """Mean over the pairs inside items of -log sigmoid(preferred - other); zero, with zero gradient, without pairs.

        Args:
            logits: [B, 1] utilities.
            label: its mask says which rows are labelled.
            group: [B] item of every row; rows of an item go from least to most preferred. None = one item.
        """
        utility = logits.float().squeeze(-1)
        rows = torch.arange(len(utility), device=utility.device)
        group = torch.zeros_like(rows) if group is None else group
        pairs = (group[:, None] == group) & (rows[:, None] < rows)  # [B, B] other clip, preferred clip
        pairs &= label.mask[:, None] & label.mask
        losses = F.softplus(utility[:, None] - utility)
        return torch.where(pairs, losses, 0.0).sum() / pairs.sum().clamp(min=1)

    def row_loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """The loss of all rows as one item, repeated [B]: a single clip has no loss."""
        return self.loss(logits, Label(value, (value >= 0).any(dim=-1))).expand(len(value))

    def columns(self, prediction: Tensor, label: Label) -> dict[str, list[Any]]:
        """Columns truth (comparison:place/size, joined by |) and prediction (the utility)."""
        parts = torch.stack(ranking.unpack(label.value), dim=-1).tolist()
        return {
            "truth": ["|".join(f"{n}:{p}/{s}" for n, p, s in row if n >= 0) or None for row in parts],
            "prediction": prediction.flatten().tolist(),
        }

    def _placeholder(self) -> list[int]:
        return [-1] * self.max_comparisons
