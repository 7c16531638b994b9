"""The loop: resume bit for bit, two processes equal to one, only what a stage names changes, the golden curve."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hero_lightning.training import checkpoint
from tests.helpers import feature_dataset, train_in_process

SMALL = ["size=tiny", "probes=false", "test=false", "logger=csv", "dataset.batch_size=8", "trainer.log_every_n_steps=1"]
GOLDEN = Path(__file__).parent / "golden_demo.json"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return feature_dataset(tmp_path_factory.mktemp("dataset") / "folder")


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints" / name)["state_dict"]


def curve(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


EVERY_LOSS = [
    *(f"+loss@losses.{n}={n}" for n in ("itc", "multi_pair", "stmil", "distillation", "imputation", "entropy")),
    "losses.distillation.decay=0.9",
    "losses.itc.learnable=true",
    "modality_dropout.start=0.3",
]


@pytest.mark.parametrize("options", [["mixup=clips"], EVERY_LOSS], ids=["mixup", "losses"])
def test_same_seed_same_run_and_resume_is_bit_for_bit(dataset: Path, tmp_path: Path, options: list[str]) -> None:
    long = ["trainer.max_epochs=4", "callbacks.stop=null", *options]
    base = ["dataset=folder", f"dataset.root={dataset}", *SMALL, *long]
    keep = ["callbacks.last.filename='{epoch}'", "+callbacks.last.save_top_k=-1", "+callbacks.last.save_last=true"]
    train_in_process(tmp_path / "whole", *base, *keep)
    train_in_process(tmp_path / "again", *base)
    half = tmp_path / "whole" / "checkpoints" / "epoch=1.ckpt"
    train_in_process(tmp_path / "resumed", *base, f"resume='{half}'")
    whole = weights(tmp_path / "whole")
    assert len(whole) > 50
    for other in ("again", "resumed"):
        found = weights(tmp_path / other)
        assert all(torch.equal(whole[k], found[k]) for k in whole), other
    assert curve(tmp_path / "whole") == curve(tmp_path / "again")
    assert curve(tmp_path / "whole")[-len(curve(tmp_path / "resumed")) :] == curve(tmp_path / "resumed")
    train_in_process(tmp_path / "other", *base, "seed=1")
    assert curve(tmp_path / "other") != curve(tmp_path / "whole")


def test_two_processes_equal_one(dataset: Path, tmp_path: Path) -> None:
    """Key biases have no gradient but rounding, which Adam would blow up to whole steps: eps keeps it rounding."""
    base = [
        "dataset=folder", f"dataset.root={dataset}", "size=tiny", "probes=false", "model.dropout=0", "seed=3",
        "loss@losses.sync=none", "trainer.max_epochs=2", "optimizer.eps=1e-3",
        "dataset.num_workers=0", "trainer.accelerator=cpu", "modality_dropout.end=0.0",
    ]  # fmt: skip
    for name, extra in {"one": ["dataset.batch_size=8"], "two": ["dataset.batch_size=4", "trainer=ddp"]}.items():
        done = subprocess.run(
            [sys.executable, "-m", "hero_lightning.train", *base, *extra, f"hydra.run.dir={tmp_path / name}"],
            cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-6, rtol=0)
    metrics = [json.loads((tmp_path / n / "metrics.json").read_text())["splits"] for n in ("one", "two")]
    for split in ("val", "test"):
        a, b = (f[split]["emotion"] for f in metrics)
        assert a["n"] == b["n"] == 12
        for name, metric in a["metrics"].items():
            assert b["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-6), name


def test_only_what_a_stage_names_changes(dataset: Path, tmp_path: Path) -> None:
    base = ["dataset=folder", f"dataset.root={dataset}", *SMALL, "trainer.max_epochs=1", "callbacks.stop=null"]
    train_in_process(tmp_path / "first", *base)
    start = f"init_from={tmp_path / 'first' / 'checkpoints' / 'last.ckpt'}"
    train_in_process(tmp_path / "second", *base, start, "stage.train=[model.fusion]")
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert after
    assert all(k.startswith("model.fusion") for k in after)
    assert any(not torch.equal(before[k], after[k]) for k in after)


def test_a_run_that_fills_the_store_equals_one_that_finds_it_full(tmp_path: Path) -> None:
    folders = [f"paths.data={tmp_path}/data", f"paths.features={tmp_path}/features", "dataset.clips=24"]
    for name in ("fills", "finds"):
        train_in_process(tmp_path / name, *folders, *SMALL, "trainer.max_epochs=1")
    assert curve(tmp_path / "fills") == curve(tmp_path / "finds")


def test_golden_curve_of_the_demo_config(tmp_path: Path) -> None:
    """A refactoring keeps it; a numeric change writes it anew in the same commit, with a reason.

    HERO_GOLDEN=write makes the file.
    """
    dataset = [f"paths.data={tmp_path}/data", f"paths.features={tmp_path}/features", "dataset.clips=48"]
    train_in_process(tmp_path / "run", *dataset, *SMALL, "trainer.max_epochs=3", "callbacks.stop=null")
    found = curve(tmp_path / "run")
    if os.environ.get("HERO_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(found, indent=0) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) > 8
    assert found == pytest.approx(golden, rel=1e-4)
