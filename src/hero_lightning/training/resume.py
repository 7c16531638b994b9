"""Resume: a run goes on in its folder as if it had not been stopped.

Data flow: run folder (or a copy of it) + config of this command -> options that differ are refused -> best checkpoint
and history in the folder of this run -> Trainer.fit.
"""

from __future__ import annotations

import csv
import logging
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from hero_lightning.errors import CheckpointError, ConfigError
from hero_lightning.training import checkpoint

log = logging.getLogger(__name__)

FREE = re.compile(
    r"(resume|name|choices|paths|logger|test|probes|robustness|skip_done|gpu_lease|dataset\.num_workers|init_from"
    r"|callbacks\.(progress|lines|last|record|monitor|estimate)"
    r"|trainer\.(max_epochs|max_steps|max_time|accelerator|devices|num_nodes|strategy|enable_\w+|log_every_n_steps))(\..*)?"
    r"|.*[._](root|path|dirpath|save_dir|folder)"
)
"""Options that a resumed run may change: they take effect, or say where files lie."""
HISTORY = "metrics.csv"
OVERRIDES = "overrides"
"""Key among the facts of a checkpoint: the options that the run was started with."""


def point(where: str, config: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The checkpoint to go on from, and its content.

    Args:
        where: run folder, or a full checkpoint in it.
        config: of this command, resolved.

    Raises:
        CheckpointError: no checkpoint, or one with weights alone.
        ConfigError: an option differs from the run's, and would be ignored.
    """
    path = checkpoint.find(where, prefer="last")
    state = checkpoint.load(path)
    if "optimizer_states" not in state:
        raise CheckpointError(
            "A run cannot go on from weights alone.", expected="last.ckpt", got=path.name, where=path,
            hint=f"resume={checkpoint.run_folder(path)}, or init_from={path} for a new run with these weights",
        )  # fmt: skip
    before = yaml.safe_load(state[checkpoint.FACTS]["config"])
    changed = list(differences(before, config))
    if changed:
        key, was, now = changed[0]
        more = f" (and {', '.join(k for k, _, _ in changed[1:6])})" if changed[1:] else ""
        raise ConfigError(
            f"A resumed run keeps its options; {key} differs{more}.",
            expected=f"{key}={was}", got=f"{key}={now}", where=path,
            hint=again(state[checkpoint.FACTS].get(OVERRIDES, ()), checkpoint.run_folder(path)),
        )  # fmt: skip
    return path, state


def differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, value before and value now, where two configs differ in something that is not `FREE`."""
    if key and FREE.fullmatch(key):
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            yield from differences(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
    elif before != now:
        yield key, before, now


def again(overrides: Iterable[str], folder: Path) -> str:
    """The command of a run with these overrides, and resume=FOLDER."""
    kept = [o for o in overrides if not o.startswith("resume=")]
    return shlex.join(["python", "-m", "hero_lightning.train", *kept, f"resume={folder}"])


def take_over(path: Path, state: Mapping[str, Any], folder: Path) -> None:
    """Brings the best checkpoint of the run that goes on into another folder, if it is of an epoch before the state.

    Args:
        path: the checkpoint to go on from.
        state: its content.
        folder: of this run.
    """
    best = path.parent / "best.ckpt"
    target = folder / "checkpoints" / best.name
    if target.resolve() == best.resolve() or not best.is_file():
        return
    if checkpoint.load(best).get("global_step", 0) <= state.get("global_step", 0):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(best, target)


def history(folder: Path, step: int) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a run's metrics.csv up to a number of optimizer steps."""
    path = folder / HISTORY
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if row.get("step", "").isdecimal() and int(row["step"]) < step]
        return list(reader.fieldnames or []), rows


def continue_history(loggers: Iterable[Any], columns: list[str], rows: list[dict[str, str]]) -> None:
    """Puts earlier rows into the file of a CSVLogger, which otherwise begins a new one."""
    from pytorch_lightning.loggers import CSVLogger

    for logger in loggers:
        if isinstance(logger, CSVLogger) and rows:
            writer = logger.experiment
            writer.metrics_keys = list(columns)
            with Path(writer.metrics_file_path).open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, columns)
                table.writeheader()
                table.writerows(rows)
