from __future__ import annotations

import torch
import transformers as tr

from hero_lightning.encoders.video import VideoEncoder
from hero_lightning.media.types import Frames


def frames(count: int) -> Frames:
    """Picture k is grey k."""
    grey = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 32, 32, 3)
    return Frames(grey.contiguous(), torch.arange(count) / 10)


def shown(encoder: VideoEncoder, count: int) -> list[list[int]]:
    """Numbers of the pictures of each run."""
    return encoder.preprocess(frames(count))["x"][:, :, 0, 0, 0].tolist()


def encoded(encoder: VideoEncoder, *counts: int):
    return encoder.encode(encoder.collate([encoder.preprocess(frames(n)) for n in counts]))


def test_runs_cover_every_picture_once(folders):
    encoder = VideoEncoder(str(folders["videomae"]))
    assert shown(encoder, 16) == [list(range(16))]
    assert shown(encoder, 32) == [list(range(16)), list(range(16, 32))]
    assert shown(encoder, 21) == [list(range(16)), list(range(5, 21))]
    assert shown(encoder, 5) == [[k * 5 // 16 for k in range(16)]]
    inputs = encoder.preprocess(frames(21))
    assert inputs["keep"].tolist() == [[True] * 8, [False] * 5 + [True] * 3]
    # pictures 15 and 16, 17 and 18, 19 and 20
    assert torch.allclose(inputs["time"][1, 5:], torch.tensor([1.55, 1.75, 1.95]))


@torch.no_grad()
def test_mean_over_the_picture_of_the_networks_tokens(folders):
    encoder = VideoEncoder(str(folders["videomae"]))
    encoder.load()
    network = tr.VideoMAEModel.from_pretrained(folders["videomae"], dtype=torch.float32).eval()
    inputs = encoder.preprocess(frames(16))
    pixels = encoder.preparation.normalised(inputs["x"], torch.float32)
    tokens = network(pixel_values=pixels).last_hidden_state  # [1, 8 x 4, 16]
    out = encoded(encoder.eval(), 16)
    torch.testing.assert_close(out.x, tokens.view(1, 8, 4, 16).mean(dim=2))
    assert torch.allclose(out.time[0], torch.arange(8) / 5 + 0.05)


def test_a_step_knows_when(folders):
    encoder = VideoEncoder(str(folders["videomae"]))
    encoder.load()
    out = encoded(encoder.eval(), 21, 16, 5)
    assert out.mask.sum(dim=1).tolist() == [11, 8, 8]
    assert (out.time[0].diff() > 0).all()
    torch.testing.assert_close(out.x[0, :8], out.x[1, :8], atol=1e-5, rtol=1e-5)  # the first run is the same
