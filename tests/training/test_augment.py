"""Augmentation: modality dropout keeps one modality of a row; mixup mixes features, labels and losses alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hero_lightning.errors import ConfigError
from hero_lightning.training import checkpoint
from hero_lightning.training.augment import Mixup, ModalityDropout, between, keep_one, mixed
from hero_lightning.types import Batch, Features, Label
from tests.helpers import feature_dataset, train_in_process
from tests.models.made import batch


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
    assert ModalityDropout(start=1.0, end=1.0)({"text": given_["text"]}, 3)["text"].present.all()  # the only one


@pytest.mark.parametrize("options", [{"start": -0.1}, {"end": 1.5}, {"ramp_epochs": -1}])
def test_values_are_checked(options: dict) -> None:
    with pytest.raises(ConfigError, match=f"modality_dropout.{next(iter(options))} is out of range"):
        ModalityDropout(**options)
    with pytest.raises(ConfigError, match=r"mixup\.alpha"):
        Mixup(-1)


def made(rows: int = 6) -> tuple[dict[str, Features], Batch]:
    x = torch.arange(rows, dtype=torch.float32)[:, None, None].expand(-1, 2, 3)
    labels = {"emotion": Label(torch.arange(rows), torch.ones(rows, dtype=torch.bool))}
    return {"au": Features(x, torch.ones(rows, 2, dtype=torch.bool))}, replace(batch(rows), labels=labels)


def test_features_and_labels_are_mixed_with_the_same_partner() -> None:
    torch.manual_seed(0)
    features, own = made()
    found, partners, share = Mixup(1.0)(features, own)
    other = partners.labels["emotion"].value
    assert 0.5 <= share < 1
    assert sorted(other.tolist()) == list(range(6)) != other.tolist()
    expected = share * torch.arange(6.0) + (1 - share) * other
    torch.testing.assert_close(found["au"].x, expected[:, None, None].expand(-1, 2, 3))
    assert torch.equal(features["au"].x[:, 0, 0], torch.arange(6.0))  # nothing is changed in place
    assert partners.index is own.index


def test_shares_follow_the_beta_distribution() -> None:
    torch.manual_seed(0)
    features, own = made(2)
    shares = torch.tensor([Mixup(0.4)(features, own)[2] for _ in range(2000)])
    # E max(s, 1 - s) = 1/2 + E|s - 1/2|, which is 0.3398 for Beta(0.4, 0.4) (numerical integral)
    assert shares.mean() == pytest.approx(0.5 + 0.3398, abs=0.01)
    assert Mixup(0.0)(features, own) == (features, own, 1.0)


def test_a_step_only_one_clip_has_is_taken_as_it_is() -> None:
    x = torch.tensor([[1.0, 2.0, torch.nan], [5.0, torch.nan, 7.0]])[..., None]
    mask = torch.tensor([[True, True, False], [True, False, True]])
    time = torch.tensor([[0.0, 1.0, -1.0], [0.0, -1.0, 2.5]])
    found = mixed(Features(x, mask, time), torch.tensor([1, 0]), 0.75)
    assert found.mask.all()
    torch.testing.assert_close(found.x[..., 0], torch.tensor([[2.0, 2.0, 7.0], [4.0, 2.0, 7.0]]))
    assert found.time is not None
    assert torch.equal(found.time, torch.tensor([[0.0, 1.0, 2.5], [0.0, 1.0, 2.5]]))


def test_losses_are_mixed_by_the_same_share() -> None:
    own, other = {"a": torch.tensor(1.0), "b": torch.tensor(0.0)}, {"b": torch.tensor(4.0), "a": torch.tensor(3.0)}
    assert between(own, other, 0.75) == {"a": 1.5, "b": 1.0}


def test_training_with_mixup_and_what_cannot_be_mixed(tmp_path: Path) -> None:
    dataset = feature_dataset(tmp_path / "folder")
    base = ["dataset=folder", f"dataset.root={dataset}", "size=tiny", "probes=false", "test=false",
            "trainer.max_epochs=1", "dataset.batch_size=8", "trainer.log_every_n_steps=1"]  # fmt: skip
    found = {}
    for name, extra in {"none": [], "zero": ["mixup=clips", "mixup.alpha=0"], "clips": ["mixup=clips"]}.items():
        train_in_process(tmp_path / name, *base, *extra)
        found[name] = checkpoint.load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(found["none"][k], found["zero"][k]) for k in found["none"])
    assert any(not torch.equal(found["none"][k], found["clips"][k]) for k in found["none"])
    for choice, problem in {"baseline=self_mm": "labels for one clip", "model=hero_cot": "a language model"}.items():
        with pytest.raises(ConfigError, match=problem):
            train_in_process(tmp_path / "run", *base, "mixup=clips", choice)
