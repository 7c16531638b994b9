"""Atomic and csv writing; errors of the operating system and of libraries appear in our messages."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors

from hero_lightning.errors import DataError, FeatureError
from hero_lightning.features import files
from hero_lightning.features.files import atomic, write_atomic, write_csv
from hero_lightning.features.foreign import safe_pickle
from hero_lightning.features.foreign.safe_pickle import load_features
from hero_lightning.features.foreign.tables import NpyFolder, read_csv
from hero_lightning.features.manifest import diff, read_manifest
from hero_lightning.features.store import Store
from hero_lightning.types import Sample


def raises(error: Exception):
    def call(*_: object, **__: object):
        raise error

    return call


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.json"
    write_atomic(path, b"one")
    with pytest.raises(TypeError), atomic(path) as file:
        file.write("text")
    monkeypatch.setattr(files.os, "replace", raises(OSError("needs version 9")))
    with pytest.raises(DataError, match=r"cannot be written[\s\S]*OSError: needs version 9[\s\S]*a\.json"):
        write_atomic(path, b"two")
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == [("a.json", b"one")]


@dataclass
class Row:
    id: str
    count: int | None


def test_csv_of_rows_and_of_dataclasses(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, ("id", "text"), [("a", 'x, "y"\nz')])
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "text"], ["a", 'x, "y"\nz']]
    write_csv(path, Row, [Row("a", 1)])
    write_csv(path, Row, [Row("b", None)], append=True)
    assert path.read_bytes() == b"id,count\r\na,1\r\nb,\r\n"


def test_differences_of_identities() -> None:
    assert diff({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == ("a.c=2, d=None", "a.c=3, d=4")
    assert diff({"a": 1}, {"a": 1}) == ("", "")


def test_the_cause_of_a_foreign_error_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ValueError("needs version 9")
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "a.npy").write_bytes(b"x")
    (tmp_path / "a.csv").write_text("name,x\na,1\n")
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", raises(said))
        with pytest.raises(FeatureError, match="ValueError: needs version 9"):
            read_manifest(tmp_path / "manifest.json")
    with monkeypatch.context() as patch:
        patch.setattr(safe_pickle, "_array", raises(said))
        with pytest.raises(FeatureError, match="ValueError: needs version 9"):
            load_features(tmp_path / "a.npy")
    with monkeypatch.context() as patch:
        patch.setattr("numpy.load", raises(said))
        with pytest.raises(FeatureError, match="ValueError: needs version 9"):
            NpyFolder(tmp_path).value(Sample("a", "train"))
    with monkeypatch.context() as patch:
        patch.setattr(csv.DictReader, "__next__", raises(csv.Error("needs version 9")))
        with pytest.raises(DataError, match=r"table cannot be parsed[\s\S]*Error: needs version 9"):
            list(read_csv(tmp_path / "a.csv"))
    with monkeypatch.context() as patch:
        patch.setattr(safetensors, "safe_open", raises(OSError("needs version 9")))
        with pytest.raises(FeatureError, match="OSError: needs version 9"):
            Store(tmp_path)._opened("part-00000.safetensors")
