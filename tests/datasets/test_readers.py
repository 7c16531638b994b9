"""Label tables: csv faults, MERTools' normal form, files by name whatever their ending."""

from __future__ import annotations

import numpy as np
import pytest

from hero_lightning.datasets.folder import read_record
from hero_lightning.datasets.mosei import read_csd
from hero_lightning.datasets.readers import label_file, media_in, read_json, read_normal_form
from hero_lightning.datasets.shards import read_index
from hero_lightning.errors import DataError, FeatureError
from tests.datasets.official_trees import write, write_normal


def test_normal_form(tmp_path):
    path = write_normal(
        tmp_path / "label.npz",
        {"a": "it’s me", "b": ""},
        train={"a": {"emo": "sad", "val": -10}, "b": {"emo": 3, "val": -1.5}},
        valid={"c": {"emo": 0}},
        whole={},
    )
    rows = {r.name: r for r in read_normal_form(path)}
    assert rows["a"][:4] == ("train", "a", "sad", None), "-10 says that there is none"
    assert rows["a"].texts == {"chinese": "说 it's me", "english": "it's me"}
    assert rows["b"].val == -1.5
    assert rows["b"].texts == {"chinese": "说"}
    assert (rows["c"].split, rows["c"].val, rows["c"].texts) == ("val", None, {})


@pytest.mark.parametrize("table", [{"a": {"val": 1.0}}, {"a": 3}])
def test_entries_of_another_form(tmp_path, table):
    with pytest.raises(DataError, match="not of MERTools' form") as caught:
        read_normal_form(write_normal(tmp_path / "label.npz", train=table))
    assert "a:" in str(caught.value)


def test_a_label_file_that_runs_code_is_refused(tmp_path):
    np.savez(tmp_path / "label.npz", train_dataset=np.array(print, dtype=object))
    with pytest.raises(FeatureError, match="wants to run code"):
        read_normal_form(tmp_path / "label.npz")


def test_media_by_name(tmp_path):
    assert media_in(tmp_path, ("video",))("a") is None
    for name in ("a.mp4", "b.mp4", "c.avi", "._d.mp4"):
        write(tmp_path / "video_new" / name, "")
    find = media_in(tmp_path, ("video", "video_new"))
    assert [find(n).path.name for n in "abcd"] == ["a.mp4", "b.mp4", "c.avi", "d.mp4"]


@pytest.mark.parametrize(
    ("target", "call"),
    [
        ("hero_lightning.datasets.folder.Media", lambda root: read_record({"video_id": "a", "video": "a.mp4"}, "x")),
        ("hero_lightning.datasets.shards.tarfile.open", lambda root: read_index(root)),
        ("h5py.File", lambda root: read_csd(root / "a.csd")),
    ],
)
def test_the_cause_of_another_library_is_shown(tmp_path, monkeypatch, target, call):
    def fails(*_, **__):
        raise ValueError("needs version 9")

    write(tmp_path / "a.tar", "")
    monkeypatch.setattr(target, fails)
    with pytest.raises(DataError, match=r"got: +ValueError: needs version 9"):
        call(tmp_path)


def test_errors_of_json_other_than_its_syntax_pass(tmp_path, monkeypatch):
    def fails(_):
        raise ValueError("needs version 9")

    monkeypatch.setattr("hero_lightning.datasets.readers.json.loads", fails)
    with pytest.raises(ValueError, match="needs version 9"):
        read_json(write(tmp_path / "a.json", "{}"))


def test_label_file(tmp_path):
    write(tmp_path / "b.csv", "")
    assert label_file(tmp_path, ("a.csv", "b.csv"), "x").name == "b.csv"
    with pytest.raises(DataError, match="No label file of x") as caught:
        label_file(tmp_path, ("a.csv", "c.csv"), "x")
    assert "a.csv or c.csv, see docs/data/x.md" in str(caught.value)
