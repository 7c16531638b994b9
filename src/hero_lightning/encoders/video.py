"""Features of short runs of pictures from VideoMAE.

Data flow: Frames -> runs of 16 pictures (worker) -> VideoMAE, 8 steps of 14 x 14 tokens -> mean per step -> Features.

Shapes: B clips, T pictures of a clip, W runs of a clip, N runs of a batch, F pictures of a run (16), S steps of a run
(8), h w picture size, D = `dim`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hero_lightning.encoders.base import Material
from hero_lightning.encoders.pretrained import PretrainedEncoder
from hero_lightning.media.types import Frames
from hero_lightning.types import Features, pad


class VideoEncoder(PretrainedEncoder):
    """VideoMAE over a clip's pictures, F at a time; a vector for every two pictures. For motion.

    The sampler chooses the pictures: `consecutive` (runs of 16), `segments` (8 x 2 over the whole clip), or `fps`.
    Pictures left over after whole runs are read by a last run that overlaps the one before it, of which only the new
    steps are kept; fewer pictures than a run are repeated evenly. Options: see PretrainedEncoder.
    """

    takes: ClassVar[Material] = "frames"
    modality, instead, group = "motion", "frame_difference", 8
    reads: ClassVar[dict[str, str]] = {"videomae": "VideoMAEModel"}

    def preprocess(self, material: Frames) -> dict[str, Tensor]:
        """Frames -> x [W, F, 3, h, w] uint8, time [W, S], keep [W, S]."""
        frames, tubelet, count = self.config.num_frames, self.config.tubelet_size, len(material.pixels)
        if count < frames:
            index = torch.arange(frames)[None] * count // frames  # [1, F]
        else:
            starts = [*range(0, count - frames + 1, frames), *([count - frames] if count % frames else [])]
            index = torch.tensor(starts)[:, None] + torch.arange(frames)  # [W, F]
        ends = index[:, tubelet - 1 :: tubelet]  # [W, S] last picture of each step
        seen = torch.cat([torch.tensor([-1]), index[:-1, -1]])[:, None]
        time = material.time.float()[index].unflatten(1, (-1, tubelet)).mean(dim=2)
        return {"x": self.preparation.prepared(material.pixels)[index], "time": time, "keep": ends > seen}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """x [B, W, F, 3, h, w] -> Features [B, W * S at most, D]."""
        mask = inputs["x_mask"]
        values = self._grouped(inputs["x"][mask], self._steps)  # [N, S, D]
        runs, keep = mask.sum(dim=1).tolist(), inputs["keep"][mask].split(mask.sum(dim=1).tolist())
        x, real = pad([v[k] for v, k in zip(values.split(runs), keep, strict=True)])
        time, _ = pad([t[k] for t, k in zip(inputs["time"][mask].split(runs), keep, strict=True)])
        return Features(x, real.to(x.device), time)

    def _steps(self, runs: Tensor) -> Tensor:
        """[N, F, 3, h, w] uint8 -> [N, S, D], the mean over the picture of each step."""
        x = self.preparation.normalised(runs, self.network.dtype)
        steps = self.config.num_frames // self.config.tubelet_size
        return self._hidden(pixel_values=x).unflatten(1, (steps, -1)).mean(dim=2)  # [N, S, h w, D] -> [N, S, D]
