"""Atomic and csv writing; errors of the operating system and of libraries appear in our messages."""

from __future__ import annotations

import contextlib
import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hero_lightning.errors import DataError, FeatureError
from hero_lightning.features import files
from hero_lightning.features.files import atomic, check_zip, write_atomic, write_csv
from hero_lightning.features.foreign import safe_pickle
from hero_lightning.features.foreign.safe_pickle import load_features
from hero_lightning.features.foreign.tables import NpyFolder, read_csv
from hero_lightning.features.manifest import diff, read_manifest
from hero_lightning.media import npy
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
        patch.setattr(safe_pickle, "_content", raises(said))
        with pytest.raises(FeatureError, match="ValueError: needs version 9"):
            load_features(tmp_path / "a.npy")
    with monkeypatch.context() as patch:
        patch.setattr(npy, "read_header", raises(said))
        with pytest.raises(FeatureError, match="ValueError: needs version 9"):
            NpyFolder(tmp_path).value(Sample("a", "train"))
    with monkeypatch.context() as patch:
        patch.setattr(csv.DictReader, "__next__", raises(csv.Error("needs version 9")))
        with pytest.raises(DataError, match=r"table cannot be parsed[\s\S]*Error: needs version 9"):
            list(read_csv(tmp_path / "a.csv"))


def test_a_changed_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"w": torch.arange(2000.0)}, path)
    check_zip(path)
    intact, draw = path.read_bytes(), random.Random(0)
    for _ in range(100):
        data = bytearray(intact)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            check_zip(path)
        except ValueError:
            continue
        with contextlib.suppress(RuntimeError):  # bytes between the records
            assert torch.equal(torch.load(path, weights_only=True)["w"], torch.arange(2000.0))
    path.write_bytes(intact[:-10])
    with pytest.raises(ValueError, match="BadZipFile"):
        check_zip(path)
