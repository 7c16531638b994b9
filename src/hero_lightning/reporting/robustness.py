"""A model without some of its modalities: each in turn, or every subset.

Data flow: passes over one split with modalities withheld -> compared with the pass over the whole, on the same samples
-> robustness.json, table in the terminal, curve of the mean metric by the number of withheld modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from hero_lightning.errors import ConfigError, one_of
from hero_lightning.evaluation.scoring import SplitRecord
from hero_lightning.reporting import run_folder, tables
from hero_lightning.reporting.callback import ResultsWriter
from hero_lightning.tasks import Task


def check(robustness: bool | str, callbacks: Mapping[str, Any]) -> None:
    """Refuses a value of the option other than false, true and all, and one without the callback that it needs."""
    one_of("robustness", robustness, (False, True, "all"))
    if robustness and not callbacks.get("record"):
        problem = "Passes without modalities are compared by the callback `record`."
        raise ConfigError(problem, expected="callbacks=default", got="none of that name", where="callbacks.record")


def score_without(
    whole: ResultsWriter,
    split: str,
    tasks: Mapping[str, Task],
    modalities: Sequence[str],
    subsets: bool | str,
    folder: Path,
    test: Callable[[tuple[str, ...], Path], ResultsWriter],
) -> list[dict[str, float]]:
    """Scores a split without some modalities.

    Args:
        whole: scored the split with all of them.
        split, tasks: what is scored.
        modalities: that the model has; one at least is never withheld.
        subsets: true = each of them in turn, all = every subset but the whole.
        folder: robustness.json lies there, the files of a pass in without_<modalities>/.
        test: scores the split without the modalities it is given; its files lie in the folder it is given.

    Returns:
        A point of the curve per number of withheld modalities, from 0: withheld, and <task>/<metric>, the mean over the
        passes without that many.
    """
    most = len(modalities) - 1 if subsets == "all" else min(1, len(modalities) - 1)
    withheld = {count: list(combinations(modalities, count)) for count in range(1, most + 1)}
    others: dict[str, dict[str, Any]] = {name: {} for name in tasks}
    for subset in (subset for found in withheld.values() for subset in found):
        record: SplitRecord = test(subset, folder / f"without_{'_'.join(subset)}").records[split]
        for name, predicted in record.predictions.items():
            others[name][_name(name, subset)] = predicted.prediction
    reports = whole.score(tasks, whole.records[split], others)
    scored = {name: reports[name] for name in tasks}
    curve = [
        {"withheld": 0.0, **{f"{t}/{m}": of["value"] for t, r in scored.items() for m, of in r["metrics"].items()}}
    ]
    for count, found in withheld.items():
        values: dict[str, list[float]] = {}
        for name, report in scored.items():
            for subset in found if report["baselines"] else ():
                for metric, of in report["baselines"][_name(name, subset)].items():
                    values.setdefault(f"{name}/{metric}", []).append(of["value"])
        curve.append({"withheld": float(count), **{key: sum(v) / len(v) for key, v in values.items()}})
    run_folder.write_json(folder / "robustness.json", {"split": split, "tasks": reports, "curve": curve})
    title = "without every subset of the modalities" if subsets == "all" else "without each modality"
    tables.show_results(title, {split: reports})
    return curve


def _name(task: str, subset: Sequence[str]) -> str:
    return f"{task} without {' and '.join(subset)}"
