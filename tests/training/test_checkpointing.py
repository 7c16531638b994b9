"""Writing checkpoints: a failed write leaves the file before and says why."""

from __future__ import annotations

import os

import pytest
import torch

from hero_lightning.errors import CheckpointError
from hero_lightning.training.checkpointing import AtomicCheckpointIO, BestCheckpoint


def test_a_failed_write_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"x": torch.ones(3)}, path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"(?s)cannot be written.*No space left.*last.ckpt.*paths.runs"):
        io.save_checkpoint({"x": torch.zeros(3)}, path)
    assert torch.load(path, weights_only=True)["x"].tolist() == [1, 1, 1]
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "checkpoints").write_text("a file, no folder")
    with pytest.raises(CheckpointError, match="cannot be written"):
        AtomicCheckpointIO().save_checkpoint({"x": torch.ones(3)}, tmp_path / "checkpoints" / "last.ckpt")


def test_the_temporary_file_lies_beside_the_final_one(tmp_path, monkeypatch):
    """Not in the system's folder for such files, which may be another disk, where a rename is a copy."""
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append((a, b)), replace(a, b)))
    AtomicCheckpointIO().save_checkpoint({"x": torch.ones(3)}, tmp_path / "last.ckpt")
    assert [(a.parent, b.name) for a, b in moved] == [(tmp_path, "last.ckpt")]


def test_the_best_score_is_kept_only_with_its_file(tmp_path):
    kept, lost = (BestCheckpoint(dirpath=tmp_path, filename="best", monitor="val/score", mode="max") for _ in range(2))
    state = {"best_model_score": torch.tensor(0.5), "file": "best.ckpt"}
    lost.load_state_dict(state)
    assert lost.best_model_score is None
    (tmp_path / "best.ckpt").touch()
    kept.load_state_dict(state)
    assert kept.best_model_score == 0.5
    assert kept.best_model_path == str(tmp_path / "best.ckpt")
