"""RAVDESS: what a file name says, actor folds, files of one performance; the real sounds and tables."""

from __future__ import annotations

import json
import os
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hero_lightning.datasets.ravdess import EMOTIONS, FOLDS, RavdessDataModule
from hero_lightning.encoders.handcrafted import LogMelProsody
from hero_lightning.errors import DataError
from hero_lightning.features.foreign.tables import NpzTable
from hero_lightning.features.modality import Modality
from hero_lightning.tasks import ClassTask
from tests.datasets.official_trees import datamodule_options, write
from tests.datasets.small_datasets import by_id


def ravdess(root, **more):
    return RavdessDataModule(**datamodule_options(root, ClassTask("emotion"), **more))


def touch(root, *names):
    for name in names:
        write(root / f"Actor_{name[18:20]}" / name, "")


def test_names(tmp_path):
    actors = [f"{a:02d}" for a in (1, 2, 3, 8, 10)]
    touch(tmp_path, *(f"03-01-0{e}-01-01-01-{a}.wav" for a in actors for e in (1, 3)))
    touch(tmp_path, "01-01-05-02-02-01-08.mp4", "03-01-05-02-02-01-08.wav", "02-01-05-02-02-01-08.mp4")
    touch(tmp_path, "02-01-05-01-02-01-08.mp4", "03-02-05-01-01-01-08.wav", "._03-01-05-01-01-01-08.wav", "notes.txt")
    datamodule = ravdess(tmp_path, fold=3, val_fraction=0.3)
    found = by_id(datamodule)
    assert len(found) == 12, "song, macOS files and notes are no samples"
    s = found["03-01-05-02-02-01-08"]
    assert s.labels == {"emotion": "angry", "intensity": "strong"}
    assert (s.speaker, s.text, s.split) == ("Actor_08", "Dogs are sitting by the door.", "test")
    assert (s.video.path.name[:2], s.audio.path.name[:2]) == ("01", "03")
    assert found["03-01-05-01-02-01-08"].video.path.name[:2] == "02"
    assert found["03-01-01-01-01-01-01"].video is None
    parts = [{s.speaker for s in rows} for rows in datamodule.index.samples.values()]
    assert sum(map(len, parts)) == 5
    assert "by whole speakers" in datamodule.index.split_origin["val"]
    assert "ravdess test has 4 samples; the official count is 300" in datamodule.index.notes


def test_folds_hold_every_actor_once():
    assert sorted(a for fold in FOLDS for a in fold) == list(range(1, 25))


@pytest.mark.parametrize("fold", range(5))
def test_tables_without_clips(tmp_path, fold):
    datamodule = ravdess(tmp_path, fold=fold)
    assert datamodule.index.notes == []
    found = by_id(datamodule)
    assert len(found) == 1440
    assert {int(s.speaker[-2:]) for s in datamodule.index.samples["test"]} == set(FOLDS[fold])
    assert Counter(s.labels["emotion"] for s in found.values()) == {e: 96 if e == "neutral" else 192 for e in EMOTIONS}


def test_missing_root(tmp_path):
    with pytest.raises(DataError, match="ravdess folder is missing"):
        ravdess(tmp_path / "none").build_index()


@pytest.mark.real
@pytest.mark.skipif("HERO_REAL" not in os.environ, reason="HERO_REAL names no folder of real datasets")
def test_the_real_dataset():
    root = Path(os.environ["HERO_REAL"]) / "data" / "ravdess"
    meta = json.loads((root / "meta.json").read_text())
    assert tuple(map(tuple, meta["folds_actors"])) == FOLDS
    assert tuple(meta["classes"]) == EMOTIONS
    table = np.load(root / "au_mfcc.npz")
    source = partial(NpzTable, root / "au_mfcc.npz", rename={"^03-": "01-"})
    modalities = {"au": Modality("au", "preextracted", source=source("au"))}
    modalities["audio"] = Modality("audio", "realtime", partial(LogMelProsody))
    datamodule = ravdess(root, fold=2, modalities=modalities)
    found = by_id(datamodule)
    assert len(found) == 1440
    assert datamodule.index.notes == []
    assert datamodule.dims["au"] == 35
    codes = dict(zip(table["names"], table["emotion"], strict=True))
    assert all(EMOTIONS[codes["01" + i[2:]]] == s.labels["emotion"] for i, s in found.items())
    batch = next(iter(datamodule.loader("test")))
    row = list(table["names"]).index("01" + batch.ids[0][2:])
    assert torch.equal(batch.modalities["au"].stored.x[0, 0], torch.from_numpy(table["au"][row]))
    assert len(batch.modalities["audio"].input_rows) == len(batch)
