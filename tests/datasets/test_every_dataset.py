"""Every dataset as a small official tree: training, scoring, conversion, missing files, wrong settings."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from hero_lightning.config.build import dataset
from hero_lightning.config.cli import CONF
from hero_lightning.datasets.export import write_folder
from hero_lightning.datasets.folder import FolderDataModule
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.evaluate import evaluate
from hero_lightning.tasks import OpenTask
from tests.datasets.official_trees import (
    DATASETS,
    MMSA_COLUMNS,
    build,
    datamodule_options,
    iemocap_tree,
    mmsa_rows,
    mosei_labels,
    mosei_transcripts,
    write,
    write_csd,
    write_folds,
    write_table,
)
from tests.datasets.test_meld import write_csv
from tests.helpers import in_process, train_in_process
from tests.media_helpers import write_wav

VIDEOS = [f"v{k}" for k in range(8)]
MODES = dict(zip(VIDEOS, ("train",) * 4 + ("valid",) * 2 + ("test",) * 2, strict=True))


def meld(root):
    write_csv(root, "train", {d: range(4) for d in range(4)})
    write_csv(root, "dev", {0: range(4)})
    write_csv(root, "test", {0: range(4)})


def cmu_mosei(root):
    write_csd(root / "CMU_MOSEI_Labels.csd", "All Labels", mosei_labels(VIDEOS))
    write_folds(root / "cmu_mosei_std_folds.py", VIDEOS[:4], VIDEOS[4:6], VIDEOS[6:])
    mosei_transcripts(root, VIDEOS)


def mmsa(root):
    write_table(root / "label.csv", MMSA_COLUMNS, mmsa_rows(MODES))


def ravdess(root):
    for actor in (1, 2, 3, 5, 8, 14):
        for emotion in (1, 3, 5):
            path = root / f"Actor_{actor:02d}" / f"03-01-0{emotion}-01-01-01-{actor:02d}.wav"
            write_wav(write(path, ""), rate=16_000)


TREES = {
    "meld": (meld, "emotion", "weighted_f1", 4),
    "iemocap": (iemocap_tree, "emotion", "weighted_f1", 14),
    "cmu_mosei": (cmu_mosei, "sentiment_score", "mae", 8),
    "cmu_mosi": (mmsa, "sentiment_score", "mae", 8),
    "sims": (mmsa, "sentiment_score", "mae", 8),
    "simsv2": (mmsa, "sentiment_score", "mae", 8),
    "ravdess": (ravdess, "emotion", "weighted_f1", 9),
}
"""Datasets that train on their own files: tree, task, metric, test samples."""
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
"""Datasets that train on stored features: split, task, metric."""
LABEL_FILES = {
    "meld": ("train_sent_emo.csv or dev_sent_emo.csv", "paths.data=", "dataset.root="),
    "iemocap": ("Session1/dialog/EmoEvaluation", "label_6way.npz"),
    "cmu_mosei": ("label.csv", "label.npz", "unaligned_50.pkl", "CMU_MOSEI_Labels.csd"),
    "cmu_mosi": ("labels.csv",),
    "sims": ("label.csv",),
    "simsv2": ("meta(s).csv",),
    "mer2023": ("train-label.csv", "label-6way.npz"),
    "mer2024": ("train-label.csv",),
    "merr": ("MERR_fine_grained.json",),
    "ovmerd_plus": ("ovlabel.csv",),
    "mercaption_plus": ("track2_train_mercaptionplus.csv",),
    "vce": ("train_labels.json",),
    "v2v": ("listwise_labels.json",),
    "mind_wandering": ("labels.csv",),
}
WRONG = {
    "iemocap": ["protocol=5way", "fold=0", "fold=6"],
    "ravdess": ["fold=5"],
    "cmu_mosi": ["split=random"],
    "mer2023": ["language=french"],
    "merr": ["grain=middle"],
    "demo": ["clips=5", "dataset_seed=-1"],
}


SEEN = {"vce": "frame", "v2v": "frame"}
"""The modality of datasets without texts."""


def configured(name, *overrides):
    """The data module of conf/dataset."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        return dataset(compose("train", [f"dataset={name}", f"modalities=[{SEEN.get(name, 'text')}]", *overrides]))


def source(root):
    return f"modality.frame.source={{_target_: hero_lightning.features.NpyDict, root: {root}/features, key: clip}}"


def metric(folder, name):
    split, task, key = METRICS[name]
    return json.loads((folder / "metrics.json").read_text())["splits"][split][task]["metrics"][key]["value"]


COMMON = ("size=tiny", "probes=false", "trainer.max_epochs=1", "callbacks.record.resamples=100")


@pytest.mark.parametrize("name", TREES)
def test_trains_on_its_own_files(name, tmp_path):
    tree, task, key, tested = TREES[name]
    tree(tmp_path / name)
    train_in_process(
        tmp_path / "run", f"dataset={name}", f"paths.data={tmp_path}", f"paths.features={tmp_path / 'features'}",
        f"modalities=[{'audio' if name == 'ravdess' else 'text'}]", "encoder@modality.text.encoder=words",
        "dataset.batch_size=8", "trainer.log_every_n_steps=1", *COMMON,
    )  # fmt: skip
    found = (tmp_path / "run" / "metrics.json").read_text()
    assert task in found
    assert key in found
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [float(r["train/loss"]) > 0 for r in csv.DictReader(file) if r.get("train/loss")]
    counts = json.loads((tmp_path / "run" / "index.json").read_text())["counts"]
    assert counts["test"] == tested
    assert counts["train"] > 0
    assert counts["val"] > 0


@pytest.mark.parametrize("name", DATASETS)
def test_trains_on_stored_features(name, tmp_path):
    root, folder = tmp_path / "dataset", tmp_path / "run"
    build(name, root)
    train_in_process(
        folder, f"dataset={name}", f"dataset.root={root}", "modalities=[frame]", "mode@modality.frame=preextracted",
        source(root), "logger=none", "dataset.batch_size=4", *COMMON, *OPTIONS.get(name, []),
    )  # fmt: skip
    assert 0 <= metric(folder, name) <= 1
    assert set(json.loads((folder / "index.json").read_text())["counts"]) >= {"train", "val", METRICS[name][0]}
    if name == "mercaption_plus":  # its labels are those by which a dataset without a train part is scored
        build("ovmerd_plus", tmp_path / "other", part="test", tasks={"openset": OpenTask("openset", ["happy"])})
        own = ["dataset=ovmerd_plus", f"dataset.root={tmp_path / 'other'}", source(tmp_path / "other")]
        quiet = ["trainer=cpu", "trainer.enable_progress_bar=false", f"trust=[{root}]"]
        evaluate(in_process("evaluate", tmp_path / "scored", f"run={folder}", *own, *quiet))
        assert 0 <= metric(tmp_path / "scored", "ovmerd_plus") <= 1


@pytest.mark.parametrize("name", TREES)
def test_labels_convert_to_the_feature_layout_and_back(name, tmp_path):
    TREES[name][0](tmp_path / name)
    datamodule = configured(name, f"paths.data={tmp_path}")
    write_folder(datamodule, tmp_path / "out", features=False)
    again = FolderDataModule(**datamodule_options(tmp_path / "out", *datamodule.tasks.values()))
    assert again.gathered == datamodule.gathered
    assert any(s.turns for s in datamodule.gathered) == (name != "ravdess")


@pytest.mark.parametrize("name", DATASETS)
def test_features_convert_to_the_feature_layout(name, tmp_path):
    """`write_folder` reads every sample back and refuses one that is not equal."""
    datamodule = build(name, tmp_path / "dataset")
    datamodule.prepare_data()
    written = write_folder(datamodule, tmp_path / "out")
    assert written["frame"] == sum(len(rows) for rows in datamodule.index.samples.values())


@pytest.mark.parametrize("name", LABEL_FILES)
def test_missing_label_files_are_named(name, tmp_path):
    for root, problem in ((tmp_path / "none", f"{name} folder is missing"), (tmp_path, f"No label file of {name}")):
        with pytest.raises(DataError, match=problem) as caught:
            configured(name, f"dataset.root={root}").gathered  # noqa: B018
        for word in LABEL_FILES[name]:
            assert word in str(caught.value)
        (page,) = re.findall(r"docs/data/\w+\.md", str(caught.value))
        assert (Path(CONF).parent / page).is_file()


@pytest.mark.parametrize(("name", "setting"), [(name, s) for name, settings in WRONG.items() for s in settings])
def test_wrong_settings_name_their_key(name, setting):
    with pytest.raises(ConfigError) as caught:
        configured(name, f"dataset.{setting}")
    assert caught.value.details["where"] == f"dataset.{setting.partition('=')[0]}"
