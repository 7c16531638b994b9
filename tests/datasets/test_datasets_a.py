"""Every dataset of this half, as a synthesised official tree: the public command trains steps and scores."""

from __future__ import annotations

import csv
import json

import pytest
from hydra import compose, initialize_config_dir

from hero_lightning.config.build import dataset
from hero_lightning.config.cli import CONF
from hero_lightning.datasets.export import write_folder
from hero_lightning.datasets.folder import FolderDataModule
from tests.datasets.datasets_a import (
    MMSA_COLUMNS,
    iemocap_tree,
    mmsa_rows,
    mosei_labels,
    mosei_transcripts,
    options,
    stand_in_h5py,
    write,
    write_csd,
    write_folds,
    write_table,
)
from tests.datasets.test_meld import write_csv
from tests.helpers import train_in_process
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


@pytest.mark.parametrize("name", TREES)
def test_trains_and_scores(name, tmp_path, monkeypatch):
    stand_in_h5py(monkeypatch)
    build, task, figure, tested = TREES[name]
    build(tmp_path / name)
    modality = "audio" if name == "ravdess" else "text"
    train_in_process(
        tmp_path / "run", f"dataset={name}", f"paths.data={tmp_path}", f"paths.features={tmp_path / 'features'}",
        f"modalities=[{modality}]", "encoder@modality.text.encoder=words", "size=tiny", "probes=false",
        "dataset.batch_size=8", "trainer.max_epochs=1", "trainer.log_every_n_steps=1", "callbacks.record.resamples=100",
    )  # fmt: skip
    found = (tmp_path / "run" / "metrics.json").read_text()
    assert task in found
    assert figure in found
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [float(r["train/loss"]) > 0 for r in csv.DictReader(file) if r.get("train/loss")]
    index = json.loads((tmp_path / "run" / "index.json").read_text())
    assert index["counts"]["test"] == tested
    assert all(index["counts"][k] > 0 for k in ("train", "val"))


@pytest.mark.parametrize("name", TREES)
def test_converts_to_the_feature_layout_and_back(name, tmp_path, monkeypatch):
    stand_in_h5py(monkeypatch)
    TREES[name][0](tmp_path / name)
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", [f"dataset={name}", f"paths.data={tmp_path}", "modalities=[text]"])
    given = dataset(cfg)
    write_folder(given, tmp_path / "out", features=False)
    again = FolderDataModule(**options(tmp_path / "out", *given.tasks.values()))
    assert again.gathered == given.gathered
    assert any(s.turns for s in given.gathered) == (name != "ravdess")
