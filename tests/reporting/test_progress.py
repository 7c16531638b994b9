"""Console lines of a training run."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from hero_lightning.reporting import progress


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.44, "0.4 s"), (12.4, "12 s"), (89, "89 s"), (150, "2 min"), (9000, "2.5 h")]
)
def test_spans(seconds, words):
    assert progress.span(seconds) == words


def trainer(**facts):
    given = {
        "current_epoch": 2, "max_epochs": 10, "callback_metrics": {"val/score": torch.tensor(0.5)}, "callbacks": [],
        "checkpoint_callback": SimpleNamespace(best_model_score=torch.tensor(0.25)), "is_global_zero": True,
        "progress_bar_callback": None,
    }  # fmt: skip
    return SimpleNamespace(**given | facts)


def test_a_line_per_epoch_with_score_and_time_left(monkeypatch, caplog):
    clock = iter([100.0, 160.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines = progress.EpochLines()
    lines.on_train_start(trainer(current_epoch=0), None)
    with caplog.at_level(logging.INFO):
        lines.on_train_epoch_end(trainer(), None)
    assert caplog.messages == ["epoch 3/10: val/score 0.5000, best 0.5000; 20 s each, 2 min left"]


def test_beside_a_progress_bar_there_is_no_line(caplog):
    lines = progress.EpochLines()
    lines.on_train_start(trainer(progress_bar_callback=object()), None)
    with caplog.at_level(logging.INFO):
        lines.on_train_epoch_end(trainer(), None)
    assert caplog.messages == []


def test_the_end_names_reason_best_epoch_place_and_next_command(tmp_path):
    end = progress.ending(trainer(current_epoch=10), tmp_path, {"epoch": 6})
    assert end == (
        f"all 10 epochs done; best epoch 7 (val/score 0.2500); files in {tmp_path}; "
        f"next: python -m hero_lightning.report run={tmp_path}"
    )
    assert progress.ending(trainer(), tmp_path, None).startswith("stopped after epoch 2; files in ")
