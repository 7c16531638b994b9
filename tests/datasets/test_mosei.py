"""CMU-MOSEI and CMU-MOSI: SDK files, MMSA's and MERTools' forms, spans, words, emotions, folds; real MOSI features."""

from __future__ import annotations

import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hero_lightning.datasets.mosei import EMOTIONS, MoseiDataModule, MosiDataModule
from hero_lightning.errors import ConfigError, DataError, FeatureError
from hero_lightning.features.foreign.tables import MmsaPickle, NpzTable
from hero_lightning.features.modality import Modality
from hero_lightning.tasks import ClassTask, MultilabelTask, ScoreTask
from tests.datasets.official_trees import (
    MMSA_COLUMNS,
    datamodule_options,
    mmsa_rows,
    mosei_labels,
    mosei_transcripts,
    write,
    write_csd,
    write_folds,
    write_mmsa_pickle,
    write_normal,
    write_table,
)
from tests.datasets.small_datasets import by_id, sizes
from tests.media_helpers import write_clip

VIDEOS = ["-3g5yACwYnA", "a_b_c", "98562", "Zx__9", "v5"]
MODES = dict(zip(VIDEOS, ("train", "train", "train", "valid", "test"), strict=True))
SCORE = ScoreTask("sentiment_score", -3, 3)


def mosei(root, **more):
    tasks = (SCORE, MultilabelTask("emotions", EMOTIONS), ClassTask("sentiment"))
    return MoseiDataModule(**datamodule_options(root, *tasks, **more))


def mosi(root, **more):
    return MosiDataModule(**datamodule_options(root, SCORE, ClassTask("sentiment"), **more))


def sdk(root, transcripts=True, folds=True):
    write_csd(root / "csd" / "CMU_MOSEI_Labels.csd", "All Labels", mosei_labels(VIDEOS))
    if folds:
        write_folds(root / "cmu_mosei_std_folds.py", VIDEOS[:3], VIDEOS[3:4], VIDEOS[4:])
    if transcripts:
        mosei_transcripts(root, VIDEOS, shift=0.2)
    return root


# ---- the SDK's files


def test_csd_with_folds_and_transcripts(tmp_path):
    datamodule = mosei(sdk(tmp_path))
    assert sizes(datamodule) == {"train": 12, "val": 4, "test": 4}
    assert {s.dialogue for s in datamodule.index.samples["val"]} == {"Zx__9"}
    found = by_id(datamodule)
    # clip numbers are the transcripts' (1, 2, 4, 5), matched by time: the .csd lists them the other way round
    assert [i for i in found if i.startswith("a_b_c")] == [f"a_b_c_{k}" for k in (5, 4, 2, 1)]
    s = found["a_b_c_4"]
    assert (s.text, s.dialogue, s.turn) == ("said 2 in a_b_c", "a_b_c", 4)
    assert s.labels == {"sentiment_score": 0.5, "sentiment": "positive", "emotions": {}}
    assert found["-3g5yACwYnA_4"].labels["emotions"] == {"anger": pytest.approx(2 / 3)}
    assert [t.text for t in s.turns] == ["said 0 in a_b_c", "said 1 in a_b_c"]
    assert "cmu_mosei_std_folds.py lists 3 train videos; the official count is 2249" in datamodule.index.notes
    (batch,) = datamodule.loader("val")
    assert batch.labels["emotions"].value.shape == (4, 6)
    assert batch.labels["emotions"].mask.all()


def test_csd_alone_numbers_clips_in_order_and_reads_timed_words(tmp_path):
    sdk(tmp_path, transcripts=False, folds=False)
    times = np.arange(0, 12, 0.5)
    spans = np.stack([times, times + 0.5], axis=1)
    words = np.array([[b"sp" if k % 4 == 1 else f"w{k}".encode()] for k in range(len(times))])
    write_csd(tmp_path / "csd" / "CMU_MOSEI_TimestampedWords.csd", "words", dict.fromkeys(VIDEOS, (spans, words)))
    datamodule = mosei(tmp_path, val_fraction=0.3, test_fraction=0.2)
    s = by_id(datamodule)["98562_0"]
    assert s.text == "w18 w19 w20"  # 9.1 to 11 s, w21 is a pause
    assert any("every video is train" in n for n in datamodule.index.notes)
    assert "by whole videos" in datamodule.index.split_origin["val"]
    parts = [{s.dialogue for s in rows} for rows in datamodule.index.samples.values()]
    assert len(parts) == 3
    assert sum(map(len, parts)) == 5


def test_videos_of_no_fold_are_counted(tmp_path):
    sdk(tmp_path)
    write_folds(tmp_path / "cmu_mosei_std_folds.py", VIDEOS[:2], VIDEOS[3:4], VIDEOS[4:])
    datamodule = mosei(tmp_path)
    assert len(by_id(datamodule)) == 16
    assert [(e.id, e.kind) for e in datamodule.index.ledger if e.kind == "dropped"] == [("98562", "dropped")]


def test_a_video_in_two_folds_is_a_leak(tmp_path):
    write_table(tmp_path / "label.csv", MMSA_COLUMNS, [*mmsa_rows(MODES), ("v5", 9, "x", 1, "", "", "", "", "train")])
    with pytest.raises(DataError, match="Splits leak: 1 of 5 videos") as caught:
        mosei(tmp_path, modalities=datamodule_options(tmp_path)["modalities"]).build_index()
    assert "v5 in test (v5_1), train (v5_9)" in str(caught.value)


def test_spans_inside_whole_videos(tmp_path):
    sdk(tmp_path)
    folder = tmp_path / "Raw" / "Videos" / "Full" / "Combined"
    folder.mkdir(parents=True)
    write_clip(folder / "a_b_c.mp4", seconds=12, fps=4)
    found = by_id(mosei(tmp_path))
    video = found["a_b_c_4"].video
    assert video.path == folder / "a_b_c.mp4"
    assert video.span == pytest.approx((6.1, 8.0))
    assert found["v5_1"].video.path == folder / "v5.mp4", "a missing clip is named, so that it counts"


@pytest.mark.parametrize(
    ("break_it", "error", "problem"),
    [
        (lambda root: (root / "csd/CMU_MOSEI_Labels.csd").write_bytes(b"no hdf5"), DataError, "csd cannot be read"),
        (lambda root: write(root / "cmu_mosei_std_folds.py", "standard_train_fold = []"), DataError, "lacks a list"),
    ],
)
def test_broken_sdk_files(tmp_path, break_it, error, problem):
    break_it(sdk(tmp_path))
    with pytest.raises(error, match=problem):
        mosei(tmp_path).build_index()


def test_without_h5py_the_message_names_the_extra_and_the_cause(tmp_path, monkeypatch):
    sdk(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"needs h5py[\s\S]*got: +ModuleNotFoundError") as caught:
        mosei(tmp_path).build_index()
    assert "hero-lightning[datasets]" in str(caught.value)


# ---- MMSA and MERTools


def check_mmsa(datamodule, case=str):
    assert sizes(datamodule) == {"train": 12, "val": 4, "test": 4}
    s = by_id(datamodule)["a_b_c_4"]
    assert s.text == case("Said 2 IN a_b_c")
    assert (s.labels["sentiment_score"], s.labels["sentiment"]) == (0.0, "neutral")
    assert by_id(datamodule)["Zx__9_5"].labels["sentiment_score"] == pytest.approx(1.8)


def test_mmsa_labels_with_the_sdks_emotions(tmp_path):
    write_table(tmp_path / "label.csv", MMSA_COLUMNS, mmsa_rows(MODES, scale=3))
    datamodule = mosei(tmp_path)
    check_mmsa(datamodule)
    assert any("task emotions is left out" in n for n in datamodule.index.notes)
    assert "cmu_mosei test has 4 samples; the official count is 4659" in datamodule.index.notes
    mosei_transcripts(tmp_path, VIDEOS[:4])
    write_csd(tmp_path / "CMU_MOSEI_Labels.csd", "All Labels", mosei_labels(VIDEOS))
    datamodule = mosei(tmp_path)
    check_mmsa(datamodule)
    found = by_id(datamodule)
    assert found["-3g5yACwYnA_4"].labels["emotions"] == {"anger": pytest.approx(2 / 3)}
    assert found["-3g5yACwYnA_1"].labels["emotions"] == {}
    assert "emotions" not in found["v5_1"].labels


def test_mmsa_clips(tmp_path):
    write_table(tmp_path / "label.csv", MMSA_COLUMNS, mmsa_rows(MODES, scale=3))
    write(tmp_path / "Raw" / "a_b_c" / "4.mp4", "")
    assert by_id(mosei(tmp_path))["a_b_c_4"].video.path == tmp_path / "Raw" / "a_b_c" / "4.mp4"


def test_mmsa_pickle_gives_labels_and_features(tmp_path):
    path = write_mmsa_pickle(tmp_path / "Processed" / "unaligned_50.pkl", mmsa_rows(MODES, scale=3))
    modalities = {"audio": Modality("audio", "preextracted", source=MmsaPickle(path, "audio"))}
    datamodule = mosei(tmp_path, modalities=modalities)
    check_mmsa(datamodule)
    (batch,) = datamodule.loader("test")
    assert batch.ids == ["v5_1", "v5_2", "v5_4", "v5_5"]
    assert batch.modalities["audio"].stored.mask.sum(dim=1).tolist() == [2, 3, 4, 2]


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    path = tmp_path / "aligned_50.pkl"
    path.write_bytes(pickle.dumps({"train": os.system}))
    with pytest.raises(FeatureError, match="wants to run code"):
        mosei(tmp_path).build_index()
    path.write_bytes(pickle.dumps({"train": {"id": []}}))
    with pytest.raises(DataError, match="another form than MMSA's") as caught:
        mosei(tmp_path).build_index()
    assert "train without ['raw_text', 'regression_labels']" in str(caught.value)


def test_mertools_form(tmp_path):
    rows = mmsa_rows(MODES, scale=3)
    tables = {
        m: {f"{v}_{k}": {"emo": 0, "val": s} for v, k, _, s, *_, mode in rows if mode == m} for m in MODES.values()
    }
    write_normal(tmp_path / "label.npz", {f"{v}_{k}": t for v, k, t, *_ in rows}, **tables)
    write(tmp_path / "subvideo_new" / "a_b_c_4.mp4", "")
    datamodule = mosei(tmp_path)
    check_mmsa(datamodule)
    assert by_id(datamodule)["a_b_c_4"].video.path.name == "a_b_c_4.mp4"


def test_a_score_that_is_no_number(tmp_path):
    write_table(tmp_path / "label.csv", MMSA_COLUMNS, [("v", 1, "x", "high", "", "", "", "", "train")])
    with pytest.raises(DataError, match="score is not a number") as caught:
        mosei(tmp_path).build_index()
    assert "label.csv, line 2" in str(caught.value)


def test_thirty_thousand_labels_take_seconds(tmp_path):
    videos = {f"v{k}": ("train", "train", "valid", "test")[k % 4] for k in range(3000)}
    write_table(tmp_path / "label.csv", MMSA_COLUMNS, mmsa_rows(videos, clips=10))
    start = time.process_time()
    datamodule = mosei(tmp_path)
    assert len(datamodule.samples()) == 30_000
    assert time.process_time() - start < 5


# ---- MOSI


def labels_csv(root):
    columns = ("name", "video", "sentiment", "binary", "split_bclstm", "split_standard", "text")
    rows = [
        (f"{v}_{k}", v, s * 3, 1, "test" if v == "98562" else "train", mode.replace("valid", "val"), t)
        for v, k, t, s, *_, mode in mmsa_rows(MODES)
    ]
    return write_table(root / "labels.csv", columns, rows)


def test_mosi_has_two_splits(tmp_path):
    labels_csv(tmp_path)
    datamodule = mosi(tmp_path)
    assert {s.dialogue for s in datamodule.index.samples["test"]} == {"v5"}
    assert sizes(datamodule) == {"train": 12, "val": 4, "test": 4}
    datamodule = mosi(tmp_path, split="bclstm", val_fraction=0.25)
    assert {s.dialogue for s in datamodule.index.samples["test"]} == {"98562"}
    assert len({s.dialogue for s in datamodule.index.samples["val"]}) == 1
    assert "cmu_mosi test has 4 samples; the official count is 752" in datamodule.index.notes


def test_mosi_sdk_and_raw_transcripts(tmp_path):
    labels = {v: (spans, values[:, :1]) for v, (spans, values) in mosei_labels(VIDEOS).items()}
    write_csd(tmp_path / "CMU_MOSI_Opinion_Labels.csd", "Opinion Segment Labels", labels)
    write_folds(tmp_path / "cmu_mosi_std_folds.py", VIDEOS[:3], VIDEOS[3:4], VIDEOS[4:])
    write(tmp_path / "Raw/Transcript/Segmented/v5.annotprocessed", "0_DELIM_FIRST CLIP\n1_DELIM_AND MORE\n")
    write(tmp_path / "Raw/Transcript/Segmented/98562.annotprocessed", "".join(f"{k}_DELIM_X\n" for k in range(4)))
    write(tmp_path / "Raw/Transcript/Segmented/Zx__9.annotprocessed", "2_DELIM_Y\n")
    s = mosi(tmp_path).index.samples["test"][0]
    assert (s.id, s.text, s.labels) == ("v5_0", "FIRST CLIP", {"sentiment_score": 1.5, "sentiment": "positive"})


def test_the_bclstm_split_needs_its_table(tmp_path):
    write_table(tmp_path / "label.csv", MMSA_COLUMNS, mmsa_rows(MODES))
    with pytest.raises(DataError, match="No label file of cmu_mosi") as caught:
        mosi(tmp_path, split="bclstm").build_index()
    assert "labels.csv" in str(caught.value)


@pytest.mark.real
@pytest.mark.skipif("HERO_REAL" not in os.environ, reason="HERO_REAL names no folder of real datasets")
def test_the_real_features():
    root = Path(os.environ["HERO_REAL"]) / "data" / "mosi"
    keys = {"frame": "video", "audio": "audio", "text": "text"}
    for split, official in (
        ("bclstm", {"train": 1447, "test": 752}),
        ("standard", {"train": 1284, "val": 229, "test": 686}),
    ):
        modalities = {
            s: Modality(s, "preextracted", source=NpzTable(root / "features_bclstm.npz", key))
            for s, key in keys.items()
        }
        datamodule = mosi(root, split=split, modalities=modalities)
        assert datamodule.dims == {"frame": 100, "audio": 73, "text": 100}
        assert datamodule.index.notes == []
        found = sizes(datamodule)
        assert found == official if "val" in official else found["train"] + found["val"] == official["train"]
        assert found["test"] == official["test"]
        assert not [e for e in datamodule.index.ledger if e.kind != "absent"]
    batch = next(iter(datamodule.loader("test")))
    table = np.load(root / "features_bclstm.npz")
    row = list(table["names"]).index(batch.ids[0])
    assert torch.equal(batch.modalities["audio"].stored.x[0, 0], torch.from_numpy(table["audio"][row]))
