"""Datasets to the feature-only layout and back: equal Samples, equal features; and the check of a broken folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hero_lightning.convert import convert
from hero_lightning.datasets.demo.datamodule import DemoDataModule
from hero_lightning.datasets.export import check_folder, write_folder
from hero_lightning.datasets.folder import FolderDataModule, read_record, to_record
from hero_lightning.encoders.handcrafted import AuValues, FrameHog, HashedWords, LogMelProsody
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.foreign.hero_npy import HERO_KEYS, NpyDict, write_npydict
from hero_lightning.features.modality import Modality
from hero_lightning.media.frame_samplers import Uniform
from hero_lightning.tasks import ClassTask, ScoreTask
from hero_lightning.types import Media, Sample, Turn
from tests.datasets.small_datasets import dataset, features, folder, words
from tests.datasets.small_datasets import write_folder as made_folder
from tests.datasets.test_meld import meld, write_csv
from tests.helpers import in_process, make_modality

FULL = Sample(
    "Ses01F.impro/01 F000",
    "test1",
    video=Media(Path("/m/a.avi"), (1.5, 2.25), (0.0, 0.0, 0.5, 1.0)),
    audio=Media(Path("/m/a.wav"), part=(512, 1000)),
    files={"au": Path("/m/a.csv"), "au_info": Path("/m/a.json")},
    boxes={"face": (0.1, 0.2, 0.3, 0.4)},
    text="don’t",
    speaker="F",
    dialogue="Ses01F",
    turn=3,
    labels={"emotion": "sad", "valence": -0.25, "votes": {"sad": 2, "fear": 1}, "open": ["sad", "tired"]},
    descriptions={"caption": "c", "rationale": "r", "audio": "a low voice", "face": "a frown"},
    truth={"informative": ["audio"]},
)


@pytest.mark.parametrize(
    "sample",
    [
        FULL,
        Sample("a", "train"),
        replace(FULL, dialogue=None, turns=(Turn(None, "before"), Turn("M", "then"))),
        replace(FULL, video=Media(Path("/m/pictures"), rate=10.0, bgr=True), labels={"sentiment": "positive"}),
    ],
)
def test_a_record_carries_all_of_a_sample(sample):
    assert read_record(json.loads(json.dumps(to_record(sample))), "here") == sample


@pytest.mark.parametrize(
    "bad",
    [{"video": {"span": [0, 1]}}, {"video": {"path": "a", "span": [0]}}, {"boxes": {"face": [0, 1]}}, {"files": ["a"]},
     {"turns": ["hello"]}, {"labels": ["sad"]}, {"video": {"path": "a", "length": 3}}],
)  # fmt: skip
def test_a_bad_record_is_named(bad):
    with pytest.raises(DataError, match=r"another form[\s\S]*record 7"):
        read_record({"video_id": "a", **bad}, "record 7")


def test_relative_media_start_at_the_folder(tmp_path):
    s = read_record({"video_id": "a", "video": "clips/a.mp4"}, "here", root=tmp_path)
    assert s.video == Media(tmp_path / "clips" / "a.mp4")


def back(out, modalities, tasks):
    """The converted folder as a dataset, with the modalities of the original."""
    own = {n: Modality(n, "preextracted", source=NpyDict(out / "features", HERO_KEYS.get(n, n))) for n in modalities}
    return FolderDataModule(root=out, features_root=out / "stores", modalities=own, tasks=tasks)


def assert_equal(original, converted):
    """Equal Samples, equal features of every modality, clock and measures included."""
    assert [s.id for s in converted.gathered] == [s.id for s in original.gathered]
    for a, b in zip(original.gathered, converted.gathered, strict=True):
        for field in Sample.__slots__:
            if field != "files":
                assert getattr(a, field) == getattr(b, field), (a.id, field)
        assert {k: v for k, v in a.files.items() if k != "features"} == b.files
    rows = 0
    for s in original.gathered:
        for name, found in original.index.availability.get(s.id, {}).items():
            again = converted.index.availability[s.id][name]
            assert again.mode == found.mode, (s.id, name)
            if found.mode == "preextracted":
                x, y = original.modalities[name].stored(s), converted.modalities[name].stored(s)
                assert x.x.equal(y.x)
                assert x.measures == y.measures
                assert (x.time is None) == (y.time is None)
                assert x.time is None or x.time.equal(y.time)
                rows += 1
    assert rows


def test_demo_and_back(tmp_path):
    modalities = {
        "frame": Modality("frame", "auto", FrameHog, sampler=Uniform(2)),
        "face": Modality("face", "auto", FrameHog, sampler=Uniform(2)),
        "audio": Modality("audio", "auto", LogMelProsody),
        "au": Modality("au", "auto", AuValues),
        "text": make_modality("text", "auto", HashedWords, context_turns=1),
    }
    tasks = {"emotion": ClassTask("emotion"), "valence": ScoreTask("valence", -1, 1)}
    options = {"features_root": tmp_path / "stores", "modalities": modalities, "tasks": tasks}
    datamodule = DemoDataModule(root=tmp_path / "demo", clips=24, **options)
    datamodule.prepare_data()
    written = write_folder(datamodule, tmp_path / "out")
    assert set(written) == set(modalities)
    assert written["frame"] == 24
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == list(tasks["emotion"].classes)
    fresh = {"emotion": ClassTask("emotion"), "valence": ScoreTask("valence", -1, 1)}
    again = back(tmp_path / "out", modalities, fresh)
    assert_equal(datamodule, again)
    assert again.index.classes == datamodule.index.classes
    assert again.index.split_origin["val"] == "given by the dataset"
    assert check_folder(tmp_path / "out") == []
    batch = next(iter(again.loader("train", shuffle=True)))
    assert len(batch) == len(batch.labels["valence"].mask)


def test_meld_and_back(tmp_path):
    write_csv(tmp_path, "train", {d: range(3) for d in range(20)})
    write_csv(tmp_path, "dev", {0: [0, 2, 5], 1: [0]})
    datamodule = meld(tmp_path, modalities={"text": words("auto")}, test_from="dev")
    datamodule.prepare_data()
    write_folder(datamodule, tmp_path / "out")
    tasks = {"emotion": ClassTask("emotion"), "sentiment": ClassTask("sentiment")}
    again = back(tmp_path / "out", ["text"], tasks)
    assert_equal(datamodule, again)
    assert again.index.samples.keys() == {"train", "val", "test"}
    assert again.gathered[1].turns == datamodule.gathered[1].turns != ()
    assert check_folder(tmp_path / "out") == []


def test_folder_and_back(tmp_path):
    made_folder(tmp_path / "in", 12)
    datamodule = folder(tmp_path / "in")
    write_folder(datamodule, tmp_path / "out")
    assert_equal(datamodule, folder(tmp_path / "out"))


def test_what_cannot_be_written(tmp_path, caplog):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    datamodule = dataset([Sample("a", "train", text="hi", labels={"emotion": e}) for e in "x"], tmp_path)
    with pytest.raises(DataError, match="not empty"):
        write_folder(datamodule, tmp_path / "full")
    rows = [Sample(id, "train", text="hi", labels={"emotion": id[-1]}) for id in ("../a", "b", "c", "d")]
    write_folder(dataset(rows, tmp_path), tmp_path / "out")
    assert "modality text is not stored" in caplog.text
    rows = [Sample(id, "Train", text="hi", labels={"emotion": id}) for id in "abcd"]
    with pytest.raises(DataError, match=r"does not read back[\s\S]*a, split"):
        write_folder(
            dataset([*rows, *(replace(r, id=f"t{r.id}", split="train") for r in rows)], tmp_path), tmp_path / "o"
        )


def test_pairs_are_not_lost_silently(tmp_path, caplog):
    datamodule = dataset(
        [Sample(f"s{k}", "train", text="hi", labels={"emotion": "ab"[k % 2]}) for k in range(9)], tmp_path
    )
    datamodule.items = lambda split: [(0, 1)]
    write_folder(datamodule, tmp_path / "out")
    assert "pairs and lists do not exist" in caplog.text


def test_check_lists_every_fault(tmp_path):
    made_folder(tmp_path, 12, classes=["happy", "neutral", "sad"])
    records = json.loads((tmp_path / "labels.json").read_text())
    records += [
        {"video_id": "c3", "emotion": "sad"},
        {"emotion": "sad"},
        {"video_id": "bad", "emotion": "joyful"},
        {"video_id": "gone", "emotion": None, "video": "gone.mp4"},
        {"video_id": "form", "emotion": None, "boxes": {"face": [1]}},
        "text",
    ]
    (tmp_path / "labels.json").write_text(json.dumps(records))
    (tmp_path / "splits.json").write_text(
        json.dumps({"train": [f"c{k}" for k in range(12)], "val": ["c1", "stranger"]})
    )
    clip = tmp_path / "features"
    write_npydict(clip / "bad.npy", features(1, clip=np.full((2, 5), np.nan, "float32")))
    write_npydict(clip / "orphan.npy", features(2))
    write_npydict(clip / "c5.npy", features(3, hubert=np.ones((2, 9), "float32")))
    (clip / "c6.npy").write_bytes(b"torn")
    found = {(f.id, f.problem.split(" (")[0].rstrip(".")) for f in check_folder(tmp_path)}
    assert found == {
        ("c3", "the id occurs twice"),
        ("record 14", "A record lacks 'video_id'"),
        ("bad", "emotion 'joyful' is not in classes.json"),
        ("form", "A record has a value of another form"),
        ("record 18", "A record is not an object"),
        ("c1", "splits.json lists it twice"),
        ("stranger", "splits.json lists it, but it has no record"),
        ("bad", "splits.json does not list it"),
        ("gone", "splits.json does not list it"),
        ("gone", "there is no feature file"),
        ("gone", f"file missing: {tmp_path / 'gone.mp4'}"),
        ("bad", "Feature clip holds NaN or Inf"),
        ("c6", "The feature file cannot be read"),
        ("orphan", "the feature file has no record"),
        ("c5", "hubert has width 9, the others 6"),
    }
    assert all(f.hint for f in check_folder(tmp_path))


def test_check_of_broken_lists(tmp_path):
    assert check_folder(tmp_path)[0].problem == "the label file is missing"
    (tmp_path / "labels.json").write_text("{}")
    assert "another form" in check_folder(tmp_path)[0].problem
    made_folder(tmp_path, 3, classes={"sad": 0}, splits=["c1"])
    assert [f.id for f in check_folder(tmp_path)] == ["classes.json", "splits.json"]
    (tmp_path / "classes.json").write_text("[")
    assert "not valid JSON" in check_folder(tmp_path)[0].problem


def table(root, columns, cells):
    rows = [",".join([f"s{k}", "ab"[k % 2], str(k), *cells]) for k in range(5)]
    (root / "labels.csv").write_text("\n".join([columns, *rows]) + "\n")


def test_labels_alone(tmp_path):
    """MER2024's labels.csv beside features that are there already."""
    table(tmp_path, "name,discrete,valence", [])
    for k in range(5):
        write_npydict(tmp_path / "features" / f"s{k}.npy", features(k))
    own = ["dataset=table", f"dataset.root={tmp_path}", f"out={tmp_path}", "features=false"]
    assert convert(in_process("convert", tmp_path / "run", *own)) == 0
    records = json.loads((tmp_path / "labels.json").read_text())
    assert {(r["video_id"], r["emotion"], r["labels"]["valence"]) for r in records} == {
        (f"s{k}", "ab"[k % 2], float(k)) for k in range(5)
    }
    assert json.loads((tmp_path / "classes.json").read_text()) == ["a", "b"]
    assert check_folder(tmp_path) == []
    with pytest.raises(DataError, match="not empty"):
        convert(in_process("convert", tmp_path / "run", *own))


def test_the_command(tmp_path, caplog):
    caplog.set_level("INFO")
    table(tmp_path, "name,discrete,valence,text", ["word"])
    own = ["dataset=table", f"dataset.root={tmp_path}", f"out={tmp_path}/out", "modalities=[text]"]
    assert convert(in_process("convert", tmp_path / "run", *own, f"paths.features={tmp_path}/f")) == 0
    assert f"5 samples of {tmp_path.name}" in caplog.text
    (tmp_path / "out" / "features" / "s1.npy").unlink()
    assert convert(in_process("convert", tmp_path / "run", f"check={tmp_path}/out")) == 1
    assert "s1: there is no feature file" in caplog.text
    assert "s1,there is no feature file" in (tmp_path / "run" / "faults.csv").read_text()
    for bad in ([], ["out=x", "check=x"], ["out=x", "form=zip"]):
        with pytest.raises(ConfigError, match=r"Either out or check|Unknown form"):
            convert(in_process("convert", tmp_path / "run", *bad))
