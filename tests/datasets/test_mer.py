"""MER2023 and MER2024: parts, valence that is not there, both forms of labels, clips of any ending, the pool."""

from __future__ import annotations

import pytest

from hero_lightning.errors import DataError
from tests.datasets.official_trees import SIX, bare, build, mer2023, mer_normal, write_table
from tests.datasets.small_datasets import by_id, sizes


def test_parts_labels_words_and_files(tmp_path):
    datamodule = build("mer2023", tmp_path / "c")
    index = datamodule.index
    assert sizes(datamodule) == {"train": 11, "val": 1, "test1": 4, "test2": 4, "test3": 4}
    assert datamodule.test_splits == ["test1", "test2", "test3"]
    assert index.classes["emotion"] == list(SIX)
    clips = by_id(datamodule)
    first, second = clips["sample_00000001"], clips["sample_00000002"]
    assert (first.text, first.labels) == ("Hello...", {"emotion": "neutral", "valence": -2.5})
    assert first.files["au"].name == "sample_00000001.csv"
    assert second.text is None
    assert second.labels == {"emotion": "angry"}, "-10 says that valence was not rated"
    assert clips["samplenew_00000000"].labels == {"emotion": "neutral"}
    assert {clips[i].video.path.parts[-2:] for i in ("sample_00000001", "sample_00000013", "sample_00000017")} == {
        ("train", "sample_00000001.avi"), ("test1", "sample_00000013.avi"), ("test2", "sample_00000017.mp4"),
    }  # fmt: skip
    assert "mer2023 train has 12 samples; the official count is 3373" in index.notes
    assert "mer2023 test3 has 4 samples; the official count is 834" in index.notes
    assert build("mer2023", tmp_path / "c", language="chinese").index.samples["train"][0].text == "你好"


def test_valence_of_unrated_clips_is_masked(tmp_path):
    batch = next(iter(build("mer2023", tmp_path / "c", batch_size=20).loader("test1")))
    assert batch.labels["valence"].mask.tolist() == [True, False, True, True]
    assert batch.labels["emotion"].mask.all()


def test_the_pool(tmp_path):
    datamodule = build("mer2023", tmp_path / "c", unlabelled=True)
    pool = datamodule.index.samples["unlabelled"]
    assert [s.id for s in pool] == ["samplenew_00000098", "samplenew_00000099"]
    assert pool[1].text == "Hm."
    assert all(s.labels == {} and s.video.path.is_file() for s in pool)
    assert datamodule.test_splits == ["test1", "test2", "test3"]
    batch = next(iter(datamodule.loader("unlabelled")))
    assert not batch.labels["emotion"].mask.any()
    labels_only = mer2023(tmp_path / "d")
    for folder in ("train", "test1", "test2", "test3"):
        (labels_only / folder).rename(labels_only / f"no_{folder}")
    with pytest.raises(DataError, match="no unlabelled clips") as caught:
        build("mer2023", labels_only, unlabelled=True)
    assert "dataset.unlabelled=false" in str(caught.value)


def test_normal_form(tmp_path):
    datamodule = build("mer2024", tmp_path / "c", unlabelled=True)
    index = datamodule.index
    assert sizes(datamodule) == {"train": 11, "val": 1, "test1": 4, "unlabelled": 1}
    clip = index.samples["test1"][1]
    assert (clip.id, clip.text, clip.labels) == ("test1_0001", "话test1_0001", {"emotion": "angry"})
    assert clip.video.path.parts[-2:] == ("video", "test1_0001.mp4")
    assert clip.audio.path.parts[-2:] == ("audio", "test1_0001.wav")
    assert index.samples["unlabelled"][0].id == "pool_0001"
    assert "mer2024 train has 12 samples; the official count is 5030" in index.notes


def test_csv_comes_before_npz_and_npz_fills_up(tmp_path):
    root = mer_normal(tmp_path / "c")
    write_table(root / "labels.csv", "name,discrete,valence", [(f"train_{k:04d}", SIX[k % 6], "") for k in range(6)])
    found = build("mer2024", root).samples()
    assert [s.id for s in found if s.split == "train"] == [f"train_{k:04d}" for k in range(6)]
    assert sum(s.split == "test1" for s in found) == 4


def test_transcripts_without_the_language(tmp_path):
    root = mer2023(tmp_path / "t")
    write_table(root / "transcription-engchi-polish.csv", "name,chinese", [("sample_00000001", "好")])
    with pytest.raises(DataError, match="transcripts lack a column"):
        bare("mer2023", root).build_index()
