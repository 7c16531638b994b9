"""Reads a prediction file: ours (predictions.csv) or somebody's csv, json, jsonl or npz.

Data flow: file -> records -> id -> row, checked against the ids of the corpus.

A clip that the file does not name is reported; an unknown id, or one given twice, is an error. Nothing in a file runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hero_lightning.data.folder import read_json
from hero_lightning.data.types import Sample
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.streams.npydict import load_features
from hero_lightning.streams.tables import read_csv

log = logging.getLogger(__name__)

ID_COLUMNS = ("id", "video_id", "name", "ids", "names", "filenames")
"""What files call their ids, where the configuration does not say."""
Rows = dict[str, dict[str, Any]]


def read_rows(
    path: Path, columns: Mapping[str, str], samples: Sequence[Sample], split: str
) -> tuple[Rows, list[Sample], list[str]]:
    """The rows of a prediction file that belong to a split, the split's samples, and the ids without a row.

    Args:
        path: .csv, .tsv, .json, .jsonl or .npz (arrays of one length, or dicts id -> value).
        columns: `id` = the column of ids, if it has another name than usual.
        samples: of the whole corpus.
        split: the one that is scored; rows of other splits are left out and counted.

    Raises:
        ConfigError: the corpus has no such split.
        DataError: no file, another form, ids unknown to the corpus, or given twice.
    """
    if not path.is_file():
        raise DataError("There is no such prediction file.", expected="a file", got=path, where="predictions")
    own = [s for s in samples if s.split == split]
    if not own:
        have = ", ".join(sorted({s.split for s in samples}))
        raise ConfigError("The corpus has no such split.", expected=have, got=split, where="split")
    rows = _records(path, columns)
    head = list(dict.fromkeys(k for row in rows for k in row))
    key = columns.get("id") or next((c for c in ID_COLUMNS if c in head), None)
    if key not in head:
        expected = key or " or ".join(ID_COLUMNS)
        raise DataError(
            "The file has no column of ids.", expected=expected, got=head, where=path, mend="columns.id=NAME"
        )
    split_of = {s.id: s.split for s in samples}
    out: Rows = {}
    others = 0
    for number, row in enumerate(rows, start=1):
        name, place = str(row[key]) if row.get(key) is not None else "", f"{path}, row {number}"
        if name not in split_of:
            expected = f"ids of the corpus, e.g. {next(iter(split_of))}"
            raise DataError("The file names a clip the corpus does not have.", expected=expected, got=name, where=place)
        if name in out:
            raise DataError("The file names a clip twice.", expected="every id once", got=name, where=place)
        others += split_of[name] != split
        if split_of[name] == split:
            out[name] = row
    if others:
        log.info("%d rows of %s belong to other splits than %s", others, path, split)
    missing = [s.id for s in own if s.id not in out]
    if missing:
        few = ", ".join(missing[:5])
        log.warning("%d of %d clips have no row in %s and count as wrong: %s ...", len(missing), len(own), path, few)
    return out, own, missing


def _records(path: Path, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    if path.suffix == ".npz":
        content: Any = load_features(path)
    elif path.suffix == ".json":
        content = read_json(path)
    elif path.suffix == ".jsonl":
        lines = enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1)
        content = [_line(line, f"{path}, line {n}") for n, line in lines if line.strip()]
    elif path.suffix in (".csv", ".tsv"):
        content = [row for _, row in read_csv(path)]
    else:
        raise DataError("A prediction file of an unknown kind.", expected="csv, tsv, json, jsonl or npz", got=path.name)
    if isinstance(content, dict):
        if path.suffix == ".json":
            content = {"prediction": content}
        if any(isinstance(v, dict) for v in content.values()):  # id -> answer
            named: Rows = {}
            for column, values in content.items():
                for name, value in values.items() if isinstance(values, dict) else ():
                    row = value if isinstance(value, dict) else {column: value}
                    named.setdefault(str(name), {columns.get("id", "id"): str(name)}).update(row)
            return list(named.values())
        sizes = {k: len(v) for k, v in content.items() if isinstance(v, np.ndarray) and v.ndim}
        if len(set(sizes.values())) != 1:
            raise DataError("The arrays differ in length.", expected="one row per clip", got=sizes, where=path)
        content = [dict(zip(sizes, row, strict=True)) for row in zip(*(content[k] for k in sizes), strict=True)]
    if not isinstance(content, list) or not content or not all(isinstance(r, dict) for r in content):
        raise DataError("The prediction file holds no rows.", expected="records with an id", where=path)
    return content


def _line(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"A line is not JSON: {error.msg}.", got=text[:80], where=place) from error


def columns_of(rows: Rows) -> list[str]:
    """Every column that some row has."""
    return list(dict.fromkeys(k for row in rows.values() for k in row))


def plain(value: Any) -> Any:
    """A cell in builtins."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
