from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hero_lightning.encoders.image_transforms import Preparation
from hero_lightning.errors import ConfigError
from tests.encoders.pretrained_made import CROPPED, SQUARE


def read(**more) -> Preparation:
    return Preparation.read(CROPPED | more, "modality.frame.encoder.name")


def pictures(height: int, width: int) -> torch.Tensor:
    """[2, H, W, 3] with structure at every scale."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = torch.stack([torch.sin(x / 3 + y / 7), torch.cos(x * y / 900), torch.sin(y / 2)], dim=-1)
    return ((waves + 1) * 127).to(torch.uint8)[None].repeat(2, 1, 1, 1)


@pytest.mark.parametrize(("resample", "filter"), [(2, Image.Resampling.BILINEAR), (3, Image.Resampling.BICUBIC)])
@pytest.mark.parametrize("shape", [(90, 120), (121, 77), (20, 26)])
def test_like_pil(resample, filter, shape):
    x = pictures(*shape)
    ours = read(resample=resample).prepared(x)
    assert ours.shape == (2, 3, 32, 32)
    assert ours.dtype == torch.uint8
    short = min(shape)
    height, width = (32 * side // short for side in shape)
    resized = np.asarray(Image.fromarray(x[0].numpy()).resize((width, height), filter))
    top, left = (height - 32) // 2, (width - 32) // 2
    want = torch.from_numpy(resized[top : top + 32, left : left + 32].copy()).permute(2, 0, 1).float()
    assert (ours[0].float() - want).abs().max() <= 2
    assert (ours[0].float() - want).abs().mean() < 0.2


def test_normalised_by_the_checkpoints_numbers():
    x = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    got = read().normalised(x, torch.float32)[0, :, 0, 0]
    want = [(1 - m) / s for m, s in zip(CROPPED["image_mean"], CROPPED["image_std"], strict=True)]
    assert torch.allclose(got, torch.tensor(want))
    assert read(do_normalize=False).normalised(x, torch.bfloat16)[0, 0, 0, 0] == 1  # the original MAE: only / 255
    assert read(do_normalize=False, do_rescale=False).normalised(x, torch.float32).max() == 255


def test_spellings_of_size():
    square = Preparation.read(SQUARE, "w")
    assert (square.resize, square.crop, square.mode) == ((32, 32), (), "bilinear")
    assert Preparation.read(SQUARE | {"size": 48}, "w").resize == (48, 48)  # ViT: a number means both sides
    assert read(size=40, crop_size=32).resize == (40,)  # CLIP: the shorter one
    assert read(do_resize=False, size=None).resize == ()
    old = {k: v for k, v in CROPPED.items() if k != "crop_size"}
    assert Preparation.read(old, "w").crop == Preparation.read(old | {"size": 32}, "w").crop == (32, 32)  # VideoMAE
    wide = square.prepared(pictures(60, 90))  # the aspect is not kept
    assert wide.shape == (2, 3, 32, 32)


def test_another_side_keeps_the_proportion():
    bigger = Preparation.read(CROPPED | {"size": {"shortest_edge": 36}}, "w", side=64)
    assert (bigger.resize, bigger.crop) == ((72,), (64, 64))
    assert Preparation.read(SQUARE, "w", side=448).resize == (448, 448)


@pytest.mark.parametrize(
    "more", [{"size": {"longest_edge": 3}}, {"size": None}, {"resample": 0}, {"image_mean": None}, {"crop_size": None}]
)
def test_what_is_not_supported_is_refused(more):
    with pytest.raises(
        ConfigError, match=r"not supported[\s\S]*(KeyError|TypeError): [\s\S]*modality\.frame\.encoder\.name"
    ):
        read(**more)
