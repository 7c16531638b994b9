"""Every dataset of `datasets_b` trains and scores from its own config: official tree + stored features -> run folder."""

from __future__ import annotations

import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from hero_lightning.config.cli import CONF
from hero_lightning.datasets.export import write_folder
from hero_lightning.evaluate import evaluate
from hero_lightning.tasks import OpenTask
from tests.datasets.datasets_b import DATASETS, build
from tests.helpers import train_in_process

OPTIONS = {
    "ovmerd_plus": ["dataset.part=train", "dataset.test_fraction=0.2", "dataset.tasks.openset.min_count=1"],
    "mercaption_plus": ["dataset.test_fraction=0.2"],
    "v2v": ["dataset.val_fraction=0.25"],
}
METRICS = {
    "mer2023": ("test2", "emotion", "weighted_f1"),
    "mer2024": ("test1", "emotion", "weighted_f1"),
    "merr": ("test", "emotion", "weighted_f1"),
    "ovmerd_plus": ("test", "openset", "set_f1"),
    "mercaption_plus": ("test", "openset", "set_f1"),
    "vce": ("test", "emotions", "acc_true1_in_pred3"),
    "v2v": ("test_listwise", "preference", "pair_accuracy"),
    "mind_wandering": ("test", "state", "weighted_f1"),
}


def source(root):
    return f"modality.frame.source={{_target_: hero_lightning.features.NpyDict, root: {root}/features, key: clip}}"


def evaluate_in_process(folder, *overrides):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("evaluate", [*overrides, f"hydra.runtime.output_dir={folder}"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    folder.mkdir()
    with open_dict(cfg):
        del cfg["hydra"]
    evaluate(cfg)


def figure(folder, name):
    """Its figure in a run folder's metrics.json."""
    split, task, key = METRICS[name]
    return json.loads((folder / "metrics.json").read_text())["splits"][split][task]["metrics"][key]["value"]


@pytest.mark.parametrize("name", DATASETS)
def test_trains_and_scores(name, tmp_path):
    root, folder = tmp_path / "dataset", tmp_path / "run"
    build(name, root)
    train_in_process(
        folder, f"dataset={name}", f"dataset.root={root}", "modalities=[frame]", "size=tiny", "probes=false",
        "mode@modality.frame=preextracted", source(root), "trainer.max_epochs=1", "logger=none",
        "callbacks.record.resamples=100", "dataset.batch_size=4", *OPTIONS.get(name, []),
    )  # fmt: skip
    assert 0 <= figure(folder, name) <= 1
    assert set(json.loads((folder / "index.json").read_text())["counts"]) >= {"train", "val", METRICS[name][0]}
    if name == "mercaption_plus":  # its words are those by which a dataset without a train part is scored
        build("ovmerd_plus", tmp_path / "other", part="test", tasks={"openset": OpenTask("openset", ["happy"])})
        evaluate_in_process(
            tmp_path / "scored", f"run={folder}", "dataset=ovmerd_plus", f"dataset.root={tmp_path / 'other'}",
            source(tmp_path / "other"), "trainer=cpu", "trainer.enable_progress_bar=false",
        )  # fmt: skip
        assert 0 <= figure(tmp_path / "scored", "ovmerd_plus") <= 1


@pytest.mark.parametrize("name", DATASETS)
def test_converts_to_the_feature_layout_and_back(name, tmp_path):
    """`write_folder` reads every sample back and refuses one that is not equal."""
    data = build(name, tmp_path / "dataset")
    data.prepare_data()
    assert write_folder(data, tmp_path / "out")["frame"] == sum(len(rows) for rows in data.index.samples.values())
