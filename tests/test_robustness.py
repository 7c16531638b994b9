"""`evaluate run=RUN robustness=true`: the same clips without each modality in turn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers import feature_dataset, train_in_process


def test_every_modality_is_withheld_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from hero_lightning.config.cli import CONF
    from hero_lightning.evaluate import evaluate

    dataset = feature_dataset(tmp_path / "dataset", clips=24)
    few = ["modalities=[audio,text,au]", "size=tiny", "trainer.max_epochs=1", "test=false", "probes=false"]
    train_in_process(tmp_path / "run", "dataset=folder", f"dataset.root={dataset}", *few)
    folder = tmp_path / "scored"
    folder.mkdir()
    asked = [f"run={tmp_path / 'run'}", "drop=[au]", "robustness=true", "trainer=cpu"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("evaluate", [*asked, f"hydra.runtime.output_dir={folder}"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    evaluate(cfg)
    found = json.loads((folder / "robustness.json").read_text())["tasks"]["emotion"]
    assert list(found["baselines"]) == ["emotion without audio", "emotion without text"]  # au is withheld in all
    whole = found["metrics"]["weighted_f1"]["value"]
    for name, metrics in found["baselines"].items():
        figure = metrics["weighted_f1"]
        assert figure["difference"] == pytest.approx(whole - figure["value"], abs=1e-6)
        assert figure["low"] <= figure["difference"] <= figure["high"]
        alone = json.loads((folder / f"without_{name.split()[-1]}" / "metrics.json").read_text())
        assert alone["splits"]["test"]["emotion"]["metrics"]["weighted_f1"]["value"] == pytest.approx(figure["value"])
    assert "without each modality" in capsys.readouterr().out
    assert len((tmp_path / "run" / "test_uses.txt").read_text().splitlines()) == 1
