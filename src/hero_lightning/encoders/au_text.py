"""Facial action units put into words and read by CLIP's text tower (AffectGPT's AU text route).

Data flow: ActionUnits -> a line of words per stretch of the clip -> token ids (worker) -> CLIP text -> Features.

Shapes: B clips, T steps of a clip, N steps of a batch, L tokens of a line, C table columns, D = `dim`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.encoders.base import Material
from hero_lightning.encoders.pretrained import PretrainedEncoder
from hero_lightning.media.types import ActionUnits
from hero_lightning.types import AU_NAMES, Features

NOTHING = "no facial action unit is active"


class AuWords(PretrainedEncoder):
    """Descriptions of the face as CLIP's text tower places them, one unit vector per stretch of the clip. For au.

    A line names the active muscles, strongest first: "lip corner puller (intensity: 2.41), cheek raiser (intensity:
    1.80)". CLIP reads 77 tokens; what is longer loses its weakest units.

    Args:
        max_steps: equal stretches that a table is averaged over.
        threshold: intensity (0..5) from which on a unit is named.
        name, dtype, revision: see PretrainedEncoder.
    """

    takes: ClassVar[Material] = "table"
    modality, instead = "au", "au_values"
    reads: ClassVar[dict[str, str]] = {"clip_text_model": "CLIPTextModelWithProjection"}

    def __init__(
        self, name: str, max_steps: int = 8, threshold: float = 0.5, dtype: str = "float32", revision: str | None = None
    ) -> None:
        super().__init__(name, dtype=dtype, revision=revision)
        self._at_least(1, max_steps=max_steps)
        self.max_steps, self.threshold = max_steps, threshold
        self.options.update(max_steps=max_steps, threshold=threshold)

    def _part(self, whole: Any) -> Any:
        return getattr(whole, "text_config", whole)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Width D of the space that CLIP's words and pictures share."""
        return self.config.projection_dim

    def lines(self, table: ActionUnits) -> tuple[list[str], Tensor]:
        """One line of words per stretch of the clip, and the times [T] of the stretches."""
        both = torch.cat([table.x, table.time[:, None]], dim=1)  # [rows, C + 1]
        if len(both) > self.max_steps:
            both = F.adaptive_avg_pool1d(both.T[None], self.max_steps)[0].T
        measured = {name[2:4] for name in table.names if name.endswith("_r")}
        said = []
        for row in both[:, :-1].tolist():
            values = sorted(zip(row, table.names, strict=True), key=lambda pair: -pair[0])
            words = [f"{_muscle(n)} (intensity: {v:.2f})" for v, n in values if n[4:] == "_r" and v >= self.threshold]
            # AU28 (lip suck) is only detected, never measured.
            words += [_muscle(n) for v, n in values if n[4:] == "_c" and n[2:4] not in measured and v >= 0.5]
            said.append(", ".join(words) or NOTHING)
        return said, both[:, -1].contiguous()

    def preprocess(self, material: ActionUnits) -> dict[str, Tensor]:
        """ActionUnits -> ids [T, L], real [T, L], time [T]."""
        said, time = self.lines(material)
        length = self.config.max_position_embeddings
        out = self.tokenizer(said, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return {"ids": out["input_ids"], "real": out["attention_mask"], "time": time}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """ids [B, T, L] -> Features [B, T, D]."""
        mask = inputs["ids_mask"]
        both = torch.stack([inputs["ids"][mask], inputs["real"][mask]], dim=1)  # [N, 2, L]
        vectors = self._grouped(both, lambda part: self._unit(part[:, 0], part[:, 1]))  # [N, D]
        x = vectors.new_zeros(*mask.shape, vectors.shape[1])
        x[mask] = vectors
        return Features(x, mask, inputs["time"])

    def _unit(self, ids: Tensor, real: Tensor) -> Tensor:
        return F.normalize(self.network(input_ids=ids, attention_mask=real).text_embeds.float(), dim=-1)


def _muscle(column: str) -> str:
    number = int(column[2:4])
    return AU_NAMES.get(number, f"action unit {number}")
