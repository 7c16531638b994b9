"""Finished runs, read back: what varies between them, and their predictions by row of a table.

Data flow: folders -> [Run] -> rows by what varies (label -> runs) -> Fits of every row -> `comparison.rows`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from hero_lightning.errors import ConfigError, DataError, cause
from hero_lightning.evaluation.comparison import Answers, Fits
from hero_lightning.evaluation.prediction_file import predictions
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.tasks import Task
from hero_lightning.types import Sample

log = logging.getLogger(__name__)

IGNORED = (
    "seed",
    "name",
    "choices.",
    "paths.",
    "hydra.",
    "logger",
    "launcher",
    "gpu_lease",
    "callbacks",
    "resume",
    "debug",
    "skip_done",
    "choices.",
    "dataset.num_workers",
)
"""Keys that do not make a row of their own: where a run lies, how it is logged, and the seed."""  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        folder: its run folder.
        config: resolved config, flat: "model.width" -> 128.
        overrides: what its command line set, key -> value as typed.
        results: content of its metrics.json.
    """

    folder: Path
    config: Mapping[str, Any]
    overrides: Mapping[str, str]
    results: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config.get("seed", 0))

    def answers(self, task: Task, split: str) -> Answers:
        """Its predictions on the labelled clips of a split, from predictions.csv.

        Raises:
            DataError: the file is missing, or has no row of this split.
        """
        path = self.folder / "predictions.csv"
        if not path.is_file():
            raise DataError("A run has no predictions.", expected="predictions.csv", where=self.folder)
        rows = {row["id"]: row for _, row in read_csv(path) if row["split"] == split}
        truth = {k: row.get(f"{task.name}_truth") for k, row in rows.items()}
        samples = [Sample(k, split, labels={task.name: _label(task, v)}) for k, v in truth.items() if v]
        if not samples:
            raise DataError("A run has no labelled predictions of this split.", expected=f"rows of {split}", where=path)
        found = predictions(samples, {task.name: task}, rows, {}, {})[task.name]
        return Answers.sorted([s.id for s in samples], found.label.value, found.prediction)


def _label(task: Task, text: str) -> Any:
    if task.kind == "class":
        return text
    return float(text) if task.kind == "score" else text.split("|")


def find(places: Sequence[Path]) -> tuple[list[Run], list[Path]]:
    """The finished runs below some folders, and the folders of runs that left no result.

    Raises:
        ConfigError: a folder does not exist, or none of them holds a finished run.
    """
    runs, unfinished = [], []
    for place in places:
        if not place.is_dir():
            raise ConfigError(
                "There is no such folder of runs.", expected="a run folder or a sweep's", got=place, where="run"
            )
        for overrides in sorted(place.rglob(".hydra/overrides.yaml")):
            folder = overrides.parents[1]
            if (folder / "metrics.json").is_file() and (folder / "config.yaml").is_file():
                runs.append(_read(folder, overrides))
            elif (folder / "multirun.yaml").is_file() is False:
                unfinished.append(folder)
    if not runs:
        got = f"{len(unfinished)} unfinished runs" if unfinished else "no run"
        raise ConfigError(
            "Nothing to report.", expected="runs with metrics.json", got=got, where=", ".join(map(str, places))
        )
    return runs, unfinished


def _read(folder: Path, overrides: Path) -> Run:
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        given = yaml.safe_load(overrides.read_text(encoding="utf-8")) or []
        results = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, json.JSONDecodeError) as error:
        raise DataError("A run folder cannot be read.", got=cause(error), where=folder) from error
    return Run(folder, _flat(config), dict(o.lstrip("+~").partition("=")[::2] for o in given), results)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists are values."""
    if not isinstance(node, Mapping):
        return {prefix.rstrip("."): node}
    return {k: v for key, child in node.items() for k, v in _flat(child, f"{prefix}{key}.").items()}


def rows(runs: Sequence[Run], folds: Sequence[str]) -> dict[str, dict[tuple[int, int], Run]]:
    """Row label -> (fold, seed) -> run. Runs that differ in nothing but seed and fold are one row.

    A label names the overrides that vary; where those do not tell two rows apart, the config keys that do.

    Args:
        runs: of one sweep, or of several.
        folds: config keys whose values are folds of one protocol, e.g. dataset.fold.
    """
    ignored = (*IGNORED, *folds)
    kept = [{k: v for k, v in run.config.items() if not k.startswith(ignored)} for run in runs]
    groups: dict[str, list[int]] = {}
    for i, config in enumerate(kept):
        groups.setdefault(json.dumps(config, sort_keys=True, default=str), []).append(i)
    typed = [{k: v for k, v in run.overrides.items() if not k.startswith(ignored)} for run in runs]
    varying = [k for k in dict.fromkeys(k for o in typed for k in o) if len({o.get(k) for o in typed}) > 1]
    short = {k: k.split("@")[0].split(".")[-1] for k in varying}
    names = {k: s if list(short.values()).count(s) == 1 else k for k, s in short.items()}
    labels = {
        key: ", ".join(f"{names[k]}={typed[i[0]].get(k, 'default')}" for k in varying) for key, i in groups.items()
    }
    for label in {v for v in labels.values() if list(labels.values()).count(v) > 1}:
        same = [key for key, v in labels.items() if v == label]
        configs = [kept[groups[key][0]] for key in same]
        differ = [k for k in dict.fromkeys(k for c in configs for k in c) if len({str(c.get(k)) for c in configs}) > 1]
        for key, config in zip(same, configs, strict=True):
            labels[key] = ", ".join([*([label] if label else []), *(f"{k}={config.get(k)}" for k in differ[:3])])
    values = sorted({_fold(run, folds) for run in runs})
    out: dict[str, dict[tuple[int, int], Run]] = {}
    for key, members in groups.items():
        row = out.setdefault(labels[key] or "all runs", {})
        for i in members:
            place = (values.index(_fold(runs[i], folds)), runs[i].seed)
            if place in row:
                log.warning(
                    "two runs of the same setting and seed: %s counts, %s does not", runs[i].folder, row[place].folder
                )
            row[place] = runs[i]
    return out


def _fold(run: Run, folds: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(run.config.get(key)) for key in folds)


def common(table: Mapping[str, Mapping[tuple[int, int], Run]]) -> set[tuple[int, int]]:
    """The (fold, seed) pairs that every row has, a full grid of folds and seeds; what that leaves out is logged.

    Raises:
        ConfigError: no seed and fold is common to all rows.
    """
    shared = set.intersection(*(set(row) for row in table.values()))
    every = {fold for row in table.values() for fold, _ in row}
    seeds = {s for _, s in shared if all((f, s) in shared for f in every)}
    grid = {(f, s) for f in every for s in seeds}
    if not grid:
        counts = {name: sorted({s for _, s in row}) for name, row in table.items()}
        raise ConfigError(
            "The rows have no seed in common.", expected="the same seeds and folds", got=counts, where="run"
        )
    for name, row in table.items():
        if lost := sorted(set(row) - grid):
            log.warning("%s: %d runs are not in every row and are left out (fold, seed): %s", name, len(lost), lost[:5])
    return grid


def fits(table: Mapping[str, Mapping[tuple[int, int], Run]], task: Task, split: str) -> dict[str, Fits]:
    """Row label -> (fold, seed) -> predictions, for the pairs that every row has."""
    grid = common(table)
    return {name: {p: row[p].answers(task, split) for p in sorted(grid)} for name, row in table.items()}


def task_of(run: Run, name: str | None, split: str) -> Task:
    """The task a run is reported on: the one named, else its first.

    Raises:
        ConfigError: the run has no such task or split.
    """
    splits, tasks = run.results.get("splits", {}), run.results.get("tasks", {})
    if split not in splits:
        raise ConfigError("The runs have no such split.", expected=", ".join(splits), got=split, where="split")
    if name is not None and name not in tasks:
        raise ConfigError("The runs have no such task.", expected=", ".join(tasks), got=name, where="task")
    if not tasks:
        raise DataError("The run names no tasks.", expected="tasks in metrics.json", where=run.folder)
    return Task.from_state(tasks[name or next(iter(tasks))])


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for as many comparisons (Holm 1979, Scandinavian Journal of Statistics 6)."""
    order = torch.tensor(p).argsort().tolist()
    out, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p[i] * (len(p) - rank)))
        out[i] = highest
    return out
