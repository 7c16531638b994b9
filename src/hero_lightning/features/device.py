"""The device half of a stream: encodes the raw rows of a batch in one call and puts them beside the ready ones.

Data flow: StreamBatch (ready rows, raw rows, absent rows) -> Encoder.encode of the raw ones -> Features [B, T, D].

Shapes: B rows of the batch, R ready rows, W raw rows, T steps, D feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hero_lightning.encoders.base import Encoder
from hero_lightning.errors import FeatureError
from hero_lightning.features.modality import Stream
from hero_lightning.types import Features, StreamBatch


class StreamEncoder(nn.Module):
    """Turns a StreamBatch into Features, whatever mix of ready, raw and absent rows it holds.

    The encoder is built here; in mode auto a frozen one only when the first raw row comes, since a corpus whose
    features are all stored never needs it.

    Args:
        stream: its config node.
        dim: feature width D, where a checkpoint knows it; None = the stream's own.
    """

    anchor: Tensor

    def __init__(self, stream: Stream, dim: int | None = None) -> None:
        super().__init__()
        self.stream = stream
        self.dim = stream.dim if dim is None else dim
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # knows the device of an all-absent batch
        self.encoder: Encoder | None = stream.encoder_module() if stream.mode == "realtime" else None

    def forward(self, batch: StreamBatch) -> Features:
        """StreamBatch of B rows -> Features [B, T, D]; rows that are absent have no True in the mask."""
        parts: list[tuple[Features, Tensor]] = []
        if batch.ready is not None and batch.ready_rows is not None:
            parts.append((batch.ready, batch.ready_rows))
        if batch.raw is not None and batch.raw_rows is not None:
            parts.append((self._encoded(batch.raw), batch.raw_rows))
        steps = max([1, *(f.x.shape[1] for f, _ in parts)])
        dtype = parts[0][0].x.dtype if parts else torch.float32
        x = torch.zeros(batch.size, steps, self.dim, dtype=dtype, device=self.anchor.device)
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
        if self.encoder is not None and self.encoder.trainable and batch.raw is None:
            # No raw row in this batch: still every learning parameter must get a gradient, or DDP waits for it.
            x = x + sum((p.sum() for p in self.encoder.parameters() if p.requires_grad), x.new_zeros(())) * 0
        return Features(x, mask, time)

    def _encoded(self, raw: dict[str, Tensor]) -> Features:
        if self.encoder is None:
            self.encoder = self.stream.encoder_module()
            assert self.encoder is not None, "raw rows of a stream that is only read"
            self.encoder.to(self.anchor.device)
        # A frozen encoder computes what extraction stored: in its own precision, whatever the trainer's autocast.
        autocast = torch.is_autocast_enabled(self.anchor.device.type) and self.encoder.trainable
        with torch.autocast(self.anchor.device.type, enabled=autocast):
            features = self.encoder.encode(raw)
        return self._capped(features)

    def _capped(self, features: Features) -> Features:
        """Caps rows by max_len with the rule that ready rows were capped by (Stream.kept)."""
        if features.x.shape[1] <= self.stream.max_len:
            return features
        lengths = features.mask.sum(dim=1).tolist()
        limit = self.stream.max_len
        index = torch.zeros(len(lengths), limit, dtype=torch.long)  # [W, t] which step stands at each place
        for row, length in enumerate(lengths):
            kept = self.stream.kept(length)
            index[row, : len(kept)] = kept
        index = index.to(features.x.device)
        mask = torch.arange(limit, device=index.device) < features.mask.sum(dim=1)[:, None]
        x = features.x.gather(1, index[..., None].expand(-1, -1, features.x.shape[2]))
        return Features(x, mask, features.time.gather(1, index) if features.time is not None else None)

    def _check_width(self, features: Features) -> None:
        if features.x.shape[2] != self.dim:
            raise FeatureError(
                f"Features of stream {self.stream.name} have another width than the model was built for.",
                expected=self.dim,
                got=features.x.shape[2],
                where=f"modalities.{self.stream.name}",
                mend="train anew, or use the features the model was trained with",
            )
