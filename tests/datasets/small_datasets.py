"""A dataset given as a list, and a feature folder, for the tests of this room."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.folder import FolderDataModule
from hero_lightning.encoders.handcrafted import HashedWords
from hero_lightning.features.foreign.hero_npy import NpyDict, write_npydict
from hero_lightning.features.modality import Modality
from hero_lightning.tasks import ClassTask
from hero_lightning.types import Sample
from tests.helpers import make_modality

EMOTIONS = ("happy", "neutral", "sad")
WIDTHS = {"hubert": 6, "clip": 5}


@dataclass(kw_only=True, eq=False, repr=False)
class ListDataset(EmotionDataModule):
    """Serves the samples it is given."""

    given: list[Sample] = field(default_factory=list)
    name = "list"

    def samples(self):
        return list(self.given)


def words(mode="realtime", **options):
    return make_modality("text", mode, partial(HashedWords, dim=8), **options)


def dataset(given, tmp_path=Path("none"), **options):
    options = {"modalities": {"text": words()}, "tasks": {"emotion": ClassTask("emotion")}, "batch_size": 4} | options
    return ListDataset(given=given, root=tmp_path, features_root=tmp_path / "stores", **options)


def talk(n=12, split="train", prefix="s"):
    """n samples of one split with words of growing number and labels in turn."""
    return [
        Sample(f"{prefix}{k}", split, text=" ".join(["word"] * (k % 5 + 1)), labels={"emotion": EMOTIONS[k % 3]})
        for k in range(n)
    ]


def three_splits():
    return [*talk(12), *talk(5, "val", "v"), *talk(4, "test", "t")]


def features(seed=0, **changes):
    """One clip's dict in HERO's layout."""
    rng = np.random.default_rng(seed)
    arrays = {key: rng.normal(size=(3 + seed % 4, width)).astype(np.float32) for key, width in WIDTHS.items()}
    return {k: v for k, v in {**arrays, "transcript": f"words of {seed}", **changes}.items() if v is not None}


def write_folder(root, n=12, records=None, **files):
    """A feature folder of n clips; `records` changes labels.json, `files` its neighbours."""
    records = records or [{"video_id": f"c{k}", "emotion": EMOTIONS[k % 3], "text": f"said {k}"} for k in range(n)]
    for k, record in enumerate(records):
        write_npydict(root / "features" / f"{record['video_id']}.npy", features(k))
    (root / "labels.json").write_text(json.dumps(records))
    for name, content in files.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


def folder(root, **options):
    source = root / "features"
    modalities = {
        "frame": Modality("frame", "preextracted", source=NpyDict(source, "clip")),
        "audio": Modality("audio", "preextracted", source=NpyDict(source, "hubert")),
    }
    options = {"modalities": modalities, "tasks": {"emotion": ClassTask("emotion")}, "batch_size": 4} | options
    return FolderDataModule(root=root, features_root=root / "stores", **options)


def by_id(datamodule):
    """The samples of all splits by id."""
    return {s.id: s for rows in datamodule.index.samples.values() for s in rows}


def sizes(datamodule):
    """The number of samples by split."""
    return {split: len(rows) for split, rows in datamodule.index.samples.items()}
