"""Checkpoints: what they keep, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hero_lightning.errors import CheckpointError
from hero_lightning.training import checkpoint

SAVED: dict[str, Any] = {
    "dims": {"audio": 8},
    "identities": {"audio": {"dataset": "a", "modality": "audio", "encoder": {"class": "LogMel", "bands": 40}}},
    "tasks": {"emotion": {"settings": {"classes": ["sad", "happy"]}}},
}
HUBERT = {"dataset": "b", "modality": "audio", "encoder": {"class": "Hubert"}}
OTHER_ORDER = {"emotion": {"settings": {"classes": ["happy", "sad"]}}}


class Halves(nn.Module):
    """One frozen and one learning half."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.frozen, self.learns = nn.BatchNorm1d(2), nn.Linear(width, 2)
        self.frozen.requires_grad_(False)


def test_only_what_training_changes_is_kept() -> None:
    module = Halves()
    assert set(checkpoint.trainable_state(module, module.state_dict())) == {"learns.weight", "learns.bias"}


def test_restore_checks_shapes_and_names() -> None:
    here = Path("x.ckpt")
    state = checkpoint.trainable_state(Halves(), Halves().state_dict())
    module = Halves()
    checkpoint.restore(module, state, here)
    assert torch.equal(module.learns.weight, state["learns.weight"])
    with pytest.raises(CheckpointError, match=r"(?s)another shape.*learns.weight \(2, 4\).*x.ckpt"):
        checkpoint.restore(Halves(4), state, here)
    with pytest.raises(CheckpointError, match="1 trainable weights are not in the checkpoint"):
        checkpoint.restore(Halves(), {"learns.weight": state["learns.weight"]}, here)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dims": {"audio": 9}}, r"another width.*expected: 8.*got:\s+9.*modality.audio"),
        ({"identities": {"audio": HUBERT}}, r"differ in `encoder`.*LogMel.*Hubert"),
        ({"tasks": OTHER_ORDER}, r"other classes.*\['sad', 'happy'\].*label_map"),
    ],
)
def test_facts_that_differ_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=f"(?s){words}"):
        checkpoint.check_facts(SAVED, {**SAVED, **change}, Path("x.ckpt"))


def test_another_dataset_or_folder_is_no_difference() -> None:
    other = {**SAVED["identities"]["audio"], "dataset": "b"}
    checkpoint.check_facts(SAVED, {**SAVED, "identities": {"audio": other}}, Path("x.ckpt"))
    checkpoint.check_facts(SAVED, {"dims": {}, "identities": {}, "tasks": {}}, Path("x.ckpt"))


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No checkpoint found"):
        checkpoint.find(tmp_path)
    (tmp_path / "broken").write_bytes(b"PK not a checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "foreign")
    torch.save({"state_dict": {}, "hero_lightning": Path("x")}, tmp_path / "evil")
    for name, words in {"broken": "cannot be read", "foreign": "not one of hero", "evil": "cannot be read"}.items():
        with pytest.raises(CheckpointError, match=words):
            checkpoint.load(tmp_path / name)


def test_the_cause_of_an_unreadable_file_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("needs version 9")

    torch.save({}, tmp_path / "last.ckpt")
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(CheckpointError, match=r"cannot be read(.|\n)*ValueError: needs version 9"):
        checkpoint.load(tmp_path / "last.ckpt")


def test_find_prefers(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("best.ckpt", "last.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    assert checkpoint.find(tmp_path).name == "best.ckpt"
    assert checkpoint.find(tmp_path, prefer="last").name == "last.ckpt"
    assert checkpoint.run_folder(checkpoint.find(tmp_path)) == tmp_path
