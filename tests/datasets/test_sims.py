"""CH-SIMS and CH-SIMS v2: padded clip numbers, scores of each side, the pool without labels, an official leak."""

from __future__ import annotations

from hero_lightning.datasets.sims import SimsDataModule, SimsV2DataModule
from hero_lightning.tasks import ClassTask, ScoreTask
from tests.datasets.official_trees import MMSA_COLUMNS, datamodule_options, mmsa_rows, write, write_normal, write_table
from tests.datasets.small_datasets import sizes

TASKS = (ScoreTask("sentiment_score", -1, 1), ClassTask("sentiment"))
MODES = {"video_0001": "train", "video_0002": "train", "video_0003": "valid", "video_0004": "test"}


def test_clip_numbers_get_their_zeros_back(tmp_path):
    write_table(tmp_path / "label.csv", MMSA_COLUMNS, mmsa_rows(MODES))
    write(tmp_path / "Raw" / "video_0001" / "0004.mp4", "")
    datamodule = SimsDataModule(**datamodule_options(tmp_path, *TASKS))
    s = next(s for s in datamodule.index.samples["train"] if s.id == "video_0001_0004")
    assert s.video.path == tmp_path / "Raw" / "video_0001" / "0004.mp4"
    assert s.labels == {
        "sentiment_score": 0.0, "sentiment": "neutral", "sentiment_score_text": 0.2, "sentiment_score_audio": -0.2,
    }  # fmt: skip
    assert "sims train has 8 samples; the official count is 1368" in datamodule.index.notes


def test_videos_may_stand_in_several_parts_and_that_is_printed(tmp_path, caplog):
    rows = [*mmsa_rows(MODES), ("video_0001", 9, "x", 1, "", "", "", "", "test")]
    write_table(tmp_path / "meta.csv", MMSA_COLUMNS, rows)
    with caplog.at_level("INFO"):
        SimsDataModule(**datamodule_options(tmp_path, *TASKS)).build_index()
    assert "4 videos: 1 in test and train" in caplog.text


def test_v2_and_its_pool(tmp_path):
    write_table(tmp_path / "meta(s).csv", MMSA_COLUMNS, [(v, f"{k:05d}", *r) for v, k, *r in mmsa_rows(MODES)])
    pool = [(f"u_{k}", "00001", f"free {k}") for k in range(5)]
    write_table(tmp_path / "ch-simsv2u" / "meta.csv", MMSA_COLUMNS[:3], pool)
    write(tmp_path / "ch-simsv2s" / "Raw" / "video_0001" / "00001.mp4", "")
    write(tmp_path / "ch-simsv2u" / "Raw" / "u_3" / "00001.mp4", "")
    datamodule = SimsV2DataModule(**datamodule_options(tmp_path, *TASKS))
    assert sizes(datamodule) == {"train": 8, "val": 4, "test": 4, "unlabelled": 5}
    clips = {s.id: s.video.path for rows in datamodule.index.samples.values() for s in rows}
    assert clips["video_0001_00001"] == tmp_path / "ch-simsv2s/Raw/video_0001/00001.mp4"
    assert clips["u_3_00001"] == tmp_path / "ch-simsv2u/Raw/u_3/00001.mp4"
    assert datamodule.index.samples["unlabelled"][3].labels == {}
    assert datamodule.test_splits == ["test"]


def test_a_blank_score_is_no_label(tmp_path):
    rows = [*mmsa_rows(MODES), ("video_0009", 1, "x", "nan", "", "", "", "", "train")]
    write_table(tmp_path / "meta.csv", MMSA_COLUMNS, rows)
    datamodule = SimsDataModule(**datamodule_options(tmp_path, *TASKS))
    assert [s.id for s in datamodule.index.samples["unlabelled"]] == ["video_0009_0001"]


def test_mertools_form_reads_chinese_words(tmp_path):
    rows = mmsa_rows(MODES)
    names = {f"{v}_{k:04d}": (s, mode) for v, k, _, s, *_, mode in rows}
    tables = {m: {n: {"emo": 0, "val": s} for n, (s, mode) in names.items() if mode == m} for m in MODES.values()}
    write_normal(tmp_path / "label.npz", {n: "hello" for n in names}, **tables)
    datamodule = SimsDataModule(**datamodule_options(tmp_path, *TASKS))
    assert datamodule.index.samples["test"][0].id == "video_0004_0001"
    assert datamodule.index.samples["test"][0].text == "说 hello"
