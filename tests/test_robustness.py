"""`evaluate run=RUN robustness=true`: the same clips without each modality in turn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers import feature_dataset, in_process, train_in_process


def test_every_modality_is_withheld_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hero_lightning.evaluate import evaluate

    dataset = feature_dataset(tmp_path / "dataset", clips=24)
    few = ["modalities=[audio,text,au]", "size=tiny", "trainer.max_epochs=1", "test=false", "probes=false"]
    train_in_process(tmp_path / "run", "dataset=folder", f"dataset.root={dataset}", *few)
    folder, own = tmp_path / "scored", [f"run={tmp_path / 'run'}", f"trust=[{dataset}]", "trainer=cpu"]
    evaluate(in_process("evaluate", folder, *own, "drop=[au]", "robustness=true"))
    found = json.loads((folder / "robustness.json").read_text())["tasks"]["emotion"]
    assert list(found["baselines"]) == ["emotion without audio", "emotion without text"]  # au is withheld in all
    whole = found["metrics"]["weighted_f1"]["value"]
    for metrics in found["baselines"].values():
        f1 = metrics["weighted_f1"]
        assert f1["difference"] == pytest.approx(whole - f1["value"], abs=1e-6)
        assert f1["low"] <= f1["difference"] <= f1["high"]
    alone = tmp_path / "without_audio"
    evaluate(in_process("evaluate", alone, *own, "drop=[au,audio]"))
    reported = json.loads((alone / "metrics.json").read_text())["splits"]["test"]["emotion"]["metrics"]["weighted_f1"]
    assert found["baselines"]["emotion without audio"]["weighted_f1"]["value"] == pytest.approx(reported["value"])
    assert "without each modality" in capsys.readouterr().out
    assert len((tmp_path / "run" / "test_uses.txt").read_text().splitlines()) == 2
