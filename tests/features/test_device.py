from __future__ import annotations

from functools import partial

import pytest
import torch

from hero_lightning.errors import FeatureError
from hero_lightning.features.device import ModalityEncoder
from hero_lightning.features.extraction import fill
from hero_lightning.features.read import read_clip
from hero_lightning.types import EncoderInput, Features, ModalityBatch, StoredFeatures
from tests.features.conftest import ALL, make
from tests.tiny_encoders import TinyText


def rows_of(modality, samples):
    return [
        read_clip({modality.name: modality}, {modality.name: modality.availability(s)}, s)[modality.name]
        for s in samples
    ]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("max_len", [64, 5])
def test_realtime_equals_stored(name, max_len, samples, tmp_path):
    auto, live = make(name, max_len=max_len), make(name, mode="realtime", max_len=max_len)
    auto.bind(tmp_path, "demo")
    fill({name: auto}, samples)
    stored, raw = rows_of(auto, samples), rows_of(live, samples)
    assert [type(r) for r in stored] == [StoredFeatures if isinstance(r, EncoderInput) else type(None) for r in raw]
    assert any(isinstance(r, EncoderInput) for r in raw)
    a, b = ModalityEncoder(auto)(auto.collate(stored)), ModalityEncoder(live)(live.collate(raw))
    assert torch.equal(a.mask, b.mask)
    torch.testing.assert_close(a.x, b.x, atol=1e-5, rtol=1e-5)
    assert a.x[a.mask].abs().max() > 0
    if name != "text":
        torch.testing.assert_close(a.time, b.time)
    assert [r.measures for r in stored if r] == [r.measures for r in raw if r]
    mixed = [s if k % 2 else r for k, (s, r) in enumerate(zip(stored, raw, strict=True))]
    c = ModalityEncoder(auto)(auto.collate(mixed))
    assert torch.equal(c.mask, b.mask)
    torch.testing.assert_close(c.x, b.x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_alone_equals_in_batch(name, samples):
    modality = make(name, mode="realtime")
    encoder = ModalityEncoder(modality)
    rows = rows_of(modality, samples)
    together = encoder(modality.collate(rows))
    for b, row in enumerate(rows):
        alone = encoder(modality.collate([row]))
        steps = int(alone.mask.sum())
        assert together.mask[b].sum() == steps
        torch.testing.assert_close(together.x[b, :steps], alone.x[0, :steps], atol=1e-5, rtol=1e-5)


def test_nan_of_what_is_not_there_cannot_leak():
    modality = make("text", mode="realtime")
    nan = float("nan")
    x = torch.full((2, 3, 128), nan)
    x[0, :2] = 1.0
    ready = Features(x, torch.tensor([[True, True, False], [False] * 3]))
    out = ModalityEncoder(modality)(ModalityBatch(3, ready, torch.tensor([2, 0])))
    assert torch.isfinite(out.x).all()
    assert out.present.tolist() == [False, False, True]


def test_an_all_absent_batch_has_one_masked_step():
    modality = make("frame", mode="realtime")
    out = ModalityEncoder(modality)(modality.collate([None, None]))
    assert out.x.shape == (2, 1, modality.dim)
    assert not out.mask.any()


def test_frozen_encoder_gets_no_gradient_and_stays_in_eval():
    module = ModalityEncoder(make("text", mode="realtime", encoder=TinyText)).train()
    assert not module.encoder.training
    assert not any(p.requires_grad for p in module.parameters())
    assert not module(module.modality.collate([EncoderInput({"x": torch.randn(3, 2)})])).x.requires_grad


def test_learning_encoder_gets_a_gradient_in_every_batch():
    modality = make("text", mode="realtime", encoder=partial(TinyText, trainable=True))
    module = ModalityEncoder(modality)
    assert module.train().encoder.training
    for rows in ([EncoderInput({"x": torch.randn(3, 2)}), None], [None, None]):
        module.zero_grad()
        module(modality.collate(rows)).x.sum().backward()
        assert all(p.grad is not None for p in module.parameters())


def test_auto_builds_its_encoder_only_when_needed():
    modality = make("text", encoder=TinyText)
    module = ModalityEncoder(modality)
    module(modality.collate([StoredFeatures(torch.randn(2, 16))]))
    assert module.encoder is None
    module(modality.collate([EncoderInput({"x": torch.randn(3, 2)})]))
    assert isinstance(module.encoder, TinyText)


def test_autocast_does_not_change_a_frozen_encoder():
    modality = make("text", mode="realtime", encoder=TinyText)
    module, batch = ModalityEncoder(modality), modality.collate([EncoderInput({"x": torch.randn(3, 2)})])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = module(batch).x
    assert torch.equal(inside, module(batch).x)


def test_another_width_is_an_error():
    modality = make("text", mode="realtime")
    with pytest.raises(FeatureError, match="another width"):
        ModalityEncoder(modality)(modality.collate([StoredFeatures(torch.randn(2, 64))]))
