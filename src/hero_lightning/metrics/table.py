"""Rows of a split, kept while batches pass: predictions per Task and what explains them, each sample once.

Data flow: batches of all ranks --update--> rows --compute (gathered over ranks, keyed by index)--> Predictions.

Shapes: B rows of a batch, N samples of a split, C outputs, E experts, U modalities with a segment, K explaining numbers.
Every rank must have updated at least once before `compute` (the evaluation sampler pads, so each has equal batches).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from hero_lightning.types import Label

if TYPE_CHECKING:
    from hero_lightning.models.outputs import Outputs


class Predictions:
    """Predictions of a split on one Task, on the CPU (metrics are computed in float64, which MPS lacks).

    Attributes:
        index: [N] row numbers in the split, ascending.
        prediction: [N, C] probabilities or scores.
        label: the truth, N rows.
    """

    # No dataclass: Metric.compute would walk into it and drop the axis of a split with a single sample.
    def __init__(self, index: Tensor, prediction: Tensor, label: Label) -> None:
        self.index, self.prediction, self.label = index, prediction, label


class Explanations:
    """What explains the predictions of a split.

    Attributes:
        index: [N] row numbers in the split, ascending.
        numbers: column name -> [N]: gate_<expert>, present_<expert>, imputed_<expert>, importance_<modality>, sync.
    """

    def __init__(self, index: Tensor, numbers: dict[str, Tensor]) -> None:
        self.index, self.numbers = index, numbers

    def matrix(self, prefix: str) -> tuple[tuple[str, ...], Tensor]:
        """Names after `prefix_` and their columns [N, names]."""
        names = tuple(k.removeprefix(f"{prefix}_") for k in self.numbers if k.startswith(f"{prefix}_"))
        columns = [self.numbers[f"{prefix}_{n}"] for n in names]
        return names, torch.stack(columns, dim=1) if columns else torch.empty(len(self.index), 0)


class PredictionTable(Metric):
    """Keeps predictions and labels of one Task; a sample seen twice (padding, resume) counts once."""

    full_state_update = False
    index: list[Tensor]
    prediction: list[Tensor]
    value: list[Tensor]
    mask: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", "prediction", "value", "mask"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, prediction: Tensor, label: Label) -> None:
        """Takes up row numbers [B], predictions [B, C] and labels of a batch."""
        self.index.append(index)
        self.prediction.append(prediction.detach().float())
        self.value.append(label.value)
        self.mask.append(label.mask)

    def compute(self) -> Predictions:
        """All rows, each sample once."""
        index, keep = first_of_each(dim_zero_cat(self.index))
        label = Label(dim_zero_cat(self.value)[keep].cpu(), dim_zero_cat(self.mask)[keep].cpu())
        return Predictions(index.cpu(), dim_zero_cat(self.prediction)[keep].cpu(), label)


class ExplanationTable(Metric):
    """Keeps gate weights, presence, imputation, importance and audio-visual match of every sample."""

    full_state_update = False
    index: list[Tensor]
    numbers: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        for name in ("index", "numbers"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, outputs: Outputs) -> None:
        """Takes up row numbers [B] and the outputs of a batch."""
        columns: dict[str, Tensor] = {}
        for part, table in (("gate", outputs.gate), ("present", outputs.present), ("imputed", outputs.imputed)):
            if table is not None:  # [B, E]
                columns |= {f"{part}_{e}": table[:, i] for i, e in enumerate(outputs.experts)}
        if outputs.importance is not None:  # [B, U]
            columns |= {f"importance_{s[0]}": outputs.importance[:, i] for i, s in enumerate(outputs.segments)}
        if outputs.sync_logit is not None:
            seen = outputs.present[:, outputs.experts.index("synergy")]
            columns["sync"] = torch.where(seen, outputs.sync_logit.float().sigmoid(), torch.nan)
        self.names = tuple(columns)
        self.index.append(index)
        self.numbers.append(torch.stack([c.detach().float() for c in columns.values()], dim=1))  # [B, K]

    def compute(self) -> Explanations:
        """All rows, each sample once."""
        index, keep = first_of_each(dim_zero_cat(self.index))
        numbers = dim_zero_cat(self.numbers)[keep].cpu()
        return Explanations(index.cpu(), {name: numbers[:, k] for k, name in enumerate(self.names)})


def first_of_each(index: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers [M], repeated ones among them -> the distinct ones [N] ascending, and where each stands first [N]."""
    order = index.argsort(stable=True)
    ranked = index[order]
    new = torch.ones_like(ranked, dtype=torch.bool)
    new[1:] = ranked[1:] != ranked[:-1]
    return ranked[new], order[new]
