"""MELD's official files: ids, labels by name, words, clips, splits; and the real dataset where HERO_REAL holds it."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from hero_lightning.data.availability import KNOWN
from hero_lightning.datasets.meld import COLUMNS, MeldDataModule
from hero_lightning.datasets.readers import clean, read_csv
from hero_lightning.encoders.handcrafted import FrameHog, LogMelProsody
from hero_lightning.errors import DataError
from hero_lightning.features.modality import Modality
from hero_lightning.media.frame_samplers import Uniform
from hero_lightning.tasks import ClassTask
from tests.datasets.official_trees import write_normal
from tests.datasets.small_datasets import sizes, words
from tests.media_helpers import write_clip

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
EMOTIONS = ("neutral", "joy", "anger", "fear")
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}


def write_csv(root, part, dialogues, encoding="utf-8"):
    """A label file; `dialogues` maps its number to its utterance numbers."""
    lines = [HEADER]
    for d, utterances in dialogues.items():
        for u in utterances:
            cells = f"“It’s {u}, dear…”", f"P{u % 2}", EMOTIONS[u % 4], ("neutral", "positive", "negative")[u % 3]
            lines.append(f'{len(lines)},"{cells[0]}",{",".join(cells[1:])},{d},{u},1,1,"00:00:01,000","00:00:02,000"')
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{part}_sent_emo.csv").write_text("\n".join(lines) + "\n", encoding=encoding)


def meld(root, **options):
    tasks = {"emotion": ClassTask("emotion"), "sentiment": ClassTask("sentiment")}
    options = {"modalities": {"text": words()}, "tasks": tasks} | options
    return MeldDataModule(root=root, features_root=root / "stores", **options)


def media_modalities():
    return {
        "frame": Modality("frame", "realtime", partial(FrameHog), sampler=Uniform(2)),
        "audio": Modality("audio", "realtime", partial(LogMelProsody)),
        "text": words(),
    }


@pytest.fixture
def root(tmp_path):
    write_csv(tmp_path, "train", {d: range(3) for d in range(20)})
    write_csv(tmp_path, "dev", {0: [0, 2, 5], 1: [0]})
    return tmp_path


@pytest.mark.parametrize("place", ["", "MELD.Raw", "data/MELD"])
def test_rows(tmp_path, place):
    write_csv(tmp_path / place, "train", {0: [2, 0, 7]})
    write_csv(tmp_path / place, "dev", {0: [0]})
    write_csv(tmp_path / place, "test", {0: [0]})
    datamodule = meld(tmp_path)
    ids = {k: [s.id for s in v] for k, v in datamodule.index.samples.items()}
    names = [f"train_dia0_utt{u}" for u in (2, 0, 7)]
    assert ids == {"train": names, "val": ["val_dia0_utt0"], "test": ["test_dia0_utt0"]}
    last = datamodule.index.samples["train"][2]
    assert last.text == '"It\'s 7, dear..."'
    assert (last.speaker, last.dialogue, last.turn) == ("P1", "train_dia0", 7)
    assert last.labels == {"emotion": "fear", "sentiment": "positive"}
    assert [t.text[:7] for t in last.turns] == ["\"It's 0", "\"It's 2"]
    assert datamodule.index.classes == {
        "emotion": ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"],
        "sentiment": ["neutral", "positive", "negative"],
    }
    assert "meld train has 3 samples; the official count is 9989" in datamodule.index.notes


def test_without_test_it_trains_and_validates(root):
    datamodule = meld(root)
    assert sizes(datamodule) == {"train": 60, "val": 4}
    assert datamodule.test_dataloader() == []


def test_dev_serves_as_test(root):
    datamodule = meld(root, test_from="dev")
    assert sizes(datamodule) == {"train": 54, "val": 6, "test": 4}
    assert {s.id[:5] for s in datamodule.index.samples["test"]} == {"val_d"}
    dialogues = [{s.dialogue for s in datamodule.index.samples[k]} for k in ("train", "val")]
    assert len(dialogues[1]) == 2
    assert not dialogues[0] & dialogues[1]
    assert "because it has no test split" in datamodule.index.split_origin["test"]
    assert "0.1 of train by whole dialogues" in datamodule.index.split_origin["val"]


def test_only_dev(tmp_path):
    write_csv(tmp_path, "dev", {0: range(4)})
    datamodule = meld(tmp_path)
    assert sizes(datamodule) == {"val": 4}


def test_clips(root):
    folder = root / "train_splits"
    folder.mkdir()
    for k in range(3):
        write_clip(folder / f"dia0_utt{k}.mp4", seconds=0.5, audio=k != 1)
    (folder / "dia1_utt0.mp4").touch()
    (folder / "dia1_utt1.mp4").write_bytes((folder / "dia0_utt0.mp4").read_bytes()[:300])
    for stray in ("._dia1_utt2.mp4", "final_videos_testdia1_utt2.mp4", "dia1_utt2.mp4.part"):
        (folder / stray).write_bytes((folder / "dia0_utt0.mp4").read_bytes())
    datamodule = meld(root, modalities=media_modalities(), batch_size=6)
    batch = next(iter(datamodule.loader("train")))
    assert batch.ids[:6] == [f"train_dia{d}_utt{u}" for d in range(2) for u in range(3)]
    assert batch.modalities["frame"].input_rows.tolist() == [0, 1, 2]
    assert batch.modalities["audio"].input_rows.tolist() == [0, 2]
    assert batch.modalities["text"].input_rows.tolist() == list(range(6))
    reasons = {(e.id, e.modality): (e.kind, e.reason) for e in datamodule.index.ledger}
    assert reasons["train_dia0_utt1", "audio"] == ("absent", "no sound")
    assert reasons["train_dia1_utt0", "frame"][0] == "broken"
    assert "empty" in reasons["train_dia1_utt0", "frame"][1]
    assert reasons["train_dia1_utt1", "frame"][0] == "broken"
    assert "missing" in reasons["train_dia1_utt2", "frame"][1], "a stray name was taken for a clip"
    assert reasons["val_dia0_utt0", "frame"] == ("absent", "no video")
    assert {s.id for v in datamodule.index.samples.values() for s in v} >= {"train_dia1_utt0", "val_dia1_utt0"}
    with pytest.raises(DataError, match="62 clips lack a modality"):
        meld(root, modalities=media_modalities(), missing="error").build_index()
    assert (
        len(meld(root, modalities=media_modalities(), missing="skip", use_splits=["train"]).index.samples["train"]) == 2
    )


def test_clips_the_release_broke_keep_their_words(tmp_path):
    write_csv(tmp_path, "train", {0: range(2), 125: [3]})
    write_csv(tmp_path, "dev", {0: range(2), 110: [7]})
    for part in ("train", "dev"):
        folder = tmp_path / FOLDERS[part]
        folder.mkdir()
        for name in ("dia0_utt0", "dia0_utt1", "dia125_utt3" if part == "train" else "dia110_utt7"):
            write_clip(folder / f"{name}.mp4", seconds=0.5)
    for policy in ("error", "skip", "mask"):
        datamodule = meld(tmp_path, modalities=media_modalities(), missing=policy)
        assert sizes(datamodule) == {"train": 3, "val": 3}
        assert {(e.id, e.modality, e.reason) for e in datamodule.index.ledger} == {
            (i, s, KNOWN) for i in ("train_dia125_utt3", "val_dia110_utt7") for s in ("frame", "audio")
        }
        (batch,) = datamodule.loader("train")
        assert batch.modalities["text"].input_rows.tolist() == [0, 1, 2]
        assert batch.modalities["audio"].input_rows.tolist() == [0, 1]


def test_mertools_form(tmp_path):
    names = [f"{part}_dia{d}_utt{u}" for part in ("train", "val") for d in range(4) for u in (0, 2)]
    tables = {part: {n: {"emo": k % 7} for k, n in enumerate(names) if n.startswith(part)} for part in ("train", "val")}
    write_normal(tmp_path / "label.npz", {n: f"It’s {n}" for n in names}, **tables)
    (tmp_path / "subvideo").mkdir()
    datamodule = meld(tmp_path)
    assert sizes(datamodule) == {"train": 8, "val": 8}
    second = datamodule.index.samples["train"][1]
    assert (second.id, second.text, second.dialogue, second.turn) == (names[1], f"It's {names[1]}", "train_dia0", 2)
    assert [t.text for t in second.turns] == [f"It's {names[0]}"]
    assert second.labels == {"emotion": "joy"}
    assert second.video.path == tmp_path / "subvideo" / f"{names[1]}.mp4"
    assert any("sentiment is left out" in n for n in datamodule.index.notes)


# ---- bad label files


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "label file is empty"),
        (HEADER + "\n", "has no rows"),
        ("Utterance,Speaker\nHi,Joey\n", "lacks a column"),
        (HEADER + "\n1,Hi,Joey,joy\n", r"another number of cells[\s\S]*csv, line 2"),
        (HEADER + "\n1,Hi,Joey,joy,positive,x,0,1,1,a,b\n", r"Utterance_ID is not a number[\s\S]*csv, line 2"),
    ],
)
def test_bad_label_files(tmp_path, text, problem):
    (tmp_path / "train_sent_emo.csv").write_text(text)
    with pytest.raises(DataError, match=problem) as caught:
        meld(tmp_path).build_index()
    assert "train_sent_emo.csv" in str(caught.value)


def test_duplicate_rows_name_both_lines(root):
    path = root / "dev_sent_emo.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[2] + "\n")
    with pytest.raises(DataError, match="'val_dia0_utt2' occurs twice") as caught:
        meld(root).build_index()
    assert "line 3 and" in str(caught.value)
    assert "line 6" in str(caught.value)


def test_unknown_emotion(root):
    path = root / "dev_sent_emo.csv"
    path.write_text(path.read_text().replace("anger", "rage"))
    with pytest.raises(DataError, match="Unknown label") as caught:
        meld(root).build_index()
    assert "val_dia0_utt2" in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("I\x92m  here\x85 \x93so\x94", 'I\'m here... "so"'),
        ("‘No’ – well—yes…\xa0ok\n", "'No' - well-yes... ok"),
        ("Olé, fiancée", "Olé, fiancée"),
        ("a\x81b", "ab"),
    ],
)
def test_words_are_cleaned(raw, plain):
    assert clean(raw) == plain


def test_a_label_file_saved_in_cp1252(tmp_path):
    write_csv(tmp_path, "train", {0: [1]}, encoding="cp1252")
    ((place, row),) = read_csv(tmp_path / "train_sent_emo.csv", COLUMNS, "MELD")
    assert place.endswith("csv, line 2")
    assert clean(row["Utterance"]) == '"It\'s 1, dear..."'


@pytest.mark.real
@pytest.mark.skipif("HERO_REAL" not in os.environ, reason="HERO_REAL names no folder of real datasets")
def test_the_real_dataset():
    root = Path(os.environ["HERO_REAL"]) / "data" / "meld"
    datamodule = meld(root)
    train, val = datamodule.index.samples["train"], datamodule.index.samples["val"]
    assert (len(train), len(val)) == (9989, 1109)
    assert datamodule.index.notes == []
    assert len({s.dialogue for s in train}) == 1038
    assert Counter(s.labels["emotion"] for s in train) == {
        "neutral": 4710, "joy": 1743, "surprise": 1205, "anger": 1109, "sadness": 683, "disgust": 271, "fear": 268,
    }  # fmt: skip
    dev = {"neutral": 470, "joy": 163, "surprise": 150, "anger": 153, "sadness": 111, "disgust": 22, "fear": 40}
    assert Counter(s.labels["emotion"] for s in val) == dev
    assert max(len(s.turns) for s in train) == 23
    assert all(s.text and s.text.isprintable() and not set(s.text) & set("’‘“”…") for s in (*train, *val))
    scored = meld(root, test_from="dev")
    assert len(scored.index.samples["test"]) == 1109
    assert 950 < len(scored.index.samples["val"]) < 1050
