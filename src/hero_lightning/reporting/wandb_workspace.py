"""A saved W&B workspace for the runs of a report, described in JSON so that it can be made offline and saved later.

Data flow: finished runs -> what varies, metrics, classes, experts -> description (workspace.json) -> Workspace -> W&B.

docs/wandb.md says what each panel is for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hero_lightning.errors import ConfigError, DataError, cause
from hero_lightning.evaluation.runs import IGNORED, Run
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.reporting import run_folder
from hero_lightning.reporting.loggers import gate_name, part, run_name
from hero_lightning.reporting.wandb_run import can_upload

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

log = logging.getLogger(__name__)

Panel = dict[str, Any]
MEAN = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
"""Runs of one group, that is its seeds and folds: their mean, and its standard error as the error bar."""
TRAINING = {
    "loss": "train/loss", "validation score": "val/score", "learning rate": "lr/default",
    "samples per second": "resources/samples_per_second", "peak memory (GiB)": "resources/memory_gib",
}  # fmt: skip
"""Title -> metric of the line plots over training steps."""


def write(
    folder: Path, runs: Sequence[Run], task: str, split: str, metrics: Sequence[str], folds: Sequence[str]
) -> None:
    """Writes workspace.json and, where W&B can be reached, saves the workspace there.

    Args:
        folder: of the report.
        runs, task, split, metrics, folds: of the report.

    Raises:
        ConfigError: no run was logged to W&B.
    """
    path = folder / "workspace.json"
    run_folder.write_json(path, describe(runs, task, split, metrics, folds))
    if can_upload():
        save(path)
    else:
        log.info("W&B is offline; once its runs are synced: python -m hero_lightning.report wandb=%s", path)


def save(path: Path) -> str:
    """Saves the workspace that a file describes; returns its address.

    Raises:
        DataError: the file cannot be read, or W&B does not accept the workspace.
    """
    import requests
    import wandb

    try:
        workspace = build(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        hint = "python -m hero_lightning.report run=RUNS wandb=true"
        raise DataError("A workspace cannot be read.", got=cause(error), where=path, hint=hint) from error
    try:
        workspace.entity = workspace.entity or str(wandb.Api().default_entity)
        url = str(workspace.save().url)
    except (wandb.Error, requests.RequestException, ValueError) as error:
        raise DataError("W&B does not save the workspace.", got=cause(error), where=path, hint="wandb login") from error
    log.info("workspace: %s", url)
    return url


def describe(
    runs: Sequence[Run], task: str, split: str, metrics: Sequence[str], folds: Sequence[str]
) -> dict[str, Any]:
    """The workspace in builtins; arguments as in `write`.

    Returns:
        entity (None = the user's own), project, name, groups and names (which runs it shows: those of these W&B groups
        or, without any, those whose config has one of these names), columns, sections: name -> panels, each with its
        type in `wandb_workspaces.reports.v2` and the arguments of that type.

    Raises:
        ConfigError: no run was logged to W&B.
    """
    logged = [run for run in runs if run.config.get("logger.wandb.project")]
    if not logged:
        problem, hint = "No run was logged to W&B.", "logger=[csv,wandb]"
        raise ConfigError(problem, expected="runs trained with it", got=f"{len(runs)} others", where="run", hint=hint)
    axes = varying(logged, folds)
    report = logged[0].results["splits"][split][task]
    prefix = f"best_{split}" if split == "val" else split
    values = [f"{prefix}/{task}/{m}" for m in metrics]
    best = list(dict.fromkeys([f"best_val/{task}/{metrics[0]}", *values]))
    groups = [run_name(g, run.config["paths.runs"]) for run in logged if (g := run.config.get("logger.wandb.group"))]
    names = sorted({str(run.config["name"]) for run in logged})
    return {
        "entity": None,
        "project": logged[0].config["logger.wandb.project"],
        "name": ", ".join(names),
        "groups": sorted(set(groups)) if len(groups) == len(logged) else [],
        "names": names,
        "columns": [f"config:{_column(key)}" for key in [*axes, "seed"]] + [f"summary:{name}" for name in best],
        "sections": {
            "Sweep": _sweep(axes, best),
            "Metrics by group": _metrics(axes, values, report),
            "Gates by class": _gates(axes, logged[0], prefix, report.get("classes", ())),
            "Missing modalities": _missing(axes, [f"missing/{task}/{m}" for m in metrics]),
            "Training": [{"type": "LinePlot", "title": title, "y": [name]} for title, name in TRAINING.items()],
            "Tables": _tables(task, split),
        },
    }


def varying(runs: Sequence[Run], folds: Sequence[str]) -> list[str]:
    """Config keys that tell the runs apart: choices of groups, and single options that were typed; else the model.

    Args:
        runs: of the report.
        folds: keys that, like the seed, only repeat a setting.
    """
    ignored = tuple(key for key in (*IGNORED, *folds) if key != "choices.")
    keys = dict.fromkeys(key for run in runs for key in run.config)
    typed = {key for run in runs for key in run.overrides}
    differ = [key for key in keys if len({str(run.config.get(key)) for run in runs}) > 1]
    found = [k for k in differ if not k.startswith(ignored) and (k.startswith("choices.") or k in typed)]
    return found or ["choices.model"]


def _sweep(axes: Sequence[str], best: Sequence[str]) -> list[Panel]:
    columns = [*(f"config.{key}" for key in axes), "config.seed", *best]
    return [
        {"type": "ParallelCoordinatesPlot", "title": "settings and metrics", "columns": columns},
        {"type": "ParameterImportancePlot", "with_respect_to": best[0]},
        {"type": "RunComparer", "diff_only": "split"},
    ]


def _metrics(axes: Sequence[str], values: Sequence[str], report: Mapping[str, Any]) -> list[Panel]:
    """Every metric by every axis, and the first one beside what it must beat."""
    task, _, metric = values[0].rpartition("/")
    systems = [f"{task}/baselines/{part(name)}/{metric}" for name in report["baselines"]]
    against = [values[0], f"{values[0]}_chance", f"{values[0]}_majority", *systems]
    pairs = [(value, key) for key in axes for value in values]
    return [
        *({"type": "BarPlot", "title": f"{v} by {key}", "metrics": [v], "groupby": key, **MEAN} for v, key in pairs),
        {"type": "BarPlot", "title": "against chance, majority and probes", "metrics": against},
    ]


def _gates(axes: Sequence[str], run: Run, prefix: str, classes: Sequence[str]) -> list[Panel]:
    """A bar chart per class and over all samples; none without gates."""
    _, row = next(iter(read_csv(run.folder / "predictions.csv")))
    experts = [name.removeprefix("gate_") for name in row if name.startswith("gate_")]
    labels = [*classes, "all"] if experts else []
    names = {label: [gate_name(prefix, label, expert) for expert in experts] for label in labels}
    same = {"groupby": axes[0], **MEAN}
    return [{"type": "BarPlot", "title": f"gates, {label}", "metrics": found, **same} for label, found in names.items()]


def _missing(axes: Sequence[str], names: Sequence[str]) -> list[Panel]:
    same = {"x": "missing/withheld", "title_x": "modalities withheld", "groupby": axes[0], **MEAN}
    return [{"type": "LinePlot", "title": f"{name} without some modalities", "y": [name], **same} for name in names]


def _tables(task: str, split: str) -> list[Panel]:
    names = ("predictions", "answers", f"confusion_{task}", f"classes_{task}", "gates")
    pictures = [f"{split}_images/{name}" for name in (f"confusion_{task}", "gates")]
    tables = [{"type": "WeavePanelSummaryTable", "table_name": f"{split}_tables/{name}"} for name in names]
    return [*tables, {"type": "MediaBrowser", "media_keys": pictures}]


def _column(key: str) -> str:
    """A config key as W&B names it: model.width -> model.value.width."""
    first, *rest = key.split(".")
    return ".".join([first, "value", *rest])


def build(described: Mapping[str, Any]) -> Workspace:
    """The workspace that a description (`describe`) names; nothing is sent.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
        from wandb_workspaces import expr
    except ModuleNotFoundError as error:
        problem, hint = "The package that makes workspaces is not installed.", "pip install 'hero-lightning[wandb]'"
        raise ConfigError(problem, got=cause(error), where="wandb", hint=hint) from error

    def panel(of: Panel, place: int) -> Any:
        options = {k: v for k, v in of.items() if k != "type"}
        if of["type"] == "ParallelCoordinatesPlot":
            columns = [
                panels.Config(c.removeprefix("config.")) if c.startswith("config.") else c for c in of["columns"]
            ]
            options["columns"] = [panels.ParallelCoordinatesPlotColumn(c) for c in columns]
        layout = panels.Layout(x=place % 3 * 8, y=place // 3 * 6)
        return getattr(panels, of["type"])(**options, layout=layout)

    shown = [expr.Metric("Group").isin(described["groups"])] if described["groups"] else []
    return workspaces.Workspace(
        entity=described["entity"] or "",
        project=described["project"],
        name=described["name"],
        sections=[
            workspaces.Section(name=name, panels=[panel(p, i) for i, p in enumerate(found)], is_open=True)
            for name, found in described["sections"].items()
            if found
        ],
        runset_settings=workspaces.RunsetSettings(
            filters=shown or [expr.Config("name").isin(described["names"])],
            pinned_columns=list(described["columns"]),
        ),
    )
