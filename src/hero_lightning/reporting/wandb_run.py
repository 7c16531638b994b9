"""A run in Weights & Biases: its logger, the tables and pictures of a split, and the artifacts of a finished run.

Data flow: report and predictions of a split -> wandb.Table, wandb.Image; files of the run folder -> wandb.Artifact.
"""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import WandbLogger

from hero_lightning.evaluation.scoring import SplitRecord
from hero_lightning.reporting import run_folder
from hero_lightning.reporting.loggers import run_name
from hero_lightning.tasks import Task
from hero_lightning.training.checkpoint import LM

if TYPE_CHECKING:
    from wandb import Table

log = logging.getLogger(__name__)

FILES = {
    "checkpoint": ("checkpoints/best.ckpt", "config.yaml", LM),
    "predictions": ("predictions.csv", "answers.jsonl", "metrics.json"),
    "index": ("index.json",),
}
"""Artifact type -> the files and folders of a run folder that it holds, where they exist."""


def can_upload() -> bool:
    """Whether W&B is online: not switched off by WANDB_MODE, and an API key is known."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode in ("online", "shared")
    try:
        known = netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    return known or "WANDB_API_KEY" in os.environ


def wandb_logger(
    project: str, folder: str, runs: str, group: str | None, job_type: str, choices: Mapping[str, str],
    tags: Iterable[str] = (),
) -> WandbLogger:  # fmt: skip
    """W&B's logger, offline where no API key is known, so that a run never stops to ask for one.

    Args:
        project: W&B project.
        folder: of the run, which gives its name.
        runs: folder of all runs.
        group: folder of the sweep, or any name; None = no group.
        job_type: name of the command.
        choices: config group -> option, which become tags.
        tags: further ones.
    """
    if "WANDB_MODE" not in os.environ and not can_upload():
        log.info("no W&B key known: logging offline; `wandb sync` uploads later")
        os.environ["WANDB_MODE"] = "offline"
    chosen = [f"{k}={v}"[:64] for k, v in choices.items()]  # W&B refuses longer ones
    logger = WandbLogger(
        project=project, name=run_name(folder, runs), group=group and run_name(group, runs), job_type=job_type,
        tags=[*chosen, *tags], save_dir=folder,
    )  # fmt: skip
    logger._wandb_init.pop("anonymous", None)  # W&B warns that it is deprecated, whatever its value
    return logger


def send_split(
    logger: WandbLogger,
    record: SplitRecord,
    tasks: Mapping[str, Task],
    reports: Mapping[str, Mapping[str, Any]],
    gates: Mapping[str, Mapping[str, float]],
    pictures: Mapping[str, Path],
    rows: int,
) -> None:
    """Sends the pictures and tables of a split.

    Args:
        logger: of the run.
        record, tasks, reports: the pass, and its reports by Task name.
        gates: `loggers.gate_means`.
        pictures: name -> file.
        rows: most rows of the tables of predictions and of answers.
    """
    import wandb

    answers = [run_folder.answer_row(a) for a in record.answers.values()]
    tables = {"predictions": list(run_folder.prediction_rows(record, tasks))[:rows], "answers": answers[:rows]}
    tables["gates"] = [{"class": name, **means} for name, means in gates.items()]
    for name, report in reports.items():
        tables[f"classes_{name}"] = [{"class": label, **metrics} for label, metrics in report["per_class"].items()]
        classes = report.get("classes", ())
        tables[f"confusion_{name}"] = [
            {"truth": truth, "predicted": predicted, "samples": count}
            for truth, counts in zip(classes, report.get("confusion", ()), strict=True)
            for predicted, count in zip(classes, counts, strict=True)
        ]
    sent: dict[str, Any] = {f"{record.split}_images/{k}": wandb.Image(str(path)) for k, path in pictures.items()}
    sent |= {f"{record.split}_tables/{k}": _table(t) for k, t in tables.items() if t}
    logger.experiment.log(sent)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    import wandb

    # Columns of one type would refuse text beside None.
    return wandb.Table(columns=list(rows[0]), data=[list(r.values()) for r in rows], allow_mixed_types=True)


def send_files(logger: WandbLogger, folder: Path) -> None:
    """Sends checkpoint, predictions and index of a finished run as artifacts, named by the id of the W&B run."""
    import wandb

    for kind, names in FILES.items():
        found = [folder / name for name in names if (folder / name).exists()]
        if found:
            artifact = wandb.Artifact(f"{kind}-{logger.experiment.id}", type=kind)
            for path in found:
                (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path), name=path.name)
            logger.experiment.log_artifact(artifact)
