"""Files of a run folder: predictions.csv, metrics.json, test_uses.txt.

Data flow: SplitRecord per split -> predictions.csv (a line per sample) and, with intervals and baselines, metrics.json.

Shapes: N samples of a split, C outputs of a Task.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hero_lightning.evaluation.scoring import SplitRecord
from hero_lightning.features.files import write_atomic, write_csv
from hero_lightning.reasoning.evidence import EvidenceItem
from hero_lightning.tasks import Task

log = logging.getLogger(__name__)

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "transformers", "numpy", "av")
"""Packages whose version can change a result; metrics.json names it."""


def answer_row(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A written answer as a row of a table."""
    evidence = "\n".join(EvidenceItem(**e).line(show_weight=True) for e in answer["evidence"])
    kept = ("id", "truth", "label", "confidence", "generated", "status")
    return {**{k: answer[k] for k in kept}, "evidence": evidence, "text": answer["text"]}


def prediction_rows(record: SplitRecord, tasks: Mapping[str, Task]) -> Iterator[dict[str, Any]]:
    """A line per sample: id, split, <task>_<column> of every Task, gate and importance, present, imputed."""
    columns: dict[str, Sequence[Any]] = {}
    for name, found in record.predictions.items():
        for column, values in tasks[name].columns(found.prediction, found.label).items():
            columns[f"{name}_{column}"] = values
    for name, numbers in record.explanations.numbers.items():
        if not name.startswith(("present_", "imputed_")):
            columns[name] = numbers.tolist()
    for flag in ("present", "imputed"):
        names, table = record.explanations.matrix(flag)
        columns[flag] = ["|".join(n for n, v in zip(names, row, strict=True) if v) for row in table.tolist()]
    for i, sample in enumerate(record.samples):
        yield {"id": sample.id, "split": record.split, **{k: _short(v[i]) for k, v in columns.items()}}


def _short(value: Any) -> Any:
    if isinstance(value, float):  # None, not "": a W&B table wants one type per column
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value


def write_predictions(path: Path, records: Iterable[SplitRecord], tasks: Mapping[str, Task]) -> None:
    """Writes predictions.csv, a line per sample of every split."""
    rows = [row for record in records for row in prediction_rows(record, tasks)]
    header = list(dict.fromkeys(k for row in rows for k in row))
    write_csv(path, header, ([row.get(k, "") for k in header] for row in rows))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes standard JSON: nan and infinities become null."""
    write_atomic(path, (json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_metrics(
    folder: Path, reports: Mapping[str, Any], resamples: int, drawn: str = "single samples", **facts: Any
) -> None:
    """Writes metrics.json.

    Args:
        folder: run folder; what its index.json says of the dataset is copied.
        reports: split -> Task name -> `scoring.report`.
        resamples, drawn: of the bootstrap: how many, and of what.
        facts: further entries.
    """
    facts["intervals"] = f"95 % percentile bootstrap, {resamples} resamples of {drawn}"
    write_json(folder / "metrics.json", {**facts, **index_facts(folder), **provenance(), "splits": reports})


def index_facts(folder: Path) -> dict[str, Any]:
    """Dataset, counts, origin of the splits and notes from index.json; empty without that file."""
    path = folder / "index.json"
    index = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {k: index[k] for k in ("dataset", "counts", "split_origin", "notes") if k in index}


def provenance() -> dict[str, Any]:
    """Command, commit, versions and hardware of this process."""
    versions = {"python": platform.python_version()}
    for package in ("hero-lightning", *PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "command": " ".join(sys.argv),
        "commit": _commit(),
        "versions": versions,
        "hardware": {
            "machine": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        },
    }


def _commit() -> str | None:
    """Commit of the checkout this package runs from, `-dirty` where files differ from it; None if installed."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():  # else git would name the repository around an installed package
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def note_test(folder: Path) -> int:
    """Adds a line to test_uses.txt of a finished run, whose test split is scored again; returns the number of lines."""
    path = folder / "test_uses.txt"
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now().isoformat(timespec='seconds')} {' '.join(sys.argv)}\n")
    uses = len(path.read_text(encoding="utf-8").splitlines())
    log.warning("the test split of %s has been scored %d times since its training", folder, uses)
    return uses
