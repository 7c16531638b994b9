"""The demo dataset on disk: official-looking, whole, leak-free, and as its truth says."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
import torch

from hero_lightning.datasets.demo import generate as generator
from hero_lightning.datasets.demo.datamodule import DemoDataModule, read_demo
from hero_lightning.datasets.demo.generate import generate
from hero_lightning.datasets.demo.traits import EMOTIONS
from hero_lightning.datasets.demo.truth import CARRIERS
from hero_lightning.encoders.handcrafted import HashedWords
from hero_lightning.errors import DataError
from hero_lightning.features.modality import Modality
from hero_lightning.media.action_units import read_au_info, read_au_table
from hero_lightning.media.clip import ClipReader
from hero_lightning.tasks import ClassTask
from hero_lightning.types import Sample
from tests.datasets.small_datasets import words

CLIPS = 36


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets") / "demo"
    generate(folder, seed=3, clips=CLIPS, workers=1)
    return folder


@pytest.fixture(scope="module")
def samples(root: Path) -> list[Sample]:
    return read_demo(root)


def test_every_clip_is_there_and_plays(samples: list[Sample]) -> None:
    assert len({s.id for s in samples}) == CLIPS
    for s in samples:
        with ClipReader(s.video) as clip:
            info = clip.info
            assert info.has_video
            assert info.duration > 1.9
            frames, sound = clip.read({"frame": [0.0, 1.0]}, sound=info.has_audio)
        assert frames["frame"].pixels.shape == (2, 112, 112, 3)
        assert frames["frame"].pixels.float().std() > 5
        assert info.has_audio == ("audio" not in s.truth["missing"])
        if sound is not None:
            assert 0.005 < sound.x.abs().max() <= 1.0
            assert abs(len(sound.x) / 16_000 - info.duration) < 0.2


def test_missing_modalities_are_really_missing(samples: list[Sample]) -> None:
    for s in samples:
        missing = s.truth["missing"]
        assert ("au" in missing) == (not s.files)
        assert ("text" in missing) == (s.text is None)
        assert ("face" in missing) == ("face" not in s.boxes)
        assert not set(missing) & set(s.descriptions)
        if s.files:
            table, peaks = read_au_table(s.files["au"]), read_au_info(s.files["au_info"])
            assert peaks["total_frames"] == len(table.x) == ClipReader(s.video).info.num_frames
    assert any(s.truth["missing"] for s in samples)


def test_truth_and_labels_agree(samples: list[Sample]) -> None:
    for s in samples:
        emotion, truth = s.labels["emotion"], s.truth
        assert emotion in EMOTIONS
        assert -1 <= s.labels["valence"] <= 1
        shown = [c for c, shows in truth["shows"].items() if shows == emotion != "neutral"]
        assert shown == truth["informative"]
        assert bool(truth["informative"]) == (emotion != "neutral")
        assert truth["audio_says"] == truth["shows"]["audio"]
        assert truth["noise"].keys() == {s for carried in CARRIERS.values() for s in carried}
        assert set(truth["informative_modalities"]) == {
            modality for c in truth["informative"] for modality in CARRIERS[c] if modality not in truth["missing"]
        }


def test_splits_share_no_dialogue_and_no_speaker(samples: list[Sample]) -> None:
    homes = defaultdict(set)
    for s in samples:
        homes[s.dialogue].add(s.split)
        homes[s.speaker].add(s.split)
    assert all(len(splits) == 1 for splits in homes.values())
    assert {s.split for s in samples} == {"train", "val", "test"}


def test_descriptions_stay_out_of_what_is_seen(samples: list[Sample], root: Path) -> None:
    with (root / "labels.csv").open() as file:
        columns = csv.DictReader(file).fieldnames
    assert columns == [
        "id", "split", "speaker", "dialogue", "turn", "emotion", "valence", "text", "x0", "y0", "x1", "y1"
    ]  # fmt: skip
    for s in samples:
        assert {"caption", "rationale", "frame", "motion"} <= s.descriptions.keys()
        assert s.descriptions["rationale"].endswith(f"So the emotion is {s.labels['emotion']}.")
        assert not set(s.descriptions.values()) & {s.text}
        if s.truth["conflict"]:
            assert "another utterance" in s.descriptions["rationale"]


def test_it_is_made_once_and_never_replaced(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], generator._write
    monkeypatch.setattr(generator, "_write", lambda *a: made.append(a[1:3]) or real(*a))
    folder = tmp_path / "demo"
    generate(folder, 3, CLIPS, workers=1)
    for name in ("labels.csv", "truth.json", "descriptions.json"):
        assert (folder / name).read_text() == (root / name).read_text()  # the truth comes from the seed alone
    before = (folder / "clips").stat().st_mtime_ns
    generate(folder, 3, CLIPS)
    assert ((folder / "clips").stat().st_mtime_ns, made) == (before, [(3, CLIPS)])
    with pytest.raises(DataError, match=r"(?s)'seed': 4.*'seed': 3"):
        generate(folder, 4, 24, workers=1)
    assert ((folder / "clips").stat().st_mtime_ns, len(made)) == (before, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]  # nothing half made is left


def test_processes_make_the_same(root: Path, tmp_path: Path) -> None:
    generate(tmp_path / "demo", 3, CLIPS, workers=2)
    for one, two in zip(read_demo(root), read_demo(tmp_path / "demo"), strict=True):
        first, second = (ClipReader(s.video).read({"frame": [1.0]})[0]["frame"].pixels for s in (one, two))
        assert torch.equal(first, second)


def test_it_replaces_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="has other files"):
        generate(tmp_path, 0, 24, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def demo(root: Path, **options) -> DemoDataModule:
    modalities = {"text": Modality("text", "realtime", partial(HashedWords, dim=8))}
    tasks = {"emotion": ClassTask("emotion")}
    return DemoDataModule(root=root, modalities=modalities, tasks=tasks, features_root=root / "none", **options)


def test_the_module_serves_it(root: Path) -> None:
    datamodule = demo(root, clips=CLIPS, dataset_seed=3, batch_size=4)
    datamodule.setup()
    assert datamodule.index.classes == {"emotion": list(EMOTIONS)}
    spoken = [s for s in read_demo(root) if s.text]
    assert {s.id for rows in datamodule.index.samples.values() for s in rows} == {s.id for s in spoken}
    batch = next(iter(datamodule.train_dataloader()))
    assert len(batch) == 4
    assert batch.samples[0].truth
    later = next(s for s in datamodule.index.samples["train"] if s.turn == 3)
    assert 1 <= len(later.turns) <= 3


def test_every_seed_and_size_has_its_own_folder_and_stores(tmp_path: Path) -> None:
    """A job of another seed started while one runs: both keep their files and features."""
    given = {
        "root": tmp_path,
        "modalities": {"text": words()},
        "tasks": {"emotion": ClassTask("emotion")},
        "features_root": tmp_path,
    }
    usual, seed, size = (
        DemoDataModule(**given, **options) for options in ({}, {"dataset_seed": 1}, {"clips": 24, "dataset_seed": 1})
    )
    assert len({d.folder for d in (usual, seed, size)}) == len({d.name for d in (usual, seed, size)}) == 3
    assert usual.name == "demo"
