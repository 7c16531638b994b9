"""Metrics that collect the rows of a split: predictions per Task, and gate weights and presence; each sample once.

Data flow: batches of all ranks --update--> rows --compute (gathered, deduplicated by index)--> Predictions.

Shapes: B rows of a batch, N samples of a split, C outputs, E experts, U modalities with context tokens, K columns.
Every rank must be updated at least once before `compute`; the evaluation sampler pads, so all have as many batches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from hero_lightning.types import Label


class Predictions:
    """Predictions of a split on one Task, on the CPU: metrics are computed in float64, which MPS does not support.

    Attributes:
        index: [N] row numbers in the split, ascending.
        prediction: [N, C] probabilities or scores.
        label: Label of N rows.
    """

    # Not a dataclass: Metric.compute recurses into those and would squeeze a split with a single sample.
    def __init__(self, index: Tensor, prediction: Tensor, label: Label) -> None:
        self.index, self.prediction, self.label = index, prediction, label


class Explanations:
    """Gate weights and other diagnostics of the predictions of a split.

    Attributes:
        index: [N] row numbers in the split, ascending.
        numbers: column name -> [N]: gate_<expert>, present_<expert>, imputed_<expert>, importance_<modality>, sync.
    """

    def __init__(self, index: Tensor, numbers: dict[str, Tensor]) -> None:
        self.index, self.numbers = index, numbers

    def matrix(self, prefix: str) -> tuple[tuple[str, ...], Tensor]:
        """Columns `prefix_<name>`: their K names and values [N, K]."""
        names = tuple(k.removeprefix(f"{prefix}_") for k in self.numbers if k.startswith(f"{prefix}_"))
        columns = [self.numbers[f"{prefix}_{n}"] for n in names]
        return names, torch.stack(columns, dim=1) if columns else torch.empty(len(self.index), 0)


class PredictionTable(Metric):
    """Predictions and labels of one Task; a sample seen twice (padding, resume) counts once."""

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
        """Adds row numbers [B], predictions [B, C] and labels of a batch."""
        self.index.append(index)
        self.prediction.append(prediction.detach().float())
        self.value.append(label.value)
        self.mask.append(label.mask)

    def compute(self) -> Predictions:
        """All rows in the order of their index."""
        index, keep = first_of_each(dim_zero_cat(self.index))
        label = Label(dim_zero_cat(self.value)[keep].cpu(), dim_zero_cat(self.mask)[keep].cpu())
        return Predictions(index.cpu(), dim_zero_cat(self.prediction)[keep].cpu(), label)


class ExplanationTable(Metric):
    """Gate weights, presence, imputation, importance and audio-visual sync of every sample."""

    full_state_update = False
    index: list[Tensor]
    numbers: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        for name in ("index", "numbers"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, outputs: Any) -> None:
        """Adds row numbers [B] and the `models.outputs.Outputs` of a batch (Any: metrics do not import models)."""
        columns: dict[str, Tensor] = {}
        for name, values in (("gate", outputs.gate), ("present", outputs.present), ("imputed", outputs.imputed)):
            if values is not None:  # [B, E]
                columns |= {f"{name}_{e}": values[:, i] for i, e in enumerate(outputs.experts)}
        if outputs.importance is not None:  # [B, U]
            columns |= {f"importance_{s[0]}": outputs.importance[:, i] for i, s in enumerate(outputs.segments)}
        if outputs.sync_logit is not None:
            present = outputs.present[:, outputs.experts.index("synergy")]
            columns["sync"] = torch.where(present, outputs.sync_logit.float().sigmoid(), torch.nan)
        self.names = tuple(columns)
        self.index.append(index)
        self.numbers.append(torch.stack([c.detach().float() for c in columns.values()], dim=1))  # [B, K]

    def compute(self) -> Explanations:
        """All rows in the order of their index."""
        index, keep = first_of_each(dim_zero_cat(self.index))
        numbers = dim_zero_cat(self.numbers)[keep].cpu()
        return Explanations(index.cpu(), {name: numbers[:, k] for k, name in enumerate(self.names)})


def first_of_each(index: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers [M] with repetitions -> the distinct ones [N] ascending, and the position of their first [N]."""
    order = index.argsort(stable=True)
    ranked = index[order]
    new = torch.ones_like(ranked, dtype=torch.bool)
    new[1:] = ranked[1:] != ranked[:-1]
    return ranked[new], order[new]
