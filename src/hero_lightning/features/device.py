"""The device half of a modality: encodes the raw rows of a batch in one call and puts them beside the ready ones.

Data flow: ModalityBatch (ready rows, raw rows, absent rows) -> Encoder.encode of the raw ones -> Features [B, T, D].

Shapes: B rows of the batch, R ready rows, W raw rows, T steps, D feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hero_lightning.encoders.base import Encoder
from hero_lightning.errors import FeatureError
from hero_lightning.features.modality import Modality
from hero_lightning.types import Features, ModalityBatch


class ModalityEncoder(nn.Module):
    """Turns a ModalityBatch into Features, whatever mix of ready, raw and absent rows it holds.

    The encoder is built here; in mode auto a frozen one only when the first raw row comes, since a dataset whose
    features are all stored never needs it.

    Args:
        modality: its config node.
        dim: feature width D, where a checkpoint knows it; None = the modality's own.
    """

    unimodal: Tensor

    def __init__(self, modality: Modality, dim: int | None = None) -> None:
        super().__init__()
        self.modality = modality
        self.dim = modality.dim if dim is None else dim
        self.register_buffer("unimodal", torch.zeros(()), persistent=False)  # knows the device of an all-absent batch
        self.encoder: Encoder | None = modality.encoder_module() if modality.mode == "realtime" else None

    def forward(self, batch: ModalityBatch) -> Features:
        """ModalityBatch of B rows -> Features [B, T, D]; rows that are absent have no True in the mask."""
        parts: list[tuple[Features, Tensor]] = []
        if batch.stored is not None and batch.stored_rows is not None:
            parts.append((batch.stored, batch.stored_rows))
        if batch.inputs is not None and batch.input_rows is not None:
            parts.append((self._encoded(batch.inputs), batch.input_rows))
        steps = max([1, *(f.x.shape[1] for f, _ in parts)])
        dtype = parts[0][0].x.dtype if parts else torch.float32
        x = torch.zeros(batch.size, steps, self.dim, dtype=dtype, device=self.unimodal.device)
        mask = torch.zeros(batch.size, steps, dtype=torch.bool, device=x.device)
        clocked = bool(parts) and all(f.time is not None for f, _ in parts)
        time = torch.zeros(batch.size, steps, device=x.device) if clocked else None
        for features, rows in parts:
            self._check_width(features)
            length = features.x.shape[1]
            # Values under the mask's False are never read: a row of NaN cannot leak. x [B, T, D] <- [R, t, D]
            x[rows, :length] = torch.where(features.mask[..., None], features.x, 0).to(dtype)
            mask[rows, :length] = features.mask
            if time is not None and features.time is not None:
                time[rows, :length] = torch.where(features.mask, features.time.float(), 0)
        if self.encoder is not None and self.encoder.trainable and batch.inputs is None:
            # No raw row in this batch: still every learning parameter must get a gradient, or DDP waits for it.
            x = x + sum((p.sum() for p in self.encoder.parameters() if p.requires_grad), x.new_zeros(())) * 0
        return Features(x, mask, time)

    def _encoded(self, raw: dict[str, Tensor]) -> Features:
        if self.encoder is None:
            self.encoder = self.modality.encoder_module()
            assert self.encoder is not None, "raw rows of a modality that is only read"
            self.encoder.to(self.unimodal.device)
        # A frozen encoder computes what extraction stored: in its own precision, whatever the trainer's autocast.
        autocast = torch.is_autocast_enabled(self.unimodal.device.type) and self.encoder.trainable
        with torch.autocast(self.unimodal.device.type, enabled=autocast):
            features = self.encoder.encode(raw)
        return self._capped(features)

    def _capped(self, features: Features) -> Features:
        """Caps rows by max_len with the rule that ready rows were capped by (Modality.kept)."""
        if features.x.shape[1] <= self.modality.max_len:
            return features
        lengths = features.mask.sum(dim=1).tolist()
        limit = self.modality.max_len
        index = torch.zeros(len(lengths), limit, dtype=torch.long)  # [W, t] which step stands at each place
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
                f"Features of modality {self.modality.name} have another width than the model was built for.",
                expected=self.dim,
                got=features.x.shape[2],
                where=f"modality.{self.modality.name}",
                hint="train anew, or use the features the model was trained with",
            )
