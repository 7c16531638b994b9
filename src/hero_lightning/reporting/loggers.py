"""Loggers of a run beside the csv file, and what all of them get: the config, and the results of a split.

Data flow: resolved config -> log_hyperparams; reports of a split, gate weights by class -> flat names -> log_metrics.

Shapes: N samples of a split, E experts.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from torch import Tensor

BOUNDS = ("low", "high", "chance", "majority")
"""What a metric of a report has beside its value."""


def run_name(folder: str, runs: str) -> str:
    """A run or sweep folder below the folder of all runs as a name: demo-hero/2026-01-01_00-00-00."""
    path, root = Path(folder).resolve(), Path(runs).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def mlflow_logger(
    experiment: str, folder: str, runs: str, group: str | None, job_type: str, choices: Mapping[str, str]
) -> Any:
    """MLflow's logger with a file store that all runs share.

    Args:
        experiment: name of the experiment; made if there is none.
        folder: of the run, which gives its name.
        runs: folder of all runs; the store is its mlruns/.
        group: folder of the sweep, a tag.
        job_type: name of the command, a tag.
        choices: config group -> option, tags.
    """
    # Version 3 refuses a file store without the first, and reports its use to its makers without the second.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient
    from pytorch_lightning.loggers import MLFlowLogger

    store = Path(runs).resolve() / "mlruns"
    store.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(store.as_uri())
    with (store / ".lock").open("w") as lock:  # two jobs of a sweep must not both make the experiment
        fcntl.flock(lock, fcntl.LOCK_EX)
        if client.get_experiment_by_name(experiment) is None:
            client.create_experiment(experiment)
    tags = {**choices, "job_type": job_type, **({"group": run_name(group, runs)} if group else {})}
    return MLFlowLogger(experiment, run_name(folder, runs), tracking_uri=store.as_uri(), tags=tags)


def log_config(loggers: Iterable[Logger], config: Mapping[str, Any]) -> None:
    """Gives every logger the resolved config, in builtins."""
    for logger in loggers:
        logger.log_hyperparams(dict(config))
        logger.save()


def log_curve(loggers: Iterable[Logger], curve: Iterable[Mapping[str, float]]) -> None:
    """Gives every logger the points of `robustness.score_without` as missing/<name>."""
    for point in curve:
        log_results(loggers, {f"missing/{name}": value for name, value in point.items()}, int(point["withheld"]))


def log_results(loggers: Iterable[Logger], results: Mapping[str, float], step: int) -> None:
    """Gives every logger the results of a split."""
    for logger in loggers:
        logger.log_metrics(dict(results), step=step)
        logger.save()


def results(
    prefix: str, reports: Mapping[str, Mapping[str, Any]], gates: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """The reports of a split under flat names that every logger admits.

    Args:
        prefix: of the names.
        reports: Task name -> `scoring.report`.
        gates: `gate_means`.

    Returns:
        <prefix>/<task>/<metric>; the same with _low, _high (95 % interval), _chance, _majority;
        <prefix>/<task>/baselines/<system>/<metric> (a probe, the linear head), with _difference (ours - theirs), _p;
        <prefix>/gates/<class>/<expert>. Only what is known.
    """
    out: dict[str, float | None] = {}
    for task, report in reports.items():
        for metric, of in report["metrics"].items():
            out[f"{task}/{metric}"] = of["value"]
            out |= {f"{task}/{metric}_{bound}": of[bound] for bound in BOUNDS}
        for system, metrics in report["baselines"].items():
            for metric, of in metrics.items():
                place = f"{task}/baselines/{part(system)}/{metric}"
                out |= {place: of["value"], f"{place}_difference": of["difference"], f"{place}_p": of["p"]}
    found = {f"{prefix}/{name.replace(' ', '_')}": value for name, value in out.items() if value is not None}
    return found | {gate_name(prefix, label, e): mean for label, means in gates.items() for e, mean in means.items()}


def gate_name(prefix: str, label: str, expert: str) -> str:
    """Name of the mean gate weight of an expert over the samples of a class, or over "all"."""
    return f"{prefix}/gates/{part(label)}/{expert}"


def part(name: str) -> str:
    """A name with the characters that TensorBoard and MLflow admit; others become _ or, beyond ASCII, their number."""
    return re.sub(r"[^-\w.]", "_", name.encode("unicode_escape").decode(), flags=re.ASCII)


def gate_means(gate: Tensor, experts: Iterable[str], groups: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Group -> expert -> mean gate weight, and over all samples under "all"; empty without experts.

    Args:
        gate: [N, E].
        experts: E names.
        groups: name -> [N] True where the sample belongs to it; empty ones are left out.
    """
    if not gate.shape[1]:
        return {}
    means = {name: gate[mask].double().mean(dim=0) for name, mask in groups.items() if bool(mask.any())}
    means["all"] = gate.double().mean(dim=0)
    return {name: dict(zip(experts, mean.tolist(), strict=True)) for name, mean in means.items()}
