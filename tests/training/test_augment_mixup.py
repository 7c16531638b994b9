"""Mixup: shares, labels and masks of mixed clips; what cannot be mixed is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hero_lightning.errors import ConfigError
from hero_lightning.training import checkpoint
from hero_lightning.training.augment import Mixup, between, mixed
from hero_lightning.types import Batch, Features, Label
from tests.helpers import feature_dataset, train_in_process


def made(rows: int = 6) -> tuple[dict[str, Features], Batch]:
    x = torch.arange(rows, dtype=torch.float32)[:, None, None].expand(-1, 2, 3)
    label = Label(torch.arange(rows), torch.ones(rows, dtype=torch.bool))
    place = torch.arange(rows)
    batch = Batch(place, place, place * 0, {}, {"emotion": label}, [None] * rows, [{}] * rows)  # type: ignore[list-item]
    return {"au": Features(x, torch.ones(rows, 2, dtype=torch.bool))}, batch


def test_features_and_labels_are_mixed_with_the_same_partner() -> None:
    torch.manual_seed(0)
    features, batch = made()
    found, partners, share = Mixup(1.0)(features, batch)
    other = partners.labels["emotion"].value
    assert 0.5 <= share < 1
    assert sorted(other.tolist()) == list(range(6)) != other.tolist()
    expected = share * torch.arange(6.0) + (1 - share) * other
    torch.testing.assert_close(found["au"].x, expected[:, None, None].expand(-1, 2, 3))
    assert torch.equal(features["au"].x[:, 0, 0], torch.arange(6.0))  # nothing is changed in place
    assert partners.index is batch.index


def test_shares_follow_the_beta_distribution() -> None:
    torch.manual_seed(0)
    features, batch = made(2)
    shares = torch.tensor([Mixup(0.4)(features, batch)[2] for _ in range(2000)])
    # E max(s, 1 - s) = 1/2 + E|s - 1/2|, which is 0.3398 for Beta(0.4, 0.4) (numerical integral)
    assert shares.mean() == pytest.approx(0.5 + 0.3398, abs=0.01)
    assert Mixup(0.0)(features, batch) == (features, batch, 1.0)


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


def test_training_with_it_changes_the_weights_and_alpha_0_none(tmp_path: Path) -> None:
    dataset = feature_dataset(tmp_path / "folder")
    base = ["dataset=folder", f"dataset.root={dataset}", "size=tiny", "probes=false", "test=false",
            "trainer.max_epochs=1", "dataset.batch_size=8", "trainer.log_every_n_steps=1"]  # fmt: skip
    found = {}
    for name, extra in {"none": [], "zero": ["mixup=clips", "mixup.alpha=0"], "clips": ["mixup=clips"]}.items():
        train_in_process(tmp_path / name, *base, *extra)
        found[name] = checkpoint.load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(found["none"][k], found["zero"][k]) for k in found["none"])
    assert any(not torch.equal(found["none"][k], found["clips"][k]) for k in found["none"])


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mixup\.alpha"):
        Mixup(-1)
    dataset = feature_dataset(tmp_path / "folder")
    base = ["dataset=folder", f"dataset.root={dataset}", "size=tiny", "mixup=clips"]
    for choice, problem in {"baseline=self_mm": "labels for one clip", "model=hero_cot": "a language model"}.items():
        with pytest.raises(ConfigError, match=problem):
            train_in_process(tmp_path / "run", *base, choice)
