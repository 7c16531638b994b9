"""Mind wandering: one fold is the test, participants stay on one side."""

from __future__ import annotations

import pytest
import torch

from hero_lightning.datasets.mind_wandering import CLASSES
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.reasoning.answers import parse
from hero_lightning.tasks import ClassTask
from tests.datasets.official_trees import bare, build, mind_wandering, write_table

STATE = {"state": ClassTask("state", class_weights="balanced")}


def test_folds_and_inner_validation(tmp_path):
    datamodule = build("mind_wandering", tmp_path / "c", fold=2)
    people = {k: {s.speaker for s in rows} for k, rows in datamodule.index.samples.items()}
    assert people["test"] == {"P01", "P04", "P07"}
    assert len(people["val"]) == 1
    assert not people["train"] & people["val"]
    assert "by whole speakers" in datamodule.index.split_origin["val"]
    assert {s.id for s in datamodule.index.samples["test"]} == {f"p{p}_c{c}" for p in (1, 4, 7) for c in range(3)}
    assert datamodule.index.samples["test"][1].video.path == tmp_path / "c" / "videos" / "p1_c1.mp4"
    assert datamodule.index.classes["state"] == list(CLASSES)


def test_participant_overlap_raises(tmp_path):
    root = mind_wandering(tmp_path / "c")
    path = root / "labels.csv"
    path.write_text(path.read_text().replace("p1_c0,NonMW,2,P01", "p1_c0,NonMW,2,P00"))
    with pytest.raises(DataError, match="speakers are in more than one") as caught:
        bare("mind_wandering", root).build_index()
    assert "P00 in" in str(caught.value)


def test_weights_come_from_the_training_part_only(tmp_path):
    root = mind_wandering(tmp_path / "c")
    path = root / "labels.csv"
    lines = path.read_text().splitlines()
    # every clip of the test fold is MW: counted over the whole table the weights would be others
    path.write_text("\n".join(line.replace("NonMW,1", "MW,1") for line in lines) + "\n")
    datamodule = build("mind_wandering", root, tasks=STATE)
    train = [s.labels["state"] for s in datamodule.index.samples["train"]]
    share = train.count("mind wandering") / len(train)
    assert share == pytest.approx(1 / 3)
    torch.testing.assert_close(datamodule.tasks["state"].prior, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))
    loss = datamodule.tasks["state"].row_loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    torch.testing.assert_close(loss / torch.log(torch.tensor(2.0)), torch.tensor([0.75, 1.5]))  # N / (2 n_c)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("form", ['{{"final_emotion": "{}"}}', '{{"final_emotion": "{}."}}', "The reader is {}."])
def test_label_text_round_trips(name, form):
    assert parse(form.format(name), CLASSES).label == name


def test_without_participants_the_run_says_so(tmp_path):
    root = mind_wandering(tmp_path / "c", header="uuid,mw_label,test_fold_num")
    assert "27 clips have no participant" in " ".join(build("mind_wandering", root).index.notes)


def test_other_column_names(tmp_path):
    root = mind_wandering(tmp_path / "c", header="clip,state,fold,person")
    datamodule = build("mind_wandering", root, id_column="clip", label_column="state", fold_column="fold",
                 participant_column="person")  # fmt: skip
    assert datamodule.index.samples["test"][0].speaker == "P00"


def test_bad_tables(tmp_path):
    root = mind_wandering(tmp_path / "c")
    with pytest.raises(ConfigError, match=r"Unknown dataset\.fold") as wrong:
        bare("mind_wandering", root, fold=4).build_index()
    assert "1, 2, 3" in str(wrong.value)
    for row in (("a", "maybe", "1"), ("a", "MW", "one")):
        write_table(root / "labels.csv", "uuid,mw_label,test_fold_num", [row])
        with pytest.raises(DataError, match="row has another label or fold") as caught:
            bare("mind_wandering", root).build_index()
        assert "line 2" in str(caught.value)
