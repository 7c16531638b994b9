"""What W&B gets of a split, without W&B; tests/test_dashboards.py reads a whole run back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from hero_lightning.reporting import plots, wandb_run
from hero_lightning.reporting.callback import ResultsWriter
from tests.reporting.test_callback import TASKS, Toy, loader, samples, trainer


@pytest.fixture
def sent(tmp_path: Path) -> dict[str, Any]:
    """Everything of a test pass over five clips, whose first has a written answer."""
    writer = ResultsWriter(100)
    trainer(tmp_path, writer, logger=False).test(Toy(), loader(samples("test", 5)), verbose=False)
    record = writer.records["test"]
    record.answers[0] = {
        "id": "test_0", "truth": "happy", "label": "happy", "confidence": 0.9, "generated": "happy", "status": "ok",
        "evidence": [], "text": "a high voice",
    }  # fmt: skip
    out: dict[str, Any] = {}
    logger: Any = SimpleNamespace(experiment=SimpleNamespace(log=out.update))
    picture = plots.metric_by_row(["a"], [0.5], [(0.4, 0.6)], tmp_path / "p.png", "a")
    gates = {"happy": {"audio": 0.75, "text": 0.25}}
    wandb_run.send_split(logger, record, TASKS, writer.reports["test"], gates, {"gates": picture}, rows=2)
    return out


def test_tables_and_pictures_of_a_split(sent: dict[str, Any]) -> None:
    assert isinstance(sent.pop("test_images/gates"), wandb.Image)
    tables = {name.removeprefix("test_tables/"): table for name, table in sent.items()}
    assert set(tables) == {"predictions", "answers", "gates", "classes_emotion", "confusion_emotion"}
    assert [row[0] for row in tables["predictions"].data] == ["test_0", "test_1"]  # no more than asked for
    answers = tables["answers"]
    assert dict(zip(answers.columns, answers.data[0], strict=True))["text"] == "a high voice"
    assert (tables["gates"].columns, tables["gates"].data) == (["class", "audio", "text"], [["happy", 0.75, 0.25]])
    counts = {(row[0], row[1]): row[2] for row in tables["confusion_emotion"].data}
    assert counts == {("happy", "happy"): 3, ("sad", "sad"): 2, ("happy", "sad"): 0, ("sad", "happy"): 0}
    assert {row[0]: row[-1] for row in tables["classes_emotion"].data} == {"happy": 3.0, "sad": 2.0}  # support


@pytest.mark.parametrize(
    ("given", "online"),
    [({}, False), ({"WANDB_API_KEY": "k"}, True), ({"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, False),
     ({"WANDB_MODE": "disabled"}, False), ({"WANDB_MODE": "online"}, True)],
)  # fmt: skip
def test_uploads_only_where_it_can(
    given: dict[str, str], online: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # without a .netrc
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert wandb_run.can_upload() is online


def test_without_a_key_a_run_is_offline_and_does_not_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "")  # so that it is restored
    monkeypatch.delenv("WANDB_MODE")
    folder, choices = str(tmp_path / "runs" / "a" / "b"), {"encoder": "e" * 80}
    with caplog.at_level("INFO"):
        logger = wandb_run.wandb_logger("p", folder, str(tmp_path / "runs"), "mine", "train", choices, ["x"])
    assert "logging offline" in caplog.text
    assert not wandb_run.can_upload()
    init = logger._wandb_init
    assert (init["name"], init["group"], init["job_type"]) == ("a/b", "mine", "train")
    assert init["tags"] == ["encoder=" + "e" * 56, "x"]  # W&B refuses more than 64 characters
    assert "anonymous" not in init  # W&B calls it deprecated
