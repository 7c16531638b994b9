"""The feature-only layout: labels, classes, splits, words, widths; every bad file is one clear error or counted."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hero_lightning.datasets.readers import read_json
from hero_lightning.errors import DataError, FeatureError
from hero_lightning.features.foreign.hero_npy import write_npydict
from hero_lightning.tasks import ClassTask, ScoreTask
from tests.datasets.small_datasets import EMOTIONS, WIDTHS, by_id, features, folder, sizes, words, write_folder


def records(n=12, **each):
    """n records; `each` maps a field to a function of the number."""
    return [
        {"video_id": f"c{k}", "emotion": EMOTIONS[k % 3], "text": f"said {k}", **{f: of(k) for f, of in each.items()}}
        for k in range(n)
    ]


def test_widths_classes_and_seeded_splits(tmp_path):
    datamodule = folder(write_folder(tmp_path, 40))
    assert datamodule.dims == {"frame": WIDTHS["clip"], "audio": WIDTHS["hubert"]}
    assert datamodule.index.classes == {"emotion": sorted(EMOTIONS)}
    assert sizes(datamodule) == {"train": 32, "val": 4, "test": 4}
    assert "single samples" in datamodule.index.split_origin["test"]


def test_roots_beside_each_other(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "features").rename(tmp_path / "npy")
    (tmp_path / "labels.json").rename(tmp_path / "train.json")
    (tmp_path / "x").mkdir()
    datamodule = folder(tmp_path, feature_root=tmp_path / "npy", ann_path=tmp_path / "train.json")
    assert datamodule.features == tmp_path / "npy"
    for modality in datamodule.modalities.values():
        modality.source.root = tmp_path / "npy"
    assert len(by_id(datamodule)) == 12


def test_classes_file_sets_the_order(tmp_path):
    order = ["sad", "neutral", "fear", "happy"]
    datamodule = folder(write_folder(tmp_path, classes=order))
    assert datamodule.index.classes == {"emotion": order}
    for bad in ({"a": 0}, [], ["sad", "sad", "happy"], ["sad"]):
        (tmp_path / "classes.json").write_text(json.dumps(bad))
        with pytest.raises(DataError, match=r"classes\.json (has another form|does not list two)"):
            folder(tmp_path).build_index()


def test_optional_fields(tmp_path):
    full = {
        "sentiment": lambda k: "positive" if k % 2 else None,
        "sentiment_score": lambda k: k / 10,
        "speaker": lambda k: f"p{k % 2}",
        "dialogue_id": lambda k: k // 3,
        "utterance_id": lambda k: k % 3,
        "split": lambda k: ["train", "training", "dev", "test"][k // 3],
        "caption": lambda k: f"caption {k}",
        "evidence": lambda k: {"hubert": "a loud voice", "vis_motion": "", "face": "a smile"} if k else "plain words",
        "rationale": lambda k: None,
        "unknown": lambda k: 1,
    }
    tasks = {
        "emotion": ClassTask("emotion"),
        "sentiment": ClassTask("sentiment", ["negative", "positive"]),
        "sentiment_score": ScoreTask("sentiment_score", -3, 3),
    }
    datamodule = folder(write_folder(tmp_path, records=records(12, **full)), tasks=tasks)
    assert {k: len(v) for k, v in datamodule.index.samples.items()} == {"train": 6, "val": 3, "test": 3}
    found = by_id(datamodule)
    last = found["c11"]
    assert (last.speaker, last.dialogue, last.turn, last.text) == ("p1", "3", 2, "said 11")
    assert [t.text for t in last.turns] == ["said 9", "said 10"]
    assert last.descriptions == {"caption": "caption 11", "audio": "a loud voice", "face": "a smile"}
    assert found["c0"].descriptions["evidence"] == "plain words"
    assert found["c0"].labels == {"emotion": "happy", "sentiment_score": 0.0}
    batch = next(iter(datamodule.loader("train")))
    assert batch.labels["sentiment"].mask.tolist() == [False, True, False, True]
    assert batch.labels["sentiment_score"].value.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_gold_text_goes_before_the_transcript(tmp_path):
    rows = records(6)
    for k in (1, 2):
        rows[k]["text"] = ["", None][k - 1]
    del rows[3]["text"]
    write_folder(tmp_path, records=rows)
    write_npydict(tmp_path / "features" / "c2.npy", features(2, transcript=None))
    found = by_id(folder(tmp_path, modalities=folder(tmp_path).modalities | {"text": words()}))
    assert [found[f"c{k}"].text for k in range(5)] == ["said 0", "words of 1", None, "words of 3", "said 4"]
    found = by_id(folder(tmp_path, transcripts=False))
    assert found["c3"].text is None


def test_splits_file(tmp_path):
    lists = {"training": ["c0", "c1", "c2", "c3"], "val": ["c5"], "test": ["c6", "nobody"]}
    datamodule = folder(write_folder(tmp_path, records=records(8, split=lambda k: "train"), splits=lists))
    assert {k: [s.id for s in v] for k, v in datamodule.index.samples.items()} == {
        "train": ["c0", "c1", "c2", "c3"], "val": ["c5"], "test": ["c6"],
    }  # fmt: skip
    assert [(e.id, e.kind) for e in datamodule.index.ledger] == [("c4", "dropped"), ("c7", "dropped")]
    assert any("1 ids without a record, e.g. nobody" in note for note in datamodule.index.notes)
    assert any("2 records are not in splits.json" in note for note in datamodule.index.notes)
    assert any("not from the records' `split`" in note for note in datamodule.index.notes)
    assert len(datamodule.index.notes) == 3
    (tmp_path / "splits.json").write_text('{"train": ["c0", "c1"], "val": ["c0"]}')
    with pytest.raises(DataError, match="'c0' occurs twice") as caught:
        folder(tmp_path).build_index()
    assert "list train and" in str(caught.value)
    (tmp_path / "splits.json").write_text('["c0"]')
    with pytest.raises(DataError, match=r"splits.json has another form"):
        folder(tmp_path).build_index()


def test_the_plans_splits_file_repeats_the_splits(tmp_path):
    datamodule = folder(write_folder(tmp_path, 30))
    datamodule.index.write(tmp_path / "run")
    (tmp_path / "run" / "splits.json").rename(tmp_path / "splits.json")
    again = folder(tmp_path, split_seed=9)
    assert {k: {s.id for s in v} for k, v in again.index.samples.items()} == {
        k: {s.id for s in v} for k, v in datamodule.index.samples.items()
    }
    assert again.index.split_origin["val"] == "given by the dataset"


# ---- bad label files


@pytest.mark.parametrize(
    ("text", "problem", "details"),
    [
        ('[{"video_id": "a"}, # the first\n]', "not valid JSON", ["line 1", "delete the comment"]),
        ('[\n  {"video_id": "a"},  // one\n]', "not valid JSON", ["line 2", "delete the comment"]),
        ('[{"video_id": "a", "emotion": "sad"},]', "not valid JSON", ["line 1, column", "json.tool"]),
        ("", "not valid JSON", ["got:      nothing"]),
        ("[\n", "not valid JSON", ["line 2"]),
        ("[]", "labels.json has another form", ["[]"]),
        ('{"a": {"emotion": "sad"}}', "labels.json has another form", ["sad"]),
        ('["a"]', "A record is not an object", ["record 1", "got:      a"]),
        ('[{"emotion": "sad"}]', "lacks 'video_id'", ["record 1", "got:      emotion"]),
        ('[{"video_id": "", "emotion": "sad"}]', "lacks 'video_id'", ["record 1"]),
        ('[{"video_id": "a", "emotion": "sad"}, {"video_id": "b"}]', "lacks 'emotion'", ["record 2", "null marks"]),
        ('[{"video_id": 7, "emotion": "a"}, {"video_id": "7", "emotion": "b"}]', "'7' occurs twice", ["record 1 and"]),
    ],
)
def test_bad_label_files(tmp_path, text, problem, details):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match=problem) as caught:
        folder(tmp_path).build_index()
    assert str(tmp_path / "labels.json") in str(caught.value)
    for detail in details:
        assert detail in str(caught.value)


def test_missing_label_file_shows_the_tree(tmp_path):
    with pytest.raises(DataError, match="label file is missing") as caught:
        folder(tmp_path / "nowhere").build_index()
    assert "features/<video_id>.npy" in str(caught.value)
    assert "dataset.root=FOLDER" in str(caught.value)


def test_other_encodings(tmp_path):
    path = tmp_path / "labels.json"
    path.write_bytes('\ufeff["é"]'.encode())
    assert read_json(path) == ["é"]
    path.write_bytes('["é"]'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_json(path)


def test_unlabelled_records_say_so(tmp_path):
    rows = records(12)
    rows[2]["emotion"] = None
    datamodule = folder(write_folder(tmp_path, records=rows))
    assert by_id(datamodule)["c2"].labels == {}


VALUE = st.none() | st.booleans() | st.integers(-3, 99) | st.text(max_size=6) | st.lists(st.integers(), max_size=2)
KEY = st.sampled_from(
    ["video_id", "emotion", "text", "split", "speaker", "dialogue_id", "utterance_id", "evidence", "caption", "source"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(KEY, VALUE, max_size=8) | VALUE, max_size=5))
def test_any_json_is_read_or_refused_clearly(tmp_path, content):
    (tmp_path / "labels.json").write_text(json.dumps(content))
    datamodule = folder(tmp_path, transcripts=False)
    legal = content and all(
        isinstance(r, dict) and "emotion" in r and r.get("video_id") not in (None, "") for r in content
    )
    if legal and len({str(r["video_id"]) for r in content}) == len(content):
        samples = datamodule.samples()
        assert [s.id for s in samples] == [str(r["video_id"]) for r in content]
        assert all(isinstance(t, str) for s in samples for t in (s.id, s.split, *s.descriptions.values()))
    else:
        with pytest.raises(DataError) as caught:
            datamodule.samples()
        assert caught.value.details["where"]


# ---- bad feature files


def ones(value=1.0):
    """Audio features with `value` in one place."""
    array = np.ones((3, WIDTHS["hubert"]), dtype=np.float32)
    array[1, 2] = value
    return array


BAD = {
    "missing": ("absent", "no feature file", None),
    "truncated": ("broken", "cannot be read", lambda old: old[:-40]),
    "not numpy": ("broken", "cannot be read", lambda old: b"hello"),
    "nan": ("broken", "NaN or Inf", ones(np.nan)),
    "inf": ("broken", "NaN or Inf", ones(np.inf)),
    "wrong width": ("broken", "width 5, expected 6", ones()[:, 1:]),
    "zeros": ("absent", "no hubert", 0 * ones()),
    "no key": ("absent", "no hubert", "none"),
}
"""Damage -> mode and reason that are listed, and what becomes of the file: bytes, audio features, or nothing."""


def spoil(tmp_path, kind):
    """Damages the audio of c20."""
    path, (mode, reason, change) = tmp_path / "features" / "c20.npy", BAD[kind]
    if change is None:
        path.unlink()
    elif callable(change):
        path.write_bytes(change(path.read_bytes()))
    else:
        write_npydict(path, features(20, hubert=None if isinstance(change, str) else change))
    return mode, reason


@pytest.mark.parametrize("kind", BAD)
def test_bad_features_are_masked_counted_and_listed(tmp_path, kind):
    write_folder(tmp_path, 30)  # the width is learnt from the first eight of the train split
    mode, reason = spoil(tmp_path, kind)
    modalities = folder(tmp_path).modalities | {"text": words()}
    datamodule = folder(tmp_path, modalities=modalities)
    entries = [e for e in datamodule.index.ledger if e.modality == "audio"]
    assert [(e.id, e.kind) for e in entries] == [("c20", mode)]
    assert reason in entries[0].reason
    assert sum(c.count for c in datamodule.index.table if c.modality == "audio" and c.mode == mode) == 1
    for split in datamodule.index.samples:
        for batch in datamodule.loader(split):
            if "c20" in batch.ids:
                assert batch.ids.index("c20") not in batch.modalities["audio"].stored_rows.tolist()
                assert batch.ids.index("c20") in batch.modalities["text"].input_rows.tolist()
    with pytest.raises(DataError, match="clips lack a modality") as caught:
        folder(tmp_path, missing="error").build_index()
    assert "c20" in str(caught.value)
    assert reason in str(caught.value)
    skipped = folder(tmp_path, missing="skip")
    assert "c20" not in by_id(skipped)
    assert len(by_id(skipped)) == 29


def test_widths_that_disagree_from_the_start(tmp_path):
    write_folder(tmp_path, 30)
    spoil(tmp_path, "wrong width")
    rows = json.loads((tmp_path / "labels.json").read_text())
    (tmp_path / "labels.json").write_text(json.dumps([rows[20], *rows[:20], *rows[21:]]))
    with pytest.raises(FeatureError, match="another width") as caught:
        folder(tmp_path, split_seed=3).build_index()
    assert "hubert" in str(caught.value)


def test_thirty_thousand_labels_load_in_seconds(tmp_path):
    rows = records(30_000, speaker=lambda k: f"p{k % 50}", dialogue_id=lambda k: k // 12)
    (tmp_path / "labels.json").write_text(json.dumps(rows))
    start = time.perf_counter()
    datamodule = folder(tmp_path, modalities={"text": words()})
    assert sum(len(v) for v in datamodule.build_index().samples.values()) == 30_000
    loader = datamodule.loader("train", shuffle=True)
    next(iter(loader.batch_sampler))
    assert time.perf_counter() - start < 12
