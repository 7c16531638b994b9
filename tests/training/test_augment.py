"""Modality dropout: its schedule, its rate, and that a row keeps at least one of the modalities it has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hero_lightning.errors import ConfigError
from hero_lightning.training.augment import ModalityDropout, keep_one
from hero_lightning.types import Features


def modalities(present: torch.Tensor) -> dict[str, Features]:
    mask = present[:, :, None].expand(-1, -1, 3)
    return {n: Features(torch.ones(len(present), 3, 2), mask[:, i]) for i, n in enumerate(("audio", "au", "text"))}


@given(st.integers(0, 2**20), st.floats(0, 1))
def test_a_row_keeps_one_of_the_modalities_it_has(seed: int, p: float) -> None:
    torch.manual_seed(seed)
    present, chance = torch.rand(8, 3) < 0.5, torch.rand(8, 3)
    kept = keep_one(present, chance, p) & present
    assert torch.equal(kept.any(dim=1), present.any(dim=1))
    assert not (kept & ~present).any()


def test_rate_follows_the_schedule_and_inputs_stay() -> None:
    torch.manual_seed(0)
    dropout = ModalityDropout(start=0.1, end=0.5, ramp_epochs=4)
    assert [dropout.probability(e) for e in (0, 2, 4, 9)] == pytest.approx([0.1, 0.3, 0.5, 0.5])
    given_ = modalities(torch.ones(4000, 3, dtype=torch.bool))
    found = dropout(given_, epoch=4)
    gone = 1 - torch.stack([f.present for f in found.values()]).float().mean()
    # all three gone (0.125) keeps one: 0.5 - 0.125 / 3
    assert gone == pytest.approx(0.458, abs=0.02)
    assert all(f.present.all() for f in given_.values())
    assert all(f.present.all() for f in ModalityDropout(end=0.0)(given_, 9).values())


def test_a_single_modality_is_never_withheld() -> None:
    one = {"text": Features(torch.ones(5, 2, 1), torch.ones(5, 2, dtype=torch.bool))}
    assert ModalityDropout(start=1.0, end=1.0)(one, 3)["text"].present.all()


@pytest.mark.parametrize("options", [{"start": -0.1}, {"end": 1.5}, {"ramp_epochs": -1}])
def test_values_are_checked(options: dict) -> None:
    with pytest.raises(ConfigError, match="modality_dropout"):
        ModalityDropout(**options)
