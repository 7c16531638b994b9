"""OV-MERD+ and MER-Caption+: label sets however they are written, reasons, clips without a set."""

from __future__ import annotations

import pytest

from hero_lightning.datasets.ovmerd import label_set
from tests.datasets.official_trees import bare, build, mercaption, write_table
from tests.datasets.small_datasets import by_id, sizes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("['happy', 'Very sad']", ["happy", "very sad"]),
        ('["happy","sad"]', ["happy", "sad"]),
        ("[happy, sad, happy]", ["happy", "sad"]),
        ("happy，sad、angry", ["happy", "sad", "angry"]),
        ("[]", []),
        ("  ", []),
    ],
)
def test_label_sets(text, words):
    assert label_set(text) == words


def test_the_scored_set(tmp_path):
    datamodule = bare("ovmerd_plus", tmp_path / "none", part="test")
    assert datamodule.label_files == {"ovlabel.csv": 532}
    datamodule = build("ovmerd_plus", tmp_path / "c")
    clips = by_id(datamodule)
    assert clips["ov_0000"].labels == {"openset": ["happy", "excited"]}
    assert clips["ov_0000"].text is None
    assert clips["ov_0001"].text == "said ov_0001"
    assert clips["ov_0002"].labels == {}, "an empty set is no label, and never neutral"
    assert sizes(datamodule) == {"train": 9, "val": 1, "test": 2}
    assert "1 clips have an empty label set and count as unlabelled" in datamodule.index.notes
    assert [(e.id, e.kind) for e in datamodule.index.ledger] == [("ov_0002", "unknown")]
    assert "ovmerd_plus train has 12 samples; the official count is 532" in datamodule.index.notes
    assert datamodule.index.classes["openset"][:2] == ["excited", "happy"]


def test_a_model_of_another_dataset_scores_it(tmp_path):
    trained = build("mercaption_plus", tmp_path / "m")
    trained.build_index()
    datamodule = build("ovmerd_plus", tmp_path / "c", part="test", tasks=trained.tasks)
    assert list(datamodule.index.samples) == ["test"]
    batch = next(iter(datamodule.loader("test")))
    assert batch.labels["openset"].mask.tolist() == [True, True, False, True]


def test_training_sets_have_reasons(tmp_path):
    datamodule = build("mercaption_plus", tmp_path / "c")
    assert datamodule.samples()[3].descriptions == {"rationale": "because, 3"}
    assert "mercaption_plus train has 14 samples; the official count is 31327" in datamodule.index.notes
    root = mercaption(tmp_path / "o")
    for k in (2, 3):
        (root / f"track{k}_train_mercaptionplus.csv").rename(root / f"track{k}_train_ovmerd.csv")
    assert (
        "mercaption_plus train has 14 samples; the official count is 332" in build("mercaption_plus", root).index.notes
    )
    write_table(root / "own.csv", "name,openset", [("ov_0001", "happy")])
    assert bare("mercaption_plus", root, labels="own.csv").official() == {}
