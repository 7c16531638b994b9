from __future__ import annotations

import pytest
import torch
import transformers as tr

from hero_lightning.encoders.image import ImageEncoder
from hero_lightning.media.types import Frames

FRAMES = Frames(torch.randint(0, 256, (3, 40, 60, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8),
                torch.tensor([0.0, 0.5, 1.0]))  # fmt: skip


def encoded(folder, **options):
    encoder = ImageEncoder(str(folder), **options)
    encoder.load()
    inputs = encoder.collate([encoder.preprocess(FRAMES)])
    return encoder.eval().encode(inputs), encoder.preparation.normalised(inputs["x"][0], torch.float32)


@torch.no_grad()
def test_clip_is_the_networks_own(folders):
    network = tr.CLIPModel.from_pretrained(folders["clip"], dtype=torch.float32).eval()
    out, pixels = encoded(folders["clip"], pooling="projected")
    want = network.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(out.x[0], want)
    tower = network.vision_model(pixel_values=pixels)
    torch.testing.assert_close(encoded(folders["clip"])[0].x[0], tower.pooler_output)
    torch.testing.assert_close(encoded(folders["clip"], pooling="mean")[0].x[0], tower.last_hidden_state.mean(dim=1))
    tokens = encoded(folders["clip"], pooling="tokens")[0]
    torch.testing.assert_close(tokens.x[0], tower.last_hidden_state.flatten(0, 1))  # 3 pictures x (1 + 4) tokens
    assert tokens.time[0].tolist() == [0.0] * 5 + [0.5] * 5 + [1.0] * 5


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "kind"), [("siglip", tr.SiglipModel), ("dinov2", tr.Dinov2Model), ("vit", tr.ViTForImageClassification)]
)
def test_the_others_too(folders, family, kind):
    network = kind.from_pretrained(folders[family], dtype=torch.float32).eval()
    network = getattr(network, "vision_model", getattr(network, "vit", network))
    out, pixels = encoded(folders[family])
    got = network(pixel_values=pixels)
    want = got.pooler_output if family == "siglip" else got.last_hidden_state[:, 0]
    torch.testing.assert_close(out.x[0], want)


@torch.no_grad()
def test_vit_mae_sees_every_patch(folders):
    network = tr.ViTMAEModel.from_pretrained(folders["vit_mae"], dtype=torch.float32, mask_ratio=0.0).eval()
    out, pixels = encoded(folders["vit_mae"], pooling="tokens")
    want = network(pixel_values=pixels, noise=torch.arange(4.0).expand(3, 4)).last_hidden_state
    torch.testing.assert_close(out.x[0].view(3, 5, 16), want)


@torch.no_grad()
def test_eva_is_the_tower_of_blip2_at_any_size(folders):
    network = tr.Blip2ForImageTextRetrieval.from_pretrained(folders["eva"], dtype=torch.float32).eval().vision_model
    out, pixels = encoded(folders["eva"], pooling="tokens", size=64)
    assert pixels.shape == (3, 3, 64, 64)
    want = network(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(out.x[0].view(3, 17, 16), want)  # class token and 4 x 4 patches


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2", "vit", "vit_mae"])
def test_larger_pictures(folders, family):
    small, large = encoded(folders[family])[0], encoded(folders[family], size=64)[0]
    assert small.x.shape == large.x.shape
    assert not torch.equal(small.x, large.x)


def test_groups_change_nothing(folders, monkeypatch):
    whole = encoded(folders["clip"])[0].x
    monkeypatch.setattr(ImageEncoder, "group", 2)
    torch.testing.assert_close(encoded(folders["clip"])[0].x, whole, atol=1e-6, rtol=1e-5)
