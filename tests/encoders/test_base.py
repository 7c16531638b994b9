from __future__ import annotations

import pytest
import torch

from hero_lightning.encoders.base import Encoder
from tests.tiny_encoders import TinyText


def test_frozen_gives_no_gradient_and_learning_obeys_its_caller():
    for trainable in (False, True):
        encoder = TinyText(trainable=trainable)
        encoder.load()
        inputs = encoder.collate([{"x": torch.randn(3, 2)}])
        assert encoder.encode(inputs).x.requires_grad is trainable
        assert encoder.train().training is trainable
        with torch.no_grad():
            assert not encoder.encode(inputs).x.requires_grad


def test_collate_masks_every_input():
    out = TinyText().collate(
        [{"x": torch.ones(2, 2), "time": torch.ones(2)}, {"x": torch.ones(3, 2), "time": torch.ones(3)}]
    )
    assert out["x"].shape == (2, 3, 2)
    assert out["x_mask"].tolist() == out["time_mask"].tolist() == [[True, True, False], [True] * 3]


def test_an_encoder_must_define_its_halves():
    with pytest.raises(TypeError, match="preprocess"):
        Encoder().preprocess(None)
    with pytest.raises(TypeError, match="forward"):
        Encoder()({})
