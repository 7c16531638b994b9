"""The estimate of a run's time, and the option that shortens it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hero_lightning.reporting.estimate import TimeEstimate, duration
from tests.helpers import feature_dataset, train_in_process


def test_a_long_run_is_told_how_to_become_short() -> None:
    estimate = TimeEstimate(minutes=30)
    assert estimate.line(0.1, 600, 100, 8).endswith("about 60 s (validation not counted): 600 batches of 0.1 s")
    assert estimate.line(2.0, 6000, 300, 8).endswith("about 3.3 h (validation not counted): 6000 batches of 2 s; "
                                                     "for 30 min: trainer.max_epochs=3")  # fmt: skip
    # one epoch takes 50 minutes: 900 batches of 8 clips in 30
    assert estimate.line(2.0, 30_000, 1500, 8).endswith("for 30 min: trainer.max_epochs=1 dataset.limit=7200")
    assert [duration(s) for s in (40, 720, 12_600)] == ["40 s", "12 min", "3.5 h"]


def test_it_is_printed_once_after_the_first_batches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = feature_dataset(tmp_path / "folder")
    options = ["size=tiny", "probes=false", "test=false", "logger=none", "dataset.batch_size=8"]
    short = ["trainer.max_epochs=3", "callbacks.estimate.batches=2", "callbacks.estimate.minutes=1e-6"]
    with caplog.at_level(logging.INFO):
        train_in_process(tmp_path / "run", "dataset=folder", f"dataset.root={root}", *options, *short)
    lines = [r.message for r in caplog.records if "training takes about" in r.message]
    assert len(lines) == 1
    assert ": 6 batches of" in lines[0]  # three epochs of three batches, three done
    assert "trainer.max_epochs=1 dataset.limit=8" in lines[0]
