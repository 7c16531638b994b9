"""Names and values that all loggers get; tests/test_dashboards.py compares the loggers of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from hero_lightning.config import build
from hero_lightning.errors import ConfigError
from hero_lightning.reporting import loggers


def test_results_have_one_flat_name_each() -> None:
    metric = {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.2, "majority": None}
    versus = {"value": 0.3, "difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.01}
    reports = {
        "emotion and valence": {"metrics": {"combined": metric}, "baselines": {"probe text": {"combined": versus}}}
    }
    found = loggers.results("test", reports, {"a/b": {"audio": 0.7}, "高兴": {"audio": 0.3}})
    place = "test/emotion_and_valence"
    assert found == {
        f"{place}/combined": 0.5, f"{place}/combined_low": 0.4, f"{place}/combined_high": 0.6,
        f"{place}/combined_chance": 0.2, f"{place}/baselines/probe_text/combined": 0.3,
        f"{place}/baselines/probe_text/combined_difference": 0.2, f"{place}/baselines/probe_text/combined_p": 0.01,
        "test/gates/a_b/audio": 0.7, "test/gates/_u9ad8_u5174/audio": 0.3,
    }  # fmt: skip


def test_gate_means_by_hand() -> None:
    gate = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    groups = {"happy": torch.tensor([True, True, False]), "none": torch.zeros(3, dtype=torch.bool)}
    assert loggers.gate_means(gate, ["audio", "text"], groups) == {
        "happy": {"audio": 0.75, "text": 0.25}, "all": {"audio": 0.5, "text": 0.5},
    }  # fmt: skip
    assert loggers.gate_means(torch.empty(3, 0), [], groups) == {}


def test_run_name_is_the_path_below_all_runs(tmp_path: Path) -> None:
    assert loggers.run_name(str(tmp_path / "runs" / "demo" / "1"), str(tmp_path / "runs")) == "demo/1"
    assert loggers.run_name("mine", str(tmp_path / "runs")) == "mine"


def test_a_logger_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    node = {
        "_target_": "hero_lightning.reporting.loggers.mlflow_logger", "experiment": "e", "folder": str(tmp_path / "a"),
        "runs": str(tmp_path), "group": None, "job_type": "train", "choices": {},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="package is not installed") as error:
        build.loggers(OmegaConf.create({"logger": {"mlflow": node}}))
    assert "pip install 'hero-lightning[mlflow]'" in str(error.value)
