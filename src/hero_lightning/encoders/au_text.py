"""Facial action units described in words and encoded by CLIP's text tower, as in AffectGPT.

Data flow: ActionUnits -> one line of text per interval of the clip -> token ids (worker) -> CLIP text -> Features.

Shapes: B clips, T steps of a clip, N steps of a batch, L tokens of a line, C columns of the table, D = `dim`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.encoders.base import Material, averaged, per_step
from hero_lightning.encoders.pretrained import PretrainedEncoder
from hero_lightning.errors import in_range
from hero_lightning.media.types import ActionUnits
from hero_lightning.types import AU_NAMES, Features

NOTHING = "no facial action unit is active"


class AuWords(PretrainedEncoder):
    """Descriptions of the face, encoded by CLIP's text tower: one unit vector per interval of the clip. For au.

    A line names the active muscles, strongest first: "lip corner puller (intensity: 2.41), cheek raiser (intensity:
    1.80)". CLIP reads 77 tokens; a longer line loses its weakest units.

    Args:
        max_steps: equal intervals that a table is averaged over.
        threshold: lowest intensity (0..5) of a unit that is named.
        name, dtype, revision: see PretrainedEncoder.
    """

    takes: ClassVar[Material] = "table"
    modality, instead = "au", "au_values"
    reads: ClassVar[dict[str, str]] = {"clip_text_model": "CLIPTextModelWithProjection"}

    def __init__(
        self, name: str, max_steps: int = 8, threshold: float = 0.5, dtype: str = "float32", revision: str | None = None
    ) -> None:
        super().__init__(name, dtype=dtype, revision=revision)
        in_range(f"{self.where}.max_steps", max_steps, "[1, inf)")
        self.max_steps, self.threshold = max_steps, threshold
        self.options.update(max_steps=max_steps, threshold=threshold)

    def _part(self, whole: Any) -> Any:
        return getattr(whole, "text_config", whole)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Width D of the space that CLIP's texts and pictures share."""
        return self.config.projection_dim

    def lines(self, table: ActionUnits) -> tuple[list[str], Tensor]:
        """One line of text per interval of the clip, and the times [T] of the intervals."""
        steps = averaged(torch.cat([table.x, table.time[:, None]], dim=1), self.max_steps)  # [T, C + 1]
        measured = {name[2:4] for name in table.names if name.endswith("_r")}
        lines = []
        for row in steps[:, :-1].tolist():
            values = sorted(zip(row, table.names, strict=True), key=lambda pair: -pair[0])
            words = [f"{_muscle(n)} (intensity: {v:.2f})" for v, n in values if n[4:] == "_r" and v >= self.threshold]
            # AU28 (lip suck) has a presence but no intensity.
            words += [_muscle(n) for v, n in values if n[4:] == "_c" and n[2:4] not in measured and v >= 0.5]
            lines.append(", ".join(words) or NOTHING)
        return lines, steps[:, -1].contiguous()

    def preprocess(self, material: ActionUnits) -> dict[str, Tensor]:
        """ActionUnits -> ids [T, L], real [T, L], time [T]."""
        lines, time = self.lines(material)
        length = self.config.max_position_embeddings
        out = self.tokenizer(lines, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return {"ids": out["input_ids"], "real": out["attention_mask"], "time": time}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """ids [B, T, L] -> Features [B, T, D]."""
        mask = inputs["ids_mask"]
        x = torch.stack([inputs["ids"], inputs["real"]], dim=2)  # [B, T, 2, L]
        return Features(per_step(x, mask, lambda rows: self._grouped(rows, self._unit)), mask, inputs["time"])

    def _unit(self, rows: Tensor) -> Tensor:
        """Token ids and their mask [N, 2, L] -> unit vectors [N, D]."""
        ids, real = rows.unbind(dim=1)
        return F.normalize(self.network(input_ids=ids, attention_mask=real).text_embeds.float(), dim=-1)


def _muscle(column: str) -> str:
    number = int(column[2:4])
    return AU_NAMES.get(number, f"action unit {number}")
