"""IEMOCAP's tree: spans, halves, turns, protocols, folds, official counts, its traps."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hero_lightning.datasets.iemocap import EXTRA, LEFT, RIGHT, SESSIONS_4WAY, IemocapDataModule
from hero_lightning.errors import DataError
from hero_lightning.media.clip import ClipReader
from hero_lightning.tasks import ClassTask, ScoreTask
from tests.datasets.official_trees import datamodule_options, iemocap_dialogue, iemocap_tree, write, write_normal
from tests.datasets.small_datasets import by_id
from tests.media_helpers import write_clip


def iemocap(root, *more, **changes):
    return IemocapDataModule(**datamodule_options(root, ClassTask("emotion"), *more, **changes))


@pytest.fixture
def root(tmp_path):
    return iemocap_tree(tmp_path)


def test_utterances(root):
    datamodule = iemocap(root)
    found = by_id(datamodule)
    # per dialogue: xxx and sur are no class
    assert len(found) == 5 * 2 * 7
    s = found["Ses02M_script01_1_M001"]
    assert (s.speaker, s.dialogue, s.turn, s.text) == ("Ses02M", "Ses02M_script01_1", 3, "Words' of exc 3")
    assert s.labels == {"emotion": "excited", "valence": 4.5, "activation": 3.0, "dominance": 2.25}
    # the turn nobody agreed on is no sample, but it was said
    assert [(t.speaker, t.text) for t in s.turns] == [
        ("Ses02F", "Words' of neu 0"), ("Ses02M", "Words' of ang 1"), ("Ses02F", "Words' of xxx 2"),
    ]  # fmt: skip
    assert found["Ses02M_script01_1_F000"].turns == ()
    assert s.video is None
    assert s.audio is None
    assert datamodule.index.classes["emotion"] == ["happy", "sad", "neutral", "angry", "excited", "frustrated"]


def test_four_way_merges_excited_into_happy(root):
    datamodule = iemocap(root, protocol="4way")
    assert Counter(s.labels["emotion"] for s in by_id(datamodule).values()) == {
        "happy": 20, "neutral": 20, "angry": 10, "sad": 10,
    }  # fmt: skip
    assert datamodule.index.classes["emotion"] == ["happy", "sad", "neutral", "angry"]


def test_unlabelled_rows_may_stay_for_their_scores(root):
    datamodule = iemocap(root, ScoreTask("valence", 0.5, 5.5), keep_unlabelled=True)
    found = by_id(datamodule)
    assert len(found) == 5 * 2 * 9
    assert found["Ses01F_impro01_F001"].labels == {"valence": 3.5, "activation": 3.0, "dominance": 2.25}
    assert not [n for n in datamodule.index.notes if "official" in n]


@pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
def test_one_session_is_left_out(root, fold, caplog):
    datamodule = iemocap(root, fold=fold, val_fraction=0.2)
    with caplog.at_level("INFO"):
        parts = {k: v for k, v in datamodule.index.samples.items()}
    assert {s.id[4] for s in parts["test"]} == {str(fold)}
    assert {s.id[4] for s in (*parts["train"], *parts["val"])} == set("12345") - {str(fold)}
    assert not {s.speaker for s in parts["test"]} & {s.speaker for k in ("train", "val") for s in parts[k]}
    assert not {s.dialogue for s in parts["train"]} & {s.dialogue for s in parts["val"]}
    assert "by whole dialogues" in datamodule.index.split_origin["val"]
    assert "10 dialogues: none in two splits; 10 speakers:" in caplog.text


def test_the_pickles_extra_happy_rows(root):
    assert any("1622 of 1623 in session 5" in n for n in iemocap(root).index.notes)
    write(root / EXTRA, "Ses03F_impro01_F001")
    datamodule = iemocap(root)
    assert by_id(datamodule)["Ses03F_impro01_F001"].labels["emotion"] == "happy"
    assert "iemocap train has 57 samples; the official count is 5810" in datamodule.index.notes
    assert not any("1622" in n for n in datamodule.index.notes)


def test_official_counts(root):
    assert sum(SESSIONS_4WAY) == 5531
    for fold, size in enumerate(SESSIONS_4WAY, start=1):
        assert iemocap(root, protocol="4way", fold=fold).official() == {"train": 5531 - size, "test": size}
    assert iemocap(root).official() == {"train": 7380 - 1622, "test": 1622}
    assert iemocap(root, fold=2).official() == {}


def test_the_speakers_half_of_the_picture(root):
    """The wearer (6th character) sits left; a picture whose left half is dark and right half bright tells."""
    folder = root / "IEMOCAP_full_release" / "Session1" / "dialog" / "avi" / "DivX"
    folder.mkdir(parents=True)
    pictures = []
    for k in range(40):
        pixels = np.full((64, 96, 3), 30 + 2 * k, dtype=np.uint8)
        pixels[:, 48:] = 220
        pictures.append(pixels)
    write_clip(folder / "Ses01F_impro01.avi", fps=10, pictures=pictures, sound=np.zeros(4 * 44_100, np.float32))
    found = by_id(iemocap(root))
    own, other = found["Ses01F_impro01_F000"].video, found["Ses01F_impro01_M000"].video
    assert (own.crop, own.span, other.crop, other.span) == (LEFT, (0.0, 1.5), RIGHT, (2.0, 3.5))
    assert found["Ses01M_script01_1_M000"].video.crop == LEFT
    assert found["Ses02F_impro01_F000"].video is None
    seen = {}
    for name, media in (("own", own), ("other", other)):
        with ClipReader(media) as clip:
            frames = clip.read({"frame": [0.5]})[0]["frame"].pixels
        seen[name] = float(np.asarray(frames, dtype=float).mean())
        assert frames.shape[2] == 48
    assert seen["own"] < 60 < 200 < seen["other"]


def test_utterance_sounds(root):
    (root / "IEMOCAP_full_release" / "Session2" / "sentences" / "wav").mkdir(parents=True)
    found = by_id(iemocap(root))
    path = found["Ses02F_impro01_M000"].audio.path
    assert path.parts[-3:] == ("wav", "Ses02F_impro01", "Ses02F_impro01_M000.wav")
    assert found["Ses01F_impro01_M000"].audio is None


def test_mertools_form(tmp_path):
    names = [f"Ses0{s}F_impro0{d}_{x}00{k}" for s in (1, 2, 5) for d in (1, 2) for k in range(3) for x in "FM"]
    table = {n: {"emo": k % 6, "val": -10} for k, n in enumerate(names)}
    write_normal(tmp_path / "label_6way.npz", {n: f"said {n}" for n in names}, whole=table)
    (tmp_path / "subvideo-tgt").mkdir()
    (tmp_path / "subvideo-tgt" / f"{names[0]}.avi").touch()
    datamodule = iemocap(tmp_path)
    s = by_id(datamodule)[names[0]]
    assert (s.speaker, s.dialogue, s.text) == ("Ses01F", "Ses01F_impro01", f"said {names[0]}")
    assert s.labels == {"emotion": "happy"}
    assert by_id(datamodule)[names[1]].video.path.name == f"{names[1]}.avi"
    assert {x.id[4] for x in datamodule.index.samples["test"]} == {"5"}
    table[names[3]]["emo"] = 6
    write_normal(tmp_path / "label_6way.npz", whole=table)
    with pytest.raises(DataError, match="number is unknown") as caught:
        iemocap(tmp_path).build_index()
    assert names[3] in str(caught.value)
    assert "0 to 5" in str(caught.value)


# ---- what is wrong


def test_the_test_session_is_missing(tmp_path):
    iemocap_tree(tmp_path, sessions=(1, 2))
    with pytest.raises(DataError, match="No test session") as caught:
        iemocap(tmp_path).build_index()
    assert "['Ses01', 'Ses02']" in str(caught.value)
    assert iemocap(tmp_path, fold=2).index.samples["test"]


@pytest.mark.parametrize("line", ["[1.0 - 2.0]\tSes01F_impro01_F000\tnue\t[1.0, 2.0, 3.0]", "[1.0 - 2.0]\tSes01F_im"])
def test_bad_lines_name_their_place(root, line):
    path = root / "IEMOCAP_full_release" / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    path.write_text(f"% header\n\n{line}\n")
    with pytest.raises(DataError, match="EmoEvaluation line has another form") as caught:
        iemocap(root).build_index()
    assert "Ses01F_impro01.txt, line 3" in str(caught.value)


def test_ten_thousand_utterances_take_seconds(tmp_path):
    import time

    codes = ("neu", "ang", "xxx", "exc", "hap", "sad", "fru") * 10
    for s in range(1, 6):
        for d in range(29):
            iemocap_dialogue(tmp_path / f"Session{s}" / "dialog", f"Ses0{s}F_impro{d:02d}", codes)
    datamodule, start = iemocap(tmp_path), time.process_time()
    samples = datamodule.samples()
    assert time.process_time() - start < 5
    assert len(samples) == 5 * 29 * 60
