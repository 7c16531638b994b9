"""The device half of a modality: encodes the inputs of a batch in one call and merges them with stored features.

Data flow: ModalityBatch (stored, input and absent rows) -> Encoder.encode of the input rows -> Features [B, T, D].

Shapes: B rows of the batch, R stored rows, W input rows, T steps, D feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hero_lightning.encoders.base import Encoder
from hero_lightning.errors import FeatureError
from hero_lightning.features.modality import Modality
from hero_lightning.types import Features, ModalityBatch


class ModalityEncoder(nn.Module):
    """Turns a ModalityBatch with any mix of stored, input and absent rows into Features.

    The encoder is built here; in mode auto only with the first input row, since it is not needed if all features are
    stored.

    Args:
        modality: the modality.
        dim: feature width D of a checkpoint; None = the modality's own.
    """

    empty: Tensor

    def __init__(self, modality: Modality, dim: int | None = None) -> None:
        super().__init__()
        self.modality = modality
        self.dim = modality.dim if dim is None else dim
        self.register_buffer("empty", torch.zeros(0), persistent=False)  # gives the device of a batch without rows
        self.encoder: Encoder | None = modality.encoder_module() if modality.mode == "realtime" else None

    def forward(self, batch: ModalityBatch) -> Features:
        """ModalityBatch of B rows -> Features [B, T, D]; the mask of absent rows has no True."""
        parts: list[tuple[Features, Tensor]] = []
        if batch.stored is not None and batch.stored_rows is not None:
            parts.append((batch.stored, batch.stored_rows))
        if batch.inputs is not None and batch.input_rows is not None:
            parts.append((self._encoded(batch.inputs), batch.input_rows))
        steps = max([1, *(f.x.shape[1] for f, _ in parts)])
        dtype = parts[0][0].x.dtype if parts else torch.float32
        x = torch.zeros(batch.size, steps, self.dim, dtype=dtype, device=self.empty.device)
        mask = torch.zeros(batch.size, steps, dtype=torch.bool, device=x.device)
        clocked = bool(parts) and all(f.time is not None for f, _ in parts)
        time = torch.zeros(batch.size, steps, device=x.device) if clocked else None
        for features, rows in parts:
            self._check_width(features)
            length = features.x.shape[1]
            # Masked values are replaced: NaN cannot leak. x [B, T, D] <- [R, t, D]
            x[rows, :length] = torch.where(features.mask[..., None], features.x, 0).to(dtype)
            mask[rows, :length] = features.mask
            if time is not None and features.time is not None:
                time[rows, :length] = torch.where(features.mask, features.time.float(), 0)
        if self.encoder is not None and self.encoder.trainable and batch.inputs is None:
            # No input row in this batch: DDP needs a gradient of every parameter that learns all the same.
            x = x + sum((p.sum() for p in self.encoder.parameters() if p.requires_grad), x.new_zeros(())) * 0
        return Features(x, mask, time)

    def _encoded(self, inputs: dict[str, Tensor]) -> Features:
        if self.encoder is None:
            self.encoder = self.modality.encoder_module()
            assert self.encoder is not None, "input rows of a modality that is only read"
            self.encoder.to(self.empty.device)
        # A frozen encoder ignores the trainer's autocast: it computes what extraction stores.
        autocast = torch.is_autocast_enabled(self.empty.device.type) and self.encoder.trainable
        with torch.autocast(self.empty.device.type, enabled=autocast):
            features = self.encoder.encode(inputs)
        return self._limited(features)

    def _limited(self, features: Features) -> Features:
        """Limits rows to max_len steps by the same rule as stored rows (Modality.kept)."""
        if features.x.shape[1] <= self.modality.options.max_len:
            return features
        lengths = features.mask.sum(dim=1).tolist()
        limit = self.modality.options.max_len
        index = torch.zeros(len(lengths), limit, dtype=torch.long)  # [W, t] steps that are kept
        for row, length in enumerate(lengths):
            kept = self.modality.kept(length)
            index[row, : len(kept)] = kept
        index = index.to(features.x.device)
        mask = torch.arange(limit, device=index.device) < features.mask.sum(dim=1)[:, None]
        x = features.x.gather(1, index[..., None].expand(-1, -1, features.x.shape[2]))
        return Features(x, mask, features.time.gather(1, index) if features.time is not None else None)

    def _check_width(self, features: Features) -> None:
        if features.x.shape[2] != self.dim:
            raise FeatureError(
                f"Features of modality {self.modality.name} have another width than the model.",
                expected=self.dim,
                got=features.x.shape[2],
                where=f"modality.{self.modality.name}",
                hint="train again, or use the features the model was trained with",
            )
