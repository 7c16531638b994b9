"""A model without some of its modalities: each in turn, or every subset.

Data flow: passes over one split with modalities withheld -> compared with the pass over the whole, on the same samples
-> robustness.json, table in the terminal, curve of the mean metric by the number of withheld modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from hero_lightning.errors import ConfigError, one_of
from hero_lightning.reporting import run_folder, tables
from hero_lightning.reporting.callback import ResultsWriter
from hero_lightning.training.module import EmotionModule


def check(robustness: bool | str, callbacks: Mapping[str, Any]) -> None:
    """Refuses a value of the option other than false, true and all, and one without the callback that it needs."""
    one_of("robustness", robustness, (False, True, "all"))
    if robustness and not callbacks.get("record"):
        problem = "Passes without modalities are compared by the callback `record`."
        raise ConfigError(problem, expected="callbacks=default", got="none of that name", where="callbacks.record")


def score_without(
    whole: ResultsWriter,
    split: str,
    module: EmotionModule,
    trainer: pl.Trainer,
    loader: Any,
    subsets: bool | str,
    folder: Path,
) -> list[dict[str, float]]:
    """Scores a split without some modalities, and writes robustness.json.

    Args:
        whole: scored the split with all modalities but those that the module withholds, `module.drop`.
        split: its name.
        module: scored; withholds the same as before at the end.
        trainer: has neither callbacks nor loggers.
        loader: of the split.
        subsets: true = without each modality in turn, all = without every subset; one modality is always left.
        folder: of the run.

    Returns:
        A point of the curve per number of withheld modalities, from 0: withheld, and <task>/<metric>, the mean over the
        passes without that many. Empty on other ranks than the first.
    """
    before, tasks = module.drop, module.tasks
    modalities = [name for name in module.encoders if name not in before]
    most = len(modalities) - 1 if subsets == "all" else min(1, len(modalities) - 1)
    withheld = {count: list(combinations(modalities, count)) for count in range(1, most + 1)}
    others: dict[str, dict[str, Any]] = {name: {} for name in tasks}
    for subset in (subset for found in withheld.values() for subset in found):
        module.drop = (*before, *subset)
        trainer.test(module, dataloaders=loader, verbose=False)
        for name in tasks:
            others[name][_name(name, subset)] = module.predictions[name].compute().prediction
    module.drop = before
    if not trainer.is_global_zero:  # which alone holds the record of the whole
        return []
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
