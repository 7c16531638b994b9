"""`evaluate run=RUN robustness=true`: the same clips without each stream in turn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers import feature_corpus, run, train_in_process


def test_every_stream_is_withheld_once(tmp_path: Path) -> None:
    corpus = feature_corpus(tmp_path / "corpus")
    train_in_process(tmp_path / "run", "dataset=folder", f"dataset.root={corpus}", "size=tiny", "trainer.max_epochs=1", "test=false")  # fmt: skip  # noqa: E501
    arguments = [f"run={tmp_path / 'run'}", "drop=[au]", "robustness=true", f"paths.runs={tmp_path / 'runs'}"]
    done = run("hero_lightning.evaluate", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = next((tmp_path / "runs" / "evaluate").iterdir())
    found = json.loads((folder / "robustness.json").read_text())["targets"]["emotion"]
    names = [f"emotion without {s}" for s in ("frame", "motion", "audio", "text")]  # au is withheld in all
    assert list(found["baselines"]) == names
    whole = found["figures"]["weighted_f1"]["value"]
    for name in names:
        figure = found["baselines"][name]["weighted_f1"]
        assert figure["difference"] == pytest.approx(whole - figure["value"], abs=1e-6)
        assert figure["low"] <= figure["difference"] <= figure["high"]
        alone = json.loads((folder / f"without_{name.split()[-1]}" / "metrics.json").read_text())
        assert alone["splits"]["test"]["emotion"]["figures"]["weighted_f1"]["value"] == pytest.approx(figure["value"])
    assert "what a missing stream costs" in done.stdout
    assert len((tmp_path / "run" / "test_uses.txt").read_text().splitlines()) == 1
