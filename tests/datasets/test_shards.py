"""webdataset shards: escaped ids, map-style reading by offset, media inside the tar, a foreign and a remote shard."""

from __future__ import annotations

import io
import json
import pickle
import tarfile

import pytest

from hero_lightning.convert import convert
from hero_lightning.datasets.export import check_folder
from hero_lightning.datasets.shards import (
    CLIPS,
    ShardFeatures,
    ShardsDataModule,
    fetch,
    key_of,
    read_index,
    write_shards,
)
from hero_lightning.encoders.handcrafted import FrameHog, HashedWords, LogMelProsody
from hero_lightning.errors import DataError
from hero_lightning.features.fingerprint import SourceFingerprint
from hero_lightning.features.modality import Modality
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.frame_samplers import Uniform
from hero_lightning.tasks import ClassTask
from hero_lightning.types import Media, Sample
from tests.datasets.small_datasets import EMOTIONS, dataset, folder, write_folder
from tests.helpers import in_process
from tests.media_helpers import write_clip


def modalities(mode="auto"):
    return {
        "frame": Modality("frame", mode, FrameHog, sampler=Uniform(2)),
        "audio": Modality("audio", mode, LogMelProsody),
        "text": Modality("text", mode, HashedWords),
    }


@pytest.fixture
def original(tmp_path):
    """Six clips: ids with dots and slashes, two of them parts of one shared file, one with a table."""
    clips = [write_clip(tmp_path / f"{k}.mp4", seconds=0.5 + k / 4) for k in range(4)]
    (tmp_path / "au.csv").write_text("frame,AU01_r\n1,2.0\n")
    rows = [
        Sample(f"Ses01F.impro/0{k} ü%", "train", video=Media(clips[min(k, 3)]), text=f"said {k}",
               labels={"emotion": EMOTIONS[k % 3]})
        for k in range(6)
    ]  # fmt: skip
    rows[4].video, rows[5].video = Media(clips[3], (0.0, 0.5)), Media(clips[3], (0.5, 1.0))
    rows[1].files["au"] = tmp_path / "au.csv"
    rows[2].split, rows[3].split = "val", "test"
    datamodule = dataset(rows, tmp_path, modalities=modalities())
    datamodule.prepare_data()
    return datamodule


def shards(root, own=None):
    own = own or {n: Modality(n, "preextracted", source=ShardFeatures(root, k)) for n, k in KEYS.items()}
    return ShardsDataModule(
        root=root, features_root=root / "stores", modalities=own, tasks={"emotion": ClassTask("emotion")}
    )


KEYS = {"frame": "clip", "audio": "hubert", "text": "bert"}


def by_id(datamodule):
    return {s.id: s for s in datamodule.gathered}


def test_there_and_back(original, tmp_path):
    assert write_shards(original, tmp_path / "out") == {"frame": 6, "audio": 6, "text": 6}
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tar")) == [
        "test-000000.tar", "train-000000.tar", "val-000000.tar",
    ]  # fmt: skip
    datamodule = shards(tmp_path / "out")
    mine = by_id(datamodule)
    assert mine.keys() == by_id(original).keys()
    for s in original.gathered:
        for field in ("split", "text", "labels", "boxes", "speaker"):
            assert getattr(mine[s.id], field) == getattr(s, field)
        for name, modality in original.modalities.items():
            x, y = modality.stored(s), pickle.loads(pickle.dumps(datamodule.modalities[name])).stored(mine[s.id])
            assert x.x.equal(y.x)
            assert x.measures == y.measures
            assert (x.time is None) == (y.time is None)
    assert mine["Ses01F.impro/01 ü%"].files["au"].read_bytes() == (tmp_path / "au.csv").read_bytes()
    shared = mine["Ses01F.impro/04 ü%"]  # of a file that several clips share, the path is kept
    assert shared.video == original.gathered[4].video
    assert len(next(iter(datamodule.loader("train", shuffle=True)))) == 4


def test_media_inside_a_shard(original, tmp_path):
    write_shards(original, tmp_path / "out")
    datamodule = shards(tmp_path / "out", modalities("realtime"))
    for s in original.gathered[:2]:
        inside = by_id(datamodule)[s.id].video
        assert inside.path.suffix == ".tar"
        with ClipReader(s.video) as a, ClipReader(inside) as b:
            assert a.info == b.info
            (x, sound), (y, again) = (c.read({"frame": [0.0, 0.3]}, sound=True) for c in (a, b))
        assert x["frame"].pixels.equal(y["frame"].pixels)
        assert sound.x.equal(again.x)
    assert {r.mode for row in datamodule.index.availability.values() for r in row.values()} == {"realtime"}
    two = [by_id(datamodule)[s.id] for s in original.gathered[:2]]
    assert SourceFingerprint("frame")(two[0]) != SourceFingerprint("frame")(two[1])  # one tar, two clips


def test_equal_bytes_and_an_index_that_follows(original, tmp_path):
    for name in ("a", "b"):
        write_shards(original, tmp_path / name)
    for path in (tmp_path / "a").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert len(read_index(tmp_path / "a")) == 6
    read_index.cache_clear()
    (tmp_path / "a" / "test-000000.tar").unlink()
    assert len(read_index(tmp_path / "a")) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda index: "[" * 100_000,
        lambda index: "{}",
        lambda index: json.dumps(index | {"samples": [1]}),
        lambda index: json.dumps(index).replace('"shard": "train', '"shard": "../train'),
        lambda index: json.dumps(index).replace('"record": {', '"record": 3, "x": {', 1),
    ],
)
def test_a_damaged_index_is_made_again(original, tmp_path, change):
    write_shards(original, tmp_path / "a")
    whole = read_index(tmp_path / "a")
    path = tmp_path / "a" / "index.json"
    path.write_text(change(json.loads(path.read_text())))
    read_index.cache_clear()
    assert read_index(tmp_path / "a") == whole


@pytest.mark.parametrize("record", [b"[1]", b"[" * 100_000])
def test_a_record_of_another_shape_is_named(tmp_path, record):
    foreign(tmp_path / "t.tar", a__json=record)
    with pytest.raises(DataError, match=r"t\.tar"):
        read_index(tmp_path)


def test_webdataset_reads_them(original, tmp_path):
    import webdataset

    write_shards(original, tmp_path / "out")
    pipe = webdataset.WebDataset(str(tmp_path / "out" / "train-000000.tar"), shardshuffle=False, empty_check=False)
    rows = list(pipe)
    assert [r["__key__"] for r in rows] == [key_of(s.id) for s in original.gathered if s.split == "train"]
    assert json.loads(rows[1]["json"])["video_id"] == "Ses01F.impro/01 ü%"
    assert {"json", "npy", "mp4", "au.csv"} <= set(rows[1])


def foreign(path, **members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_a_foreign_shard(tmp_path):
    clip = write_clip(tmp_path / "x.mp4", seconds=0.5).read_bytes()
    foreign(tmp_path / "t.tar", a__json=b'{"emotion": "sad", "split": "val"}', a__video__mp4=clip, b__mp4=clip)
    a, b = ShardsDataModule(
        root=tmp_path,
        features_root=tmp_path,
        modalities=modalities("realtime"),
        tasks={"emotion": ClassTask("emotion")},
    ).samples()
    assert (a.id, a.split, a.labels, b.id, b.labels) == ("a", "val", {"emotion": "sad"}, "b", {})
    assert a.video.part != b.video.part
    assert ClipReader(a.video).info.has_video


def test_refusals(tmp_path):
    with pytest.raises(DataError, match="no shard"):
        read_index(tmp_path)
    foreign(tmp_path / "a.tar", x__json=b"{}")
    foreign(tmp_path / "b.tar", x__json=b"{}")
    with pytest.raises(DataError, match="occurs twice"):
        read_index(tmp_path)
    foreign(tmp_path / "b.tar", y__json=b"{}", z__mp4=bytes(9000))
    (tmp_path / "b.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:5000])
    with pytest.raises(DataError, match="cannot be read"):
        read_index(tmp_path)
    foreign(tmp_path / "b.tar", y__json=b"{")
    with pytest.raises(DataError, match="cannot be read"):
        read_index(tmp_path)


def test_a_clip_without_features_is_absent(tmp_path):
    foreign(tmp_path / "a.tar", x__json=b"{}", y__npy=b"torn")
    source = ShardFeatures(tmp_path, "clip")
    assert source.status(Sample("x", "train")).reason == "no feature file"
    assert source.status(Sample("unknown", "train")).mode == "absent"
    assert source.status(Sample("y", "train")).mode == "broken"


def test_remote_shards_are_fetched_once(original, tmp_path, monkeypatch):
    write_shards(original, tmp_path / "far")
    (tmp_path / "near").mkdir()
    fetch(f"file:{tmp_path}/far/{{train,val}}-000000.tar", tmp_path / "near")
    fetch(f"pipe:cat {tmp_path}/far/test-000000.tar", tmp_path / "near")
    assert shards(tmp_path / "near").build_index().dims == original.dims
    (tmp_path / "far").rename(tmp_path / "gone")
    fetch(f"file:{tmp_path}/far/train-000000.tar", tmp_path / "near")  # is there already


def test_many_clips_make_many_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("hero_lightning.datasets.shards.CLIPS", 5)
    assert CLIPS > 5
    datamodule = folder(write_folder(tmp_path / "in", 24))
    write_shards(datamodule, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("train-*.tar"))) == -(-len(datamodule.index.samples["train"]) // 5)
    assert len(read_index(tmp_path / "out")) == 24


def test_shards_by_command_and_back_to_a_folder(tmp_path):
    source = write_folder(tmp_path / "in", 12)
    own = [f"paths.features={tmp_path}/f"]
    first = ["dataset=folder", f"dataset.root={source}", f"out={tmp_path}/tars", "form=shards", *own]
    assert convert(in_process("convert", tmp_path / "run", *first)) == 0
    second = ["dataset=shards", f"dataset.root={tmp_path}/tars", f"out={tmp_path}/back", *own]
    assert convert(in_process("convert", tmp_path / "run", *second)) == 0
    assert check_folder(tmp_path / "back") == []
    a, b = (folder(root) for root in (tmp_path / "in", tmp_path / "back"))
    assert by_id(a) == by_id(b)
    for s in a.gathered:
        for name, modality in a.modalities.items():
            assert modality.stored(s).x.equal(b.modalities[name].stored(s).x)
