"""A user's day on a small demo dataset: train, evaluate without a modality, predict, extract; bad input on the way."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.helpers import feature_dataset, run, train_in_process


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a demo dataset of 40 clips and a run on it."""
    root = tmp_path_factory.mktemp("day")
    paths = [f"paths.data={root}/data", f"paths.features={root}/features", "dataset.clips=40"]
    train_in_process(root / "run", *paths, "size=tiny", "trainer.max_epochs=2", "dataset.batch_size=8", "logger=csv")
    return root


def paths(day: Path) -> list[str]:
    return [f"paths.data={day}/data", f"paths.features={day}/features", f"paths.runs={day}/runs"]


def test_a_run_leaves_everything_behind(day: Path) -> None:
    names = {p.name for p in (day / "run").iterdir()}
    assert names >= {
        "config.yaml", "index.json", "availability.csv", "ledger.csv", "metrics.json", "predictions.csv", "curves.png",
        "checkpoints", "confusion_test_emotion.png", "gates_test.png", "gates_by_channel_test.png",
    }  # fmt: skip
    metrics = json.loads((day / "run" / "metrics.json").read_text())
    test = metrics["splits"]["test"]["emotion"]
    assert {"weighted_f1", "macro_f1", "accuracy", "uar", "ece"} <= set(test["metrics"])
    assert len(test["baselines"]) == 6
    assert metrics["seed"] == 0
    assert metrics["versions"]["torch"]
    with (day / "run" / "predictions.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "test"]
    assert len(rows) == len({r["id"] for r in rows}) == test["n"]
    for row in rows:
        assert sum(float(v) for k, v in row.items() if k.startswith("gate_")) == pytest.approx(1, abs=1e-4)


def test_evaluate_without_a_modality_and_again(day: Path) -> None:
    done = run("hero_lightning.evaluate", f"run={day / 'run'}", "drop=[frame]", *paths(day), cwd=day)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next((day / "runs" / "evaluate").glob("*/metrics.json")).read_text())
    whole = json.loads((day / "run" / "metrics.json").read_text())
    assert found["splits"]["test"]["emotion"]["n"] == whole["splits"]["test"]["emotion"]["n"]
    with next((day / "runs" / "evaluate").glob("*/predictions.csv")).open() as file:
        assert all("frame" not in row["present"].split("|") for row in csv.DictReader(file))
    assert len((day / "run" / "test_uses.txt").read_text().splitlines()) == 1
    wrong = run("hero_lightning.evaluate", f"run={day / 'run'}", "drop=[sound]", *paths(day), cwd=day)
    assert wrong.returncode == 2
    assert "Unknown drop" in wrong.stderr


def test_predict_a_clip_of_the_dataset_and_a_file(day: Path) -> None:
    clip = next((day / "data" / "demo").glob("*/clips/test_*.mp4"))
    by_id = run(
        "hero_lightning.predict", f"run={day / 'run'}", f"id={clip.stem}", f"out={day / 'out'}", *paths(day), cwd=day
    )
    assert by_id.returncode == 0, by_id.stderr[-2000:]
    found = json.loads(by_id.stdout)
    assert found["id"] == clip.stem
    assert sum(found["predictions"]["emotion"]["all"].values()) == pytest.approx(1, abs=1e-3)
    assert sum(found["gate"].values()) == pytest.approx(1, abs=1e-3)
    for attention in found["time_attention"].values():
        assert len(attention["seconds"]) == len(attention["weight"])
    assert (day / "out" / "prediction.json").exists()
    assert (day / "out" / "time_attention.png").stat().st_size > 5000
    copy = day / "mine.mp4"
    shutil.copy(clip, copy)
    by_file = run("hero_lightning.predict", f"run={day / 'run'}", f"video={copy}", "text='oh no'", *paths(day), cwd=day)
    assert by_file.returncode == 0, by_file.stderr[-2000:]
    assert json.loads(by_file.stdout)["modalities"]["au"].startswith("absent")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("video=nowhere.mp4", "There is no such file"),
        ("id=nobody", "no such sample"),
        ("video=empty.mp4", "Nothing of this clip can be read"),
        ("seed=1", "Could not override 'seed'"),
    ],
)
def test_predict_says_what_is_wrong(day: Path, what: str, words: str) -> None:
    (day / "empty.mp4").touch()
    done = run("hero_lightning.predict", f"run={day / 'run'}", what, *paths(day), cwd=day)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_a_feature_file(tmp_path: Path) -> None:
    dataset = feature_dataset(tmp_path / "dataset")
    train_in_process(tmp_path / "run", "dataset=folder", f"dataset.root={dataset}", "size=tiny", "trainer.max_epochs=1", "test=false")  # fmt: skip  # noqa: E501
    file = dataset / "features" / "c005.npy"
    done = run(
        "hero_lightning.predict", f"run={tmp_path / 'run'}", f"features={file}", f"trust=[{dataset}]", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["modalities"]["au"].startswith("absent")
    assert "au" in found["inferred"]
    none = run("hero_lightning.predict", f"run={tmp_path}", f"features={file}", cwd=tmp_path)
    assert none.returncode == 2
    assert "No checkpoint found" in none.stderr


def test_a_checkpoint_of_other_widths_and_classes_is_refused(tmp_path: Path) -> None:
    first, base = feature_dataset(tmp_path / "a"), ["size=tiny", "trainer.max_epochs=1", "test=false", "dataset=folder"]
    train_in_process(tmp_path / "run", *base, f"dataset.root={first}")
    other = feature_dataset(tmp_path / "b", classes=("joy", "anger", "fear"))
    where = [f"run={tmp_path / 'run'}", f"trust=[{first}]", "dataset=folder", f"dataset.root={other}"]
    done = run("hero_lightning.evaluate", *where, cwd=tmp_path)
    assert done.returncode == 2
    assert "has other classes" in done.stderr
    assert "label_map" in done.stderr
    own = f"hydra.run.dir={tmp_path / 'mapped'}"
    mapped = run("hero_lightning.evaluate", *where, own, "label_map={joy: happy, anger: sad}", cwd=tmp_path)
    assert mapped.returncode == 0, mapped.stderr[-2000:]
    assert "fear" in (tmp_path / "mapped" / "ledger.csv").read_text()


def test_extract_then_nothing_is_left_to_do(day: Path) -> None:
    for word in ("written", "kept"):
        done = run("hero_lightning.extract", "dataset.clips=40", "modalities=[audio]", f"paths.features={day}/store", f"paths.data={day}/data", cwd=day)  # fmt: skip  # noqa: E501
        assert done.returncode == 0, done.stderr[-2000:]
        assert word in done.stderr + done.stdout
