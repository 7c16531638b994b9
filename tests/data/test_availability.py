"""Policies for what is missing, the availability table, the run folder's files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hero_lightning.data.availability import KNOWN, DatasetIndex, Entry, apply_policy, check_all, describe, tabulate
from hero_lightning.errors import DataError
from hero_lightning.features.source import Availability
from hero_lightning.types import Media, Sample

READ, LIVE = Availability("preextracted", "store"), Availability("realtime")
ABSENT, BROKEN = Availability("absent", "no sound"), Availability("broken", "file is empty: /x/c.mp4")
SAMPLES = [Sample(name, "train") for name in "abcd"]
FOUND = {
    "a": {"audio": READ, "text": LIVE},
    "b": {"audio": BROKEN, "text": LIVE},
    "c": {"audio": ABSENT, "text": ABSENT},
    "d": {"audio": Availability("broken", KNOWN), "text": LIVE},
}


class FakeModality:
    """Resolves by a table."""

    def __init__(self, name, table):
        self.name, self.table = name, table

    def availability(self, sample):
        return self.table[sample.id][self.name]


def test_mask_keeps_what_has_one_modality():
    kept, ledger = apply_policy(SAMPLES, FOUND, "mask")
    assert [s.id for s in kept] == ["a", "b", "d"]
    assert Entry("b", "train", "audio", "broken", "file is empty: /x/c.mp4") in ledger
    assert Entry("c", "train", "", "dropped", "no modality is present") in ledger
    assert len(ledger) == 5


def test_skip_leaves_out_but_keeps_official_rows():
    kept, ledger = apply_policy(SAMPLES, FOUND, "skip")
    assert [s.id for s in kept] == ["a", "d"]
    assert Entry("b", "train", "", "dropped", "lacks audio") in ledger


def test_error_lists_the_first_five_and_counts():
    many = [Sample(f"n{k}", "val") for k in range(8)]
    with pytest.raises(DataError) as caught:
        apply_policy(many, {s.id: {"audio": ABSENT, "text": LIVE} for s in many}, "error")
    message = str(caught.value)
    assert "8 clips lack a modality (8 gaps)" in message
    assert "n4 (val) audio: absent, no sound" in message
    assert "n5" not in message
    assert "and 3 more" in message
    assert "dataset.missing=mask" in message


def test_what_nobody_extracted_comes_first_with_its_command(caplog):
    found = {s.id: {"audio": ABSENT, "text": LIVE} for s in SAMPLES}
    found["c"] = {"audio": Availability("absent", "not extracted: python -m x"), "text": LIVE}
    with pytest.raises(DataError, match=r"c \(train\) audio: absent, not extracted: python -m x\n +a \(train\)"):
        apply_policy(SAMPLES, found, "error")
    assert "audio: 1 clips are not extracted: python -m x" in caplog.text


def test_error_passes_over_what_the_release_broke():
    kept, ledger = apply_policy([SAMPLES[0], SAMPLES[3]], FOUND, "error")
    assert len(kept) == 2
    assert [e.reason for e in ledger] == [KNOWN]


def test_check_all_masks_known_broken_media_but_not_words():
    modalities = {name: FakeModality(name, dict.fromkeys("abcd", FOUND["a"])) for name in ("audio", "text")}
    found = check_all(modalities, SAMPLES, frozenset({"b"}))
    assert list(found) == list("abcd")
    assert found["b"] == {"audio": Availability("broken", KNOWN), "text": LIVE}
    assert found["c"] == FOUND["a"]
    assert check_all(modalities, []) == {}


def test_table_counts_reasons_without_the_clips_own_paths():
    samples = [Sample(f"c{k}", "train", video=Media(Path(f"/d/c{k}.mp4"))) for k in range(3)]
    found = {s.id: {"frame": Availability("broken", f"file is empty: {s.video.path}")} for s in samples}
    (row,) = tabulate(samples, found)
    assert (row.modality, row.split, row.mode, row.count) == ("frame", "train", "broken", 3)
    assert row.reason == "file is empty: <clip>"
    found = {s.id: {"audio": Availability("broken", f"cut off /d/{s.id}.npy [hubert]")} for s in samples}
    assert [c.reason for c in tabulate(samples, found)] == ["cut off /d/<clip>.npy [hubert]"]
    assert describe(tabulate(SAMPLES, FOUND)) == {
        "audio": "train 2 broken, train 1 absent, train 1 preextracted", "text": "train 3 realtime, train 1 absent",
    }  # fmt: skip


def index(**changes):
    kept, ledger = apply_policy(SAMPLES, FOUND, "mask")
    table = tabulate(SAMPLES, FOUND)
    origin = {"train": "given by the dataset"}
    values = dict(
        dataset="x", samples={"train": kept}, availability=FOUND, dims={"audio": 4}, classes={"emotion": ["é"]}
    )
    return DatasetIndex(**values, table=table, ledger=ledger, split_origin=origin, notes=["a note"], **changes)


def test_plan_files(tmp_path):
    made = index()
    made.write(tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "index.json").read_text())
    assert kept["counts"] == {"train": 3}
    assert kept["not_used"] == {"broken": 2, "absent": 2, "dropped": 1}
    assert (kept["classes"], kept["dims"], kept["notes"]) == ({"emotion": ["é"]}, {"audio": 4}, ["a note"])
    assert json.loads((tmp_path / "run" / "splits.json").read_text()) == {"train": ["a", "b", "d"]}
    with (tmp_path / "run" / "availability.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(r["count"]) for r in rows if r["modality"] == "audio") == 4
    assert rows[0].keys() == {"modality", "split", "mode", "count", "reason"}


def test_failures_are_listed_once(tmp_path, caplog):
    made = index()
    made.write(tmp_path)
    failure = Entry("a", "train", "audio", "failed", "cut off, at 3 s")
    for _ in range(3):
        made.record([failure])
    assert made.ledger.count(failure) == 1
    with (tmp_path / "ledger.csv").open() as file:
        assert [r for r in csv.DictReader(file) if r["kind"] == "failed"] == [
            {"id": "a", "split": "train", "modality": "audio", "kind": "failed", "reason": "cut off, at 3 s"}
        ]
    assert caplog.text.count("audio of a left out: cut off") == 1
    made.write(tmp_path)
    assert "cut off" in (tmp_path / "ledger.csv").read_text()


def test_only_the_first_rank_writes(tmp_path, monkeypatch):
    from pytorch_lightning.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    made = index()
    made.write(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert made.folder == tmp_path / "run"
