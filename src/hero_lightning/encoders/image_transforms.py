"""A checkpoint's own picture preprocessing in plain torch: resize and crop in the worker, scale on the device.

Data flow: preprocessor_config.json -> Preparation; Frames.pixels -> prepared (uint8, worker) -> normalised (device).

Shapes: T pictures, H W as decoded, h w as the network takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.errors import ConfigError, cause

MODES = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of resampling filters, as preprocessor_config.json names them."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """Resize, crop and scale of the pictures that a network was trained on.

    Attributes:
        resize: (h, w), or (shorter side,) with the aspect kept, or () for none.
        crop: (h, w) cut from the middle, or () for all.
        mode: filter of the resize, with antialiasing as in PIL.
        scale, mean, std: pixel -> (pixel * scale - mean) / std, per colour.
    """

    resize: tuple[int, ...]
    crop: tuple[int, ...]
    mode: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, settings: Mapping[str, Any], where: str, side: int | None = None) -> Preparation:
        """From the content of a preprocessor_config.json; `side` in pixels replaces its own."""
        try:
            # Older files crop to `size` itself.
            crop = _edges(settings.get("crop_size", settings["size"]), True) if settings.get("do_center_crop") else ()
            crop = crop and (crop[0], crop[-1])
            resize = _edges(settings["size"], not crop) if settings.get("do_resize", True) else ()
            if side is not None:
                resize = tuple(round(edge * side / (crop or resize)[0]) for edge in resize)  # in proportion to the crop
                crop = (side, side) if crop else ()
            scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
            plain = not settings.get("do_normalize", True)
            mean, std = ([0.0] * 3, [1.0] * 3) if plain else (settings["image_mean"], settings["image_std"])
            return cls(resize, crop, MODES[settings.get("resample", 2)], scale, tuple(mean), tuple(std))
        except (KeyError, TypeError) as error:
            raise ConfigError(
                "The preprocessing of this model is not supported.",
                expected="size as a number, {height, width} or {shortest_edge}; resample 2 or 3; image_mean, image_std",
                got=f"{cause(error)} in {dict(settings)}",
                where=where,
            ) from error

    def prepared(self, pixels: Tensor) -> Tensor:
        """[T, H, W, 3] uint8 -> [T, 3, h, w] uint8: uint8 takes a fourth of the bytes to the device."""
        x = pixels.permute(0, 3, 1, 2)
        if self.resize:
            height, width = x.shape[2:]
            shorter = min(height, width)
            aspect = (self.resize[0] * height // shorter, self.resize[0] * width // shorter)
            size = aspect if len(self.resize) == 1 else list(self.resize)
            x = F.interpolate(x, size=size, mode=self.mode, antialias=True, align_corners=False)
        if self.crop:
            top, left = ((have - want) // 2 for have, want in zip(x.shape[2:], self.crop, strict=True))
            x = x[:, :, top : top + self.crop[0], left : left + self.crop[1]]
        return x.contiguous()

    def normalised(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """[..., 3, h, w] uint8 -> floats, scaled as in the training of the network."""
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (self.mean, self.std))
        return ((x.float() * self.scale - mean) / std).to(dtype)


def _edges(size: Any, square: bool) -> tuple[int, ...]:
    """(h, w) or (shorter side,); `square`: a bare number means both sides."""
    if isinstance(size, int):
        return (size, size) if square else (size,)
    return (size["shortest_edge"],) if "shortest_edge" in size else (size["height"], size["width"])
