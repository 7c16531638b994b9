"""VCE: labels by name, validation apart from training, the majority oracle."""

from __future__ import annotations

import json

import pytest
import torch

from hero_lightning.datasets.vce import EMOTIONS, check_record
from hero_lightning.errors import DataError
from hero_lightning.metrics import distribution
from hero_lightning.tasks import ClassTask, DistributionTask
from hero_lightning.types import Label
from tests.datasets.official_trees import bare, build, vce, vce_record

COUNTS = {
    "train": [3040, 5470, 4350, 5790, 327, 340, 1705, 494, 6461, 566, 1313, 897, 490, 2341, 78, 196, 1387, 332, 3825,
              2307, 140, 141, 1531, 420, 2259, 164, 3636],
    "test": [672, 1174, 1001, 1228, 68, 73, 337, 101, 1509, 110, 286, 195, 125, 520, 10, 43, 320, 78, 852, 546, 36, 33,
             335, 88, 494, 32, 780],
}  # fmt: skip
"""Arg-max labels of the official files."""


def test_label_order():
    assert list(EMOTIONS) == sorted(EMOTIONS)
    assert len(EMOTIONS) == 27
    task = DistributionTask("emotions", EMOTIONS)
    records = [vce_record("00001"), vce_record("00001")]
    shuffled = dict(reversed(records[1]["emotions"].items()))
    codes = [task.encode(check_record("00001", {"emotions": e}, "x"), "x") for e in (records[0]["emotions"], shuffled)]
    assert list(records[0]["emotions"]) != list(shuffled)
    assert codes[0] == codes[1]
    lacking = {k: v for k, v in shuffled.items() if k != "Joy"}
    with pytest.raises(DataError, match="VCE record has another form") as caught:
        check_record("00001", {"emotions": lacking}, "file, id 00001")
    assert "missing ['Joy']" in str(caught.value)
    with pytest.raises(DataError, match="VCE record has another form") as caught:
        check_record("00001", {"emotions": {**shuffled, "Rage": 0.1}}, "file, id 00001")
    assert "unknown ['Rage']" in str(caught.value)


def test_readme_example(tmp_path):
    root = vce(tmp_path / "c")
    top = {"Admiration": 0.4417, "Adoration": 0.3, "Awe (or Wonder)": 0.2}
    record = {
        "emotions": {e: top.get(e, 0.0) for e in reversed(EMOTIONS)},
        "file": "videos/00000.mp4",
        "topK": list(top),
    }
    path = root / "train_labels.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"00000": record}))
    sample = build("vce", root).index.samples["train"][0]
    assert sample.id == "00000"
    assert sample.labels["emotion"] == "Admiration"
    assert EMOTIONS.index("Admiration") == 0
    assert sample.labels["topk"] == ["Admiration", "Adoration", "Awe (or Wonder)"]
    assert sample.labels["emotions"]["Admiration"] == 0.4417
    assert sample.video.path == root / "videos" / "00000.mp4"


def test_ties_go_to_the_first_of_the_alphabet(tmp_path):
    root = vce(tmp_path / "c")
    (root / "train_labels.json").write_text(json.dumps({"00000": {"emotions": dict.fromkeys(EMOTIONS, 0.5)}}))
    assert bare("vce", root).samples()[0].labels["emotion"] == "Admiration"


def test_majority_oracle():
    train, test = (torch.tensor(COUNTS[k]) for k in ("train", "test"))
    assert (int(train.sum()), int(test.sum())) == (50_000, 11_046)
    assert {EMOTIONS[i] for i in train.topk(3).indices} == {"Boredom", "Amusement", "Adoration"}
    truth = torch.eye(27)[torch.arange(27).repeat_interleave(test)]
    constant = (train / train.sum()).expand(len(truth), -1)
    found = distribution.metrics(distribution.statistics(constant, truth).sum(dim=0), 27)
    assert float(found["acc_true1_in_pred3"]) == pytest.approx(3911 / 11046)
    assert float(found["acc_true1_in_pred3"]) == pytest.approx(0.354065, abs=5e-7)
    task = ClassTask("emotion", EMOTIONS)
    label = Label(truth.argmax(dim=-1), torch.ones(len(truth), dtype=torch.bool))
    assert task.metrics(constant, label)["accuracy"] == pytest.approx(0.136611, abs=5e-7)


def test_validation_is_no_part_of_training(tmp_path):
    index = build("vce", tmp_path / "c").index
    ids = {k: {s.id for s in v} for k, v in index.samples.items()}
    assert {k: len(v) for k, v in ids.items()} == {"train": 8, "val": 4, "test": 5}
    assert not ids["train"] & ids["val"]
    assert ids["val"] == {f"{k}" for k in range(45_000, 45_004)}
    assert index.split_origin["val"] == "given by the dataset"
    assert "vce val has 4 samples; the official count is 5000" in index.notes


def test_an_unreadable_test_clip(tmp_path):
    """The run stops and names the clip; under another policy it is left out and listed. Never another clip's row."""
    broken = build("vce", tmp_path / "c")
    (tmp_path / "c" / "features" / "50001.npy").write_bytes(b"broken")
    with pytest.raises(DataError, match="1 clips lack a modality") as caught:
        broken.build_index()
    assert "50001 (test) frame: broken" in str(caught.value)
    index = bare("vce", tmp_path / "c", missing="mask").index
    assert [s.id for s in index.samples["test"]] == ["50000", "50002", "50003", "50004"]
    assert ("50001", "dropped") in {(e.id, e.kind) for e in index.ledger}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "another form"),
        ({"7": {"emotions": {}}}, "VCE record has another form"),
        ({"00007": {"file": "x"}}, "VCE record has another form"),
    ],
)
def test_bad_label_files(tmp_path, content, problem):
    (tmp_path / "train_labels.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=problem) as caught:
        bare("vce", tmp_path).build_index()
    assert "train_labels.json" in str(caught.value)
