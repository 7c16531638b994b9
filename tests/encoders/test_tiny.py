from __future__ import annotations

import pytest
import torch

from hero_lightning.encoders.tiny import TinyAudio, TinyFrames, TinyTable, TinyText
from hero_lightning.media.types import ActionUnits, Frames, Utterance, Waveform
from hero_lightning.types import Turn

MATERIAL = {
    TinyFrames: Frames(torch.randint(0, 255, (3, 10, 12, 3), dtype=torch.uint8), torch.arange(3)),
    TinyAudio: Waveform(torch.randn(4000)),
    TinyText: Utterance("good day", None, (Turn("A", "yes"),)),
    TinyTable: ActionUnits(torch.randn(3, 35), torch.arange(3)),
}


@pytest.mark.parametrize("kind", MATERIAL)
def test_same_seed_same_features(kind):
    state = torch.get_rng_state()
    out = []
    for seed in (0, 0, 1):
        encoder = kind(dim=6, seed=seed)
        encoder.load()
        out.append(encoder.encode(encoder.collate([encoder.preprocess(MATERIAL[kind])])))
    assert out[0].x.shape == (1, 3, 6)
    assert torch.equal(out[0].x, out[1].x)
    assert not torch.equal(out[0].x, out[2].x)
    assert torch.equal(torch.get_rng_state(), state)
    assert kind(dim=6).identity() == {"class": kind.__name__, "version": 1, "dim": 6, "seed": 0}
