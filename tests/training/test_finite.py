"""Numbers that are not finite stop training where they appear; the last good checkpoint stays."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from hero_lightning.errors import DataError, TrainingError
from hero_lightning.tasks import ClassTask, ScoreTask
from hero_lightning.training import checkpoint, finite
from hero_lightning.types import Sample
from tests.helpers import feature_dataset, train_in_process

QUICK = ["size=tiny", "probes=false", "test=false", "logger=none", "dataset.batch_size=8", "callbacks.stop=null"]
IDS = ["a", "b", "c"]


def step(terms: dict[str, float], logits: list[float], lr: float = 1e-2) -> None:
    values = {name: torch.tensor(value) for name, value in terms.items()}
    finite.check_loss(values, [torch.tensor(logits)[:, None]], IDS, "epoch 1, step 7", lr)


def test_the_term_and_the_clips_of_a_loss_are_named() -> None:
    step({"loss": 3.0, "emotion": 1.0, "sync": 2.0}, [0.0, 0.0, 0.0])
    with pytest.raises(TrainingError, match=r"(?s)got: +sync = nan\n.*step 7; clips b\n.*optimizer.lr=0.001"):
        step({"loss": math.nan, "emotion": 1.0, "sync": math.nan}, [0.0, math.inf, 0.0])
    with pytest.raises(TrainingError, match=r"(?s)emotion = inf\n.*clips a, b, c\n.*optimizer.lr=1e-05"):
        step({"loss": math.inf, "emotion": math.inf}, [0.0, 0.0, 0.0], lr=1e-4)
    with pytest.raises(TrainingError, match="a sum of terms that is too large"):
        step({"loss": math.inf, "emotion": 1e38}, [0.0, 0.0, 0.0])


def test_gradients_weights_and_predictions() -> None:
    layer = nn.Linear(2, 1)
    finite.check_gradients(layer.named_parameters(), IDS, "here", 1e-3)
    for value, name in ((math.nan, "bias"), (1e30, "a norm that is too large")):
        layer.weight.grad, layer.bias.grad = torch.zeros(1, 2), torch.tensor([value])
        with pytest.raises(TrainingError, match=rf"(?s)A gradient.*got: +{name}\n.*clips a, b, c"):
            finite.check_gradients(layer.named_parameters(), IDS, "here", 1e-3)
    finite.check_weights(layer.named_parameters(), "here", 1e-3)
    with torch.no_grad():
        layer.bias.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"bias, one of 1"):
        finite.check_weights(layer.named_parameters(), "here", 1e-3)
    with pytest.raises(TrainingError, match=r"(?s)task valence\n.*clips b\n"):
        finite.check_predictions({"valence": torch.tensor([[0.0], [math.nan], [1.0]])}, IDS, "here", 1e-3)


def test_a_split_without_labels_of_the_first_task() -> None:
    task, rows = ClassTask("emotion"), [Sample("a", "val", labels={"valence": 1.0}), Sample("b", "val")]
    with pytest.raises(DataError, match=r"(?s)val has no label of task emotion.*2 samples"):
        finite.check_labels(task, rows, "val")
    finite.check_labels(ScoreTask("valence", -1, 1), rows, "val")
    finite.check_labels(task, [], "val")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes and scores."""
    root = feature_dataset(tmp_path_factory.mktemp("dataset") / "folder")
    rows = json.loads((root / "labels.json").read_text())
    for i, row in enumerate(rows):
        row["valence"] = i % 5 - 2
    (root / "labels.json").write_text(json.dumps(rows))
    return root


SCORE = [
    "~dataset.tasks.emotion",
    "~dataset.tasks.sentiment",
    "+dataset.tasks.valence={_target_: hero_lightning.tasks.ScoreTask, low: -2, high: 2}",
]


@pytest.mark.parametrize("tasks", [[], SCORE], ids=["class", "score"])
def test_a_huge_rate_stops_the_run_and_the_good_checkpoint_stays(dataset: Path, tmp_path: Path, tasks) -> None:
    base = ["dataset=folder", f"dataset.root={dataset}", *QUICK, *tasks]
    train_in_process(tmp_path, *base, "trainer.max_epochs=1")
    last = checkpoint.find(tmp_path, prefer="last")
    before = last.read_bytes()
    huge = ["optimizer.lr=1e30", "optimizer.warmup=0", "trainer.max_epochs=4", f"init_from={last}"]
    with pytest.raises(TrainingError, match=r"(?s)no finite number.*epoch 0, step \d+; clips c.*optimizer.lr=0.001"):
        train_in_process(tmp_path, *base, *huge)
    assert last.read_bytes() == before


def test_validation_without_labels_stops_before_the_first_step(dataset: Path, tmp_path: Path) -> None:
    rows = json.loads((dataset / "labels.json").read_text())
    for row in rows:
        if row["split"] == "val":
            row["emotion"] = None
    (tmp_path / "labels.json").write_text(json.dumps(rows))
    (tmp_path / "features").symlink_to(dataset / "features")
    with pytest.raises(DataError, match="Split val has no label of task emotion"):
        train_in_process(tmp_path / "run", "dataset=folder", f"dataset.root={tmp_path}", *QUICK)
    assert not (tmp_path / "run" / "checkpoints").exists()
