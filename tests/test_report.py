"""The table of finished runs: rows by what varies, hand values, what is left out is said."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.evaluation import runs
from hero_lightning.report import report
from hero_lightning.reporting import summary
from hero_lightning.tasks import ClassTask

CLASSES = ["a", "b"]


def write_run(
    folder: Path, seed: int, right: float, overrides: dict[str, str], finished: bool = True, **config: object
) -> Path:
    """A run on 40 clips whose share of right answers is about `right`."""
    (folder / ".hydra").mkdir(parents=True)
    given = [f"{k}={v}" for k, v in overrides.items()] + [f"seed={seed}"]
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(given))
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "paths": {"runs": str(folder)}, **config}))
    if not finished:
        return folder
    rng = np.random.default_rng(seed)
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "emotion_truth", "emotion_prediction", "emotion_p_a", "emotion_p_b"])
        for i in range(40):
            truth = i % 2
            said = truth if rng.random() < right else 1 - truth
            writer.writerow([f"c{i:02d}", "test", CLASSES[truth], CLASSES[said], 1 - said, said])
    task = ClassTask("emotion", CLASSES)
    metrics = {"weighted_f1": {"value": 0.5, "chance": 0.5, "majority": 0.3333}}
    results = {"tasks": {"emotion": task.state()}, "splits": {"test": {"emotion": {"metrics": metrics}}}, "commit": "c"}
    (folder / "metrics.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for model, right in (("x", 0.6), ("y", 0.95)):
        for seed in range(3):
            write_run(tmp_path / "s" / f"{model}{seed}", seed, right, {"model": model}, model={"kind": model})
    return tmp_path / "s"


def test_rows_are_what_varies_and_seeds_are_averaged(sweep: Path, tmp_path: Path) -> None:
    lines = report([sweep], out=tmp_path / "out")
    assert [line["model"] for line in lines] == ["model=x", "model=y"]
    assert [line["fits"] for line in lines] == [3, 3]
    by_hand = []
    for seed in range(3):
        rows = list(csv.DictReader((sweep / f"y{seed}" / "predictions.csv").open()))
        by_hand.append(np.mean([r["emotion_truth"] == r["emotion_prediction"] for r in rows]))
    assert lines[1]["values"]["accuracy"] == pytest.approx(np.mean(by_hand))
    assert lines[1]["spread"]["accuracy"] == pytest.approx(np.std(by_hand, ddof=1))
    difference = lines[1]["minus"]["model=x"]["accuracy"]
    assert difference["difference"] == pytest.approx(lines[1]["values"]["accuracy"] - lines[0]["values"]["accuracy"])
    assert difference["low"] > 0
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"table.md", "table.tex", "table.csv", "table.json", "weighted_f1.png"} <= written
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table["constants"]["majority"] == {"weighted_f1": pytest.approx(0.3333)}
    assert len(table["runs"]["model=x"]) == 3


def test_an_unfinished_run_is_named_and_a_seed_that_a_row_lacks_left_out(
    sweep: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (sweep / "x2" / "metrics.json").unlink()
    with caplog.at_level(logging.WARNING):
        lines = report([sweep])
    assert [line["fits"] for line in lines] == [2, 2]
    assert "model=y: 1 runs are not in every row" in caplog.text
    assert f"left no result: {sweep / 'x2'}" in caplog.text
    assert (sweep / "report" / "table.md").is_file()


def test_rows_that_the_command_line_does_not_tell_apart_are_told_apart_by_the_config(tmp_path: Path) -> None:
    for width in (8, 16):
        write_run(tmp_path / str(width), 0, 0.7, {}, model={"width": width})
    finished, _ = runs.find([tmp_path])
    assert set(runs.rows(finished, [])) == {"model.width=8", "model.width=16"}


def test_folds_are_averaged_like_seeds(tmp_path: Path) -> None:
    for fold in (0, 1):
        write_run(tmp_path / f"{fold}", 0, 0.8, {"dataset.fold": str(fold)}, dataset={"fold": fold})
    finished, _ = runs.find([tmp_path])
    table = runs.rows(finished, ["dataset.fold"])
    assert {name: sorted(row) for name, row in table.items()} == {"all runs": [(0, 0), (1, 0)]}
    assert len(runs.rows(finished, [])) == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"reference": "model=z"}, r"(?s)Unknown reference.*model=x, model=y.*model=z"),
        ({"metrics": ["f7"]}, r"(?s)Unknown metrics.*weighted_f1.*f7"),
        ({"split": "dev"}, r"(?s)no such split.*test.*dev"),
        ({"task": "valence"}, r"(?s)no such task.*emotion.*valence"),
    ],
)
def test_what_the_runs_do_not_have_is_refused(sweep: Path, options: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        report([sweep], **options)


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        report([tmp_path / "nowhere"])
    write_run(tmp_path / "s" / "x0", 0, 0.5, {}, finished=False)
    with pytest.raises(ConfigError, match="1 unfinished runs"):
        report([tmp_path / "s"])


def test_a_damaged_run_folder_shows_the_cause(sweep: Path) -> None:
    (sweep / "x0" / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"(?s)cannot be read.*JSONDecodeError.*x0"):
        report([sweep])


def test_holm() -> None:
    """Sorted p times 4, 3, 2, 1, never falling: 0.01 -> 0.04, 0.02 -> 0.06, 0.03 -> 0.06, 0.4 -> 0.4."""
    assert runs.holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert runs.holm([0.6, 0.7]) == [1.0, 1.0]


def test_latex_escapes_and_uses_booktabs() -> None:
    text = summary.latex([["", "weighted_f1"], ["a&b 100%", "0.5 ± 0.1"]])
    assert "weighted\\_f1" in text
    assert "a\\&b 100\\% & 0.5 $\\pm$ 0.1 \\\\" in text
    assert text.startswith("\\begin{tabular}{lr}\n\\toprule")
