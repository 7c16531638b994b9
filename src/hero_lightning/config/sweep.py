"""Run folders and sweeps: a folder is claimed before it is used, a job is a process of its own, failures are listed.

Data flow: Hydra starts -> `Folders` claims the folder -> launcher (any) -> `run_job`: the command of a single run in a
process of its own -> console.log, .hydra/job.json -> `summarised`: the failed jobs with their errors and commands,
then `hero_lightning.report`.

A job of a sweep is what the printed command does, with any launcher: a job that is killed ends alone, no state of CUDA,
W&B or torch is left to the next one, and loader workers, threads and signals work as in a single run.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from hero_lightning.config.launch import gpus, leasable
from hero_lightning.config.quoting import text
from hero_lightning.errors import ConfigError, HeroError, cause

log = logging.getLogger(__name__)

RECORD = ".hydra/job.json"
"""File of a run folder: how the run ended; status, score, seconds, error, command."""
PLAN = "sweep.json"
"""File of a sweep's folder: the overrides that started it."""
LONGEST = 120
"""Characters of a job folder's name; file systems admit 255, some with encryption 143."""
BOOKKEEPING = re.compile(r"\+*(skip_done|launcher|hydra/launcher|hydra\.launcher\..*)=")
"""Overrides that do not change what a sweep computes."""


def claim(folder: Path) -> Path:
    """Creates a folder that no other process has: this one, else the first free of <folder>-2, <folder>-3, ..."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for candidate in itertools.chain([folder], (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))):
        try:
            candidate.mkdir()
        except FileExistsError:
            continue
        return candidate
    raise AssertionError  # the numbers do not end


def job_name(overrides: Sequence[str], constant: Sequence[str] = ()) -> str:
    """Folder name of a job: what varies, e.g. model.fusion=concat,seed=1.

    Args:
        overrides: of the job.
        constant: keys that do not vary.

    Characters that a shell or a file system could misread are replaced and long names cut; the name then ends with a
    digest of the whole, so that two jobs never share one.
    """
    parts = []
    for o in OverridesParser.create().parse_overrides(list(overrides)):
        if o.get_key_element() not in constant:
            inner = o.package and o.package.split(".")[-1] == o.key_or_group.split("/")[-1]  # fusion@model.fusion
            name = o.package if inner else o.get_key_element().lstrip("+~")
            parts.append(f"{name}={o.get_value_element_as_str()}")
    whole = ",".join(sorted(parts)) or "job"
    safe = re.sub(r"[^\w.,=+@\[\]-]", "_", whole, flags=re.ASCII)
    if safe == whole and len(safe) <= LONGEST:
        return safe
    return f"{safe[: LONGEST - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _job_name(*, _root_: DictConfig) -> str:
    config = _root_.hydra
    return job_name(config.overrides.task, config.job.config.override_dirname.exclude_keys)


OmegaConf.register_new_resolver("job_name", _job_name, replace=True)
OmegaConf.register_new_resolver("gpu_count", lambda: len(gpus()), replace=True)


def exit_with(error: HeroError) -> NoReturn:
    """Ends the command with the message of an error."""
    sys.stderr.write(f"\nError: {error}\n")
    sys.exit(2)


class Folders(Callback):
    """Hydra's callback that claims the folder of a run or sweep, and refuses a launcher that cannot work here.

    A folder whose name holds the time is claimed: two runs that start in one second get two folders. A folder that the
    user or a command names is used as named.

    Attributes:
        sweep: folder of the sweep that this process started.
        split: the split that its report is about.
    """

    sweep: ClassVar[Path | None] = None
    split: ClassVar[str] = "test"

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before a single run."""
        folder = Path(config.hydra.run.dir)
        try:
            if config.get("resume") and _timed(config.hydra.run, "dir"):
                folder = Path(config.resume)
                config.hydra.run.dir = str(folder.parent.parent if folder.suffix == ".ckpt" else folder)
            elif _timed(config.hydra.run, "dir"):
                config.hydra.run.dir = str(claim(folder))
            elif "resume" in config and not config.resume and recorded(folder).get("status") == "done":
                expected, where = "a new folder, or resume=RUN", "hydra.run.dir"
                raise ConfigError("The folder holds a finished run.", expected=expected, got=folder, where=where)
        except (HeroError, OSError) as error:
            exit_with(error if isinstance(error, HeroError) else _unmade(folder, error))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before a sweep; the jobs get the folder and the keys that vary as overrides of Hydra's own config."""
        try:
            _check_launcher(config)
            folder = _sweep_folder(config)
        except (HeroError, OSError) as error:
            exit_with(error if isinstance(error, HeroError) else _unmade(Path(config.hydra.sweep.dir), error))
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        Folders.sweep, Folders.split = folder, "test" if config.get("test", True) else "val"
        constant = ",".join(f"'{key}'" for key in _keys(config, swept=False))
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.extend(
            [
                f"hydra.sweep.dir={text(str(folder))}",
                f"hydra.job.config.override_dirname.exclude_keys=[{constant}]",
            ]
        )
        log.info("sweep folder %s", folder)


def _unmade(folder: Path, error: OSError) -> ConfigError:
    return ConfigError("The run folder cannot be made.", expected="a folder", got=cause(error), where=folder)


def _timed(node: DictConfig, key: str) -> bool:
    return "${now:" in str(OmegaConf.to_container(node, resolve=False)[key])  # type: ignore[index, call-overload]


def _keys(config: DictConfig, swept: bool) -> list[str]:
    """Keys of the command line and of an ablation that vary, or that do not."""
    given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    varying = {o.get_key_element() for o in given if o.is_sweep_override()} | set(config.hydra.sweeper.params or {})
    return sorted(varying) if swept else sorted({o.get_key_element() for o in given} - varying)


def _check_launcher(config: DictConfig) -> None:
    if config.get("gpu_lease"):
        found = leasable()
        log.info("leasing %d GPUs, one for each job: %s", len(found), ", ".join(found))
    if "Optuna" in config.hydra.sweeper["_target_"] and importlib.util.find_spec("optuna") is None:
        hint = "pip install 'hero-lightning[optuna]'"
        raise ConfigError("sweeper=optuna needs the package optuna.", where="sweeper", hint=hint)
    if "Slurm" in config.hydra.launcher["_target_"] and not shutil.which("sbatch"):
        raise ConfigError("launcher=slurm needs Slurm: there is no sbatch on this machine.")


def _sweep_folder(config: DictConfig) -> Path:
    """The folder of this sweep: a new one, or with skip_done=true the newest of the same overrides."""
    for group in _keys(config, swept=True):
        if group in config.hydra.runtime.choices:  # -m baseline=linear,late runs below demo-baseline
            config.hydra.runtime.choices[group] = group
    plan = sorted(o for o in config.hydra.overrides.task if not BOOKKEEPING.match(o))
    folder, resumed = Path(config.hydra.sweep.dir), bool(config.get("skip_done"))
    if _timed(config.hydra.sweep, "dir"):
        earlier = sorted(folder.parent.glob(f"*/{PLAN}"), key=lambda p: p.stat().st_mtime, reverse=True)
        same = [p.parent for p in earlier if resumed and json.loads(p.read_text(encoding="utf-8"))["plan"] == plan]
        if same:
            log.info("continuing the sweep in %s", same[0])
            return same[0]
        if resumed:
            log.info("skip_done: no earlier sweep of these overrides in %s, starting a new one", folder.parent)
        folder = claim(folder)
    elif (folder / PLAN).is_file():
        if not resumed:
            raise ConfigError(
                "The folder holds a sweep.", expected="another folder", got=folder, where="hydra.sweep.dir",
                hint="skip_done=true continues it",
            )  # fmt: skip
        before = json.loads((folder / PLAN).read_text(encoding="utf-8"))["plan"]
        if before != plan:
            raise ConfigError(
                "The folder holds another sweep.", expected=shlex.join(before), got=shlex.join(plan),
                where=folder / PLAN,
            )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN).write_text(json.dumps({"plan": plan, "command": _started()}, indent=1) + "\n", encoding="utf-8")
    return folder


def _started() -> str:
    """The command line of this process, as a user would type it again."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    return shlex.join([*(["python", "-m", module] if module else sys.argv[:1]), *sys.argv[1:]])


def record(folder: Path, **facts: Any) -> None:
    """Writes how a run ended into its folder."""
    path = folder / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def recorded(folder: Path) -> dict[str, Any]:
    """How a run ended; empty = it was killed, it is running, or it never began."""
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def command_of(command: str, config: DictConfig, folder: Path, resume: bool = False) -> list[str]:
    """The command of a job as a single run in its folder.

    Args:
        command: train, extract, ...
        config: Hydra's own config of the job.
        folder: run folder.
        resume: continue from its last checkpoint.
    """
    left_out = re.compile(r"hydra([./])(mode|sweep|sweeper|launcher|run|job\.config)\b")
    own = [o for o in config.overrides.hydra if not left_out.match(o)]
    task = [o for o in config.overrides.task if not o.lstrip("+").startswith("skip_done=")]
    sources = [s.path for s in config.runtime.config_sources if s.provider == "command-line"]
    folders = [part for path in sources for part in ("--config-dir", path)]
    again = [f"resume={_place(folder)}"] if resume else []
    return ["-m", f"hero_lightning.{command}", *folders, *task, *own, *again, f"hydra.run.dir={_place(folder)}"]


def _place(folder: Path) -> str:
    """A folder as the value of an override; in double quotes, since the shell needs single ones around them."""
    value = text(str(folder))
    return f'"{folder}"' if value == f"'{folder}'" else value


def run_job(command: str, cfg: Any) -> float | None:
    """Runs a job of a sweep in a process of its own; called by Hydra where the launcher put it.

    A job that is finished in its folder is skipped, one with a checkpoint resumes: a sweep continued with
    skip_done=true, and a job that Slurm has queued again.

    Returns:
        The score of the run, None of a failed one.
    """
    hydra: Any = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    with _locked(folder) as lock:
        before = recorded(folder)
        if before.get("status") == "done":
            log.info("%s: done before", folder.name)
            return before["score"]
        begun = "resume" in cfg and not cfg.resume and (folder / "checkpoints" / "last.ckpt").is_file()
        arguments = command_of(command, hydra, folder, begun)
        log.info("%s: %s", folder.name, "continuing" if begun else "starting")
        echo = hydra.launcher["_target_"].endswith("BasicLauncher")  # jobs side by side would mix their lines
        code, tail = _run([sys.executable, *arguments], hydra.runtime.cwd, folder / "console.log", echo, lock)
        if code or recorded(folder).get("status") != "done":
            fail(folder, _error(code, tail), hydra)
            return None
        return show_end(folder)


def show_end(folder: Path) -> float | None:
    """Logs how a job ended; returns its score."""
    end = recorded(folder)
    if end.get("status") != "done":
        log.error("%s: failed: %s", folder.name, end.get("error"))
        return None
    score = "" if end["score"] is None else f" score {end['score']:.4f},"
    log.info("%s: done,%s %.0f s", folder.name, score, end["seconds"])
    return end["score"]


def fail(folder: Path, error: str, config: DictConfig) -> None:
    """Records and logs that a job failed; `config` is Hydra's own of the job."""
    again = shlex.join(["python", *command_of(config.job.config_name, config, folder)])
    record(folder, status="failed", error=error, command=again)
    console = folder / "console.log"
    log.error("%s: failed: %s%s", folder.name, error, f"\n  log: {console}" if console.is_file() else "")


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Holds the lock of a run folder; waits while a process of a killed sweep still works in it."""
    (folder / RECORD).parent.mkdir(parents=True, exist_ok=True)
    with (folder / RECORD).with_name("lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s: another process works on this job, waiting for its end", folder.name)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _run(command: Sequence[str], cwd: str, console: Path, echo: bool, lock: int) -> tuple[int, str]:
    """Exit code and last lines of a process, whose output goes to a file; signals end it first, then this process."""
    ended: list[int] = []
    lines: list[str] = []
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with (
        console.open("a", encoding="utf-8") as file,
        subprocess.Popen(command, cwd=cwd, pass_fds=(lock,), **output) as process,
    ):

        def end(number: int, frame: Any) -> None:
            ended.append(number)
            # Ctrl-C of a terminal and signals of Slurm reach the whole group
            if number == signal.SIGTERM and "SLURM_JOB_ID" not in os.environ:
                process.send_signal(number)

        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for line in process.stdout or ():
                file.write(line)
                file.flush()
                lines = [*lines[-40:], line]
                if echo:
                    sys.stdout.write(line)
            process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if ended:
        sys.exit(128 + ended[0])
    return process.returncode, "".join(lines)


def _error(code: int, tail: str) -> str:
    """What a failed process said last: our message, or the last line of a traceback."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    _, found, message = tail.rpartition("Error: ") if "\nError: " in tail else ("", "", "")
    lines = [line for line in tail.splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
    return message.strip() if found else lines[-1].strip() if lines else f"exit code {code}"


@contextmanager
def summarised(command: str) -> Iterator[None]:
    """Lists the failed jobs after a sweep and reports its runs; exit code 1 where a job failed."""
    done, failed, whole = 0, 0, False
    try:
        yield
        whole = True
    finally:
        if Folders.sweep is not None:
            done, failed = _list_ends(Folders.sweep)
    if whole and done and command == "train" and Folders.sweep is not None:
        options = [f"run={_place(Folders.sweep)}", f"split={Folders.split}"]
        subprocess.run([sys.executable, "-m", "hero_lightning.report", *options], check=False)
    if failed:
        sys.exit(1)


def _list_ends(sweep: Path) -> tuple[int, int]:
    """Numbers of jobs with and without a result; the latter with their errors and the commands to run them again."""
    ends = {path.parent: recorded(path.parent) for path in sorted(sweep.rglob(".hydra"))}
    lost = {folder: end for folder, end in ends.items() if end.get("status") != "done"}
    if ends:
        log.info("%d of %d jobs done, in %s", len(ends) - len(lost), len(ends), sweep)
    for folder, end in lost.items():
        error = end.get("error", "no result: the job was stopped, or is still running")
        again = f"\n  again: {end['command']}" if "command" in end else ""
        log.error("failed: %s\n  %s%s", folder.name, error.replace("\n", "\n  "), again)
    if lost:
        log.error("everything that is left: %s", _again())
    return len(ends) - len(lost), len(lost)


def _again() -> str:
    return _started() if "skip_done=true" in sys.argv else f"{_started()} skip_done=true"


def finished(folder: Path, score: Any, started: float) -> None:
    """Records the end of a single run; `started` is a time of `time.monotonic`."""
    value = float(score) if isinstance(score, int | float) else None
    record(folder, status="done", score=value, seconds=round(time.monotonic() - started, 3))
