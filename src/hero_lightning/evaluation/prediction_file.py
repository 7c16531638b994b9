"""Reads a prediction file: ours (predictions.csv) or somebody's csv, json, jsonl or npz.

Data flow: file -> records -> id -> row, checked against the ids of the dataset.

A clip that the file does not name is reported; an unknown id, or one given twice, is an error. Nothing in a file runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.datasets.readers import read_json
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.foreign.safe_pickle import load_features
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.metrics.table import Predictions
from hero_lightning.tasks import ScoreTask, Task
from hero_lightning.tasks.base import InvalidLabel, number
from hero_lightning.types import Label, Sample

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
        samples: of the whole dataset.
        split: the one that is scored; rows of other splits are left out and counted.

    Raises:
        ConfigError: the dataset has no such split.
        DataError: no file, another form, ids unknown to the dataset, or given twice.
    """
    if not path.is_file():
        raise DataError("There is no such prediction file.", expected="a file", got=path, where="predictions")
    own = [s for s in samples if s.split == split]
    if not own:
        have = ", ".join(sorted({s.split for s in samples}))
        raise ConfigError("The dataset has no such split.", expected=have, got=split, where="split")
    rows = _records(path, columns)
    head = list(dict.fromkeys(k for row in rows for k in row))
    key = columns.get("id") or next((c for c in ID_COLUMNS if c in head), None)
    if key not in head:
        expected = key or " or ".join(ID_COLUMNS)
        raise DataError(
            "The file has no column of ids.", expected=expected, got=head, where=path, hint="columns.id=NAME"
        )
    split_of = {s.id: s.split for s in samples}
    out: Rows = {}
    others = 0
    for line, row in enumerate(rows, start=1):
        name, place = str(row[key]) if row.get(key) is not None else "", f"{path}, row {line}"
        if name not in split_of:
            expected = f"ids of the dataset, e.g. {next(iter(split_of))}"
            raise DataError(
                "The file names a clip the dataset does not have.", expected=expected, got=name, where=place
            )
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


def predictions(
    samples: Sequence[Sample],
    tasks: Mapping[str, Task],
    rows: Rows,
    columns: Mapping[str, str],
    names: Mapping[str, str],
) -> dict[str, Predictions]:
    """The file's answers to every Task it answers.

    Args:
        columns: Task name -> its column; else <task>_p_<class>, <task>_prediction or <task>.
        names: classes as the file calls them -> as the dataset does.
    """
    have = columns_of(rows)
    found: dict[str, Predictions] = {}
    for name, task in tasks.items():
        if task.kind == "open":
            log.warning("task %s is not scored here: answers=open does", name)
            continue
        parts = [f"{name}_p_{c}" for c in task.classes if name not in columns]
        usual = [columns[name]] if name in columns else [f"{name}_prediction", name]
        column = next((c for c in usual if c in have), None)
        whole = bool(parts) and set(parts) <= set(have)
        if not whole and column is None:
            log.warning("task %s is not scored: no column %s", name, " or ".join(usual))
            continue
        label = task.collate([s.labels.get(task.name) for s in samples], [s.id for s in samples])
        prediction = _worst(task, label)
        for i, s in enumerate(samples):
            row = rows.get(s.id, {})
            value = [row.get(c) for c in parts] if whole else plain(row.get(column or ""))
            if not any(v is None or v == "" for v in (value if whole else [value])):
                prediction[i] = _coded(task, value, names, s.id, whole)
        found[name] = Predictions(torch.arange(len(samples)), prediction, label)
    if not found:
        expected = ", ".join(f"{n}_prediction" for n in tasks)
        hint = "columns.TASK=NAME, or answers=open"
        raise ConfigError("The file answers no task.", expected=expected, got=have, where="columns", hint=hint)
    return found


def _coded(task: Task, value: Any, names: Mapping[str, str], place: str, whole: bool) -> Tensor:
    """One answer (`whole`: C cells) -> [C]; numbers that are no shares are taken as logits."""
    try:
        if isinstance(value, list) and (whole or not any(isinstance(v, str) for v in value)):
            row = torch.tensor([number(v) for v in value])
            if len(row) != task.outputs:
                raise InvalidLabel("Wrong number of values", task.outputs, len(row))
            logits = task.kind in ("class", "distribution") and (row.min() < 0 or abs(float(row.sum()) - 1) > 1e-3)
            return row.softmax(dim=-1) if logits else row
        if task.kind in ("score", "pair"):
            return torch.tensor([number(value)])
        if isinstance(value, str):
            value = names.get(value, value) if task.kind == "class" else [v for v in value.split("|") if v]
        code = torch.tensor(task.encode_label(value))
        return F.one_hot(code, task.outputs) if task.kind == "class" else code
    except InvalidLabel as error:
        problem, expected, got = error.args
        raise DataError(f"{problem} in the prediction file.", expected=expected, got=got, where=place) from None


def _worst(task: Task, label: Label) -> Tensor:
    """Answers [N, C] that are wrong whatever the figure: what a clip without an answer counts as."""
    y = label.value
    if isinstance(task, ScoreTask):  # the far end of the scale
        return torch.where(y > task.middle, task.low, task.high).unsqueeze(-1)
    if task.kind == "distribution":
        return F.one_hot(y.argmin(dim=-1), task.outputs).float()
    if task.kind == "multilabel":
        return 1 - y
    return torch.full((len(y), task.outputs), torch.nan if task.kind == "pair" else 0.0)
