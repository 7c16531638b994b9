"""Resume: the run's own folder, its best epoch and history; options that would be ignored are refused."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hero_lightning.config.signals import Stopped
from hero_lightning.errors import CheckpointError, ConfigError
from hero_lightning.reporting.progress import EpochLines
from hero_lightning.training import checkpoint, resume
from tests.helpers import feature_dataset, train_in_process

QUICK = ["size=tiny", "probes=false", "logger=csv", "dataset.batch_size=8", "callbacks.stop=null"]
QUICK += ["callbacks.record.resamples=100", "trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = feature_dataset(tmp_path_factory.mktemp("dataset") / "folder")
    return ["dataset=folder", f"dataset.root={root}", *QUICK]


def metrics(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())["splits"]


def history(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        kept = ("step", "epoch", "train/loss", "val/score")
        return [{k: row.get(k, "") for k in kept} for row in csv.DictReader(file)]


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "checkpoints" / name)["state_dict"]


@pytest.fixture(scope="module")
def stopped(options, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of five epochs whose best is an early one, and the same run stopped after three."""
    folder = tmp_path_factory.mktemp("runs")
    worse = [*options, "optimizer.lr=0.2", "optimizer.warmup=0.5"]  # it gets worse with the rising rate
    train_in_process(folder / "whole", *worse, "trainer.max_epochs=5")
    (folder / "options.json").write_text(json.dumps(worse))

    def stop(self, trainer, pl_module):
        if trainer.current_epoch == 3:
            raise Stopped(15)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochLines, "on_train_epoch_start", stop)
        with pytest.raises(Stopped):
            train_in_process(folder / "part", *worse, "trainer.max_epochs=5")
    return folder / "whole", folder / "part"


@pytest.mark.parametrize("how", ["in place", "moved", "into another folder"])
def test_a_resumed_run_equals_one_that_was_not_stopped(stopped, tmp_path, how):
    whole, part = stopped
    given = json.loads((whole.parent / "options.json").read_text())
    run = shutil.copytree(part, tmp_path / "copy")
    if how == "moved":
        run = run.rename(tmp_path / "moved")
    target = tmp_path / "new" if how == "into another folder" else run
    train_in_process(target, *given, "trainer.max_epochs=5", f"resume={run}")
    for name in ("best.ckpt", "last.ckpt"):
        a, b = weights(whole, name), weights(target, name)
        assert all(torch.equal(v, b[k]) for k, v in a.items()), name
    assert metrics(target) == metrics(whole)
    assert history(target) == history(whole)
    assert len(history(target)) >= 5
    best = checkpoint.load(whole / "checkpoints" / "best.ckpt")
    assert "optimizer_states" not in best
    splits = {row["split"] for row in csv.DictReader((target / "predictions.csv").open())}
    assert splits == {"val", "test"}


def test_the_best_epoch_of_that_test_is_before_the_stop(stopped):
    assert checkpoint.load(stopped[0] / "checkpoints" / "best.ckpt")["epoch"] < 3


@pytest.mark.parametrize("option", ["optimizer.lr=0.3", "seed=4", "+callbacks.stop.patience=3", "model.dropout=0.3"])
def test_an_option_that_would_be_ignored_is_refused(stopped, tmp_path, option):
    whole, part = stopped
    run = shutil.copytree(part, tmp_path / "copy")
    before = (run / "config.yaml").read_text()
    given = json.loads((whole.parent / "options.json").read_text())
    if option.startswith("+"):
        given = [o for o in given if o != "callbacks.stop=null"]
    key = option.lstrip("+").split("=")[0]
    with pytest.raises(ConfigError) as told:
        train_in_process(run, *[o for o in given if not o.startswith(f"{key}=")], option.lstrip("+"), f"resume={run}")
    assert key.split(".")[0] in str(told.value)
    assert (run / "config.yaml").read_text() == before


def test_what_takes_effect_may_change():
    before = {
        "trainer": {"max_epochs": 3, "precision": "32-true"},
        "dataset": {"root": "a", "num_workers": 0},
        "seed": 1,
    }
    after = {
        "trainer": {"max_epochs": 9, "precision": "32-true"},
        "dataset": {"root": "b", "num_workers": 2},
        "seed": 1,
    }
    assert list(resume.differences(before, after)) == []
    after["trainer"]["precision"] = "16-mixed"
    assert list(resume.differences(before, after)) == [("trainer.precision", "32-true", "16-mixed")]


def test_weights_alone_are_refused_with_what_to_do(stopped, tmp_path):
    run = shutil.copytree(stopped[0], tmp_path / "copy")
    with pytest.raises(CheckpointError, match=r"(?s)weights alone.*resume=.*init_from="):
        resume.point(str(run / "checkpoints" / "best.ckpt"), {})


def test_a_state_with_foreign_paths_removes_nothing(stopped, tmp_path, options):
    """What a checkpoint says of paths is not read: a crafted one deleted folders."""
    run = shutil.copytree(stopped[1], tmp_path / "copy")
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").write_text("mine")
    path = run / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    away = str(run / "checkpoints" / ".." / ".." / "keep")
    crafted = {
        "best_model_score": torch.tensor(-9.0), "best_model_path": away, "kth_best_model_path": away,
        "last_model_path": away, "best_k_models": {away: torch.tensor(-9.0)}, "file": away,
        "dirpath": str(run / "checkpoints"),
    }  # fmt: skip
    state["callbacks"] = {k: crafted if "Checkpoint" in k else v for k, v in state["callbacks"].items()}
    torch.save(state, path)
    given = json.loads((stopped[0].parent / "options.json").read_text())
    train_in_process(run, *given, "trainer.max_epochs=5", f"resume={run}")
    assert (keep / "file").read_text() == "mine"


def test_a_kill_by_signal_is_told_with_the_command_that_goes_on(options, tmp_path):
    """SIGTERM while training: exit code 143, and the printed command finishes the run."""
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "hero_lightning.train",
        *options,
        "trainer=cpu",
        "trainer.max_epochs=60",
        "test=false",
    ]
    command += ["test=false", "dataset.num_workers=0", f"hydra.run.dir={run}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if line.startswith("epoch 2/60"):
                process.terminate()
                break
        seen += process.stdout.read()
    assert process.returncode == 143, seen
    assert "Stopped by SIGTERM. All finished epochs are kept. Continue with:" in seen
    again = seen.strip().splitlines()[-1]
    assert again.endswith(f"resume={run}")
    words = [sys.executable, *again.split()[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "all 60 epochs done; best epoch" in done.stderr + done.stdout
    assert not list(tmp_path.glob("runs/*"))
