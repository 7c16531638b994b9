"""The edge of every command: where the configuration lies, how many threads compute, and how an error is shown.

Data flow: command line -> Hydra (conf/, experiments/) -> thread limits -> function(cfg) -> exit code; a HeroError
becomes its message, not a traceback.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from hero_lightning.config import sweep
from hero_lightning.config.help import help_text, suggestions
from hero_lightning.config.launch import limit_threads
from hero_lightning.config.quoting import for_the_run, quoted
from hero_lightning.config.signals import Stopped, stoppable
from hero_lightning.errors import HeroError, system_fault
from hero_lightning.media.limits import set_limits

log = logging.getLogger(__name__)


def _folder(name: str) -> Path:
    """`conf` or `experiments`: beside the sources in a checkout, inside the package in a wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1] / name
    return checkout if (package.parents[1] / "pyproject.toml").exists() and checkout.is_dir() else package / name


CONF = str(_folder("conf"))
FOLDERS = (Path(CONF), _folder("experiments"))


class ExperimentsSearchPath(SearchPathPlugin):
    """Lets Hydra find the groups in `experiments/` from any working directory."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra before it composes a config."""
        search_path.append("hero_lightning", f"file://{_folder('experiments')}")


Plugins.instance().register(ExperimentsSearchPath)


def _choice(*groups: str, _root_: DictConfig) -> str:
    """The option chosen of the first group that is not `none`: also while Hydra makes the folder of a sweep, when
    `hydra:` is not known."""
    from hydra.core.hydra_config import HydraConfig

    chosen = HydraConfig.get() if HydraConfig.initialized() else _root_.hydra
    options = [str(chosen.runtime.choices[group]) for group in groups]
    return next((option for option in options if option != "none"), options[-1])


def _choices(*, _root_: DictConfig) -> dict[str, str]:
    """Config group -> chosen option, for filters of a dashboard; empty outside a Hydra job.

    A group inside a package is named by the package: fusion@model.fusion -> model_fusion. Options that are none, and
    the groups in UNCHOSEN, are left out.
    """
    from hydra.core.hydra_config import HydraConfig

    found = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    out = {}
    for key, option in found.items():
        group, _, package = key.partition("@")
        if option not in (None, "none") and group not in UNCHOSEN and "/" not in group:
            name = group if package in ("", "_global_") else package.replace(".", "_")
            out[name] = option if isinstance(option, str) else "+".join(option)
    return out


def _sweep(*, _root_: DictConfig) -> str | None:
    """Folder of the sweep that this job belongs to; None outside one."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return None
    above = Path(HydraConfig.get().runtime.output_dir).parent
    return str(above) if (above / sweep.PLAN).is_file() else None


UNCHOSEN = (
    "command", "paths", "local", "launcher", "sweeper", "logger", "callbacks", "dataset_defaults", "modality", "mode",
)  # fmt: skip
"""Config groups that do not describe an experiment, or whose choice says what its options say."""

OmegaConf.register_new_resolver("choice", _choice, replace=True)
OmegaConf.register_new_resolver("choices", _choices, replace=True)
OmegaConf.register_new_resolver("sweep", _sweep, replace=True)


def silence_libraries() -> None:
    """Silences messages of libraries that a user of these commands cannot act on."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)  # device lists and an advertisement
    for message in (
        "LeafSpec", "exists and is not empty", "does not have many workers", "litlogger", "no `val_dataloader`",
        "`srun` command is available",  # the user chose a machine with Slurm, not a job in it
    ):  # fmt: skip
        warnings.filterwarnings("ignore", f".*{message}.*")


class _Unpickled:
    """A function that launchers do not send to other processes: a job of a sweep starts the command anew.

    What a command's module holds, caches for example, need not be picklable.
    """

    def __init__(self, function: Callable[[Any], Any] | None = None) -> None:
        self.function = function
        self.called = False

    def __reduce__(self) -> tuple:
        return _Unpickled, ()

    def __call__(self, cfg: Any) -> Any:
        assert self.function is not None
        self.called = True
        return self.function(cfg)


def _remove_if_empty(folder: Path) -> None:
    """Removes the run folder of a command that has failed before it wrote any result, and its parents if empty.

    A folder that the user, or a sweep, has named stays: only one named by its time is removed.
    """
    kept = [p for p in folder.iterdir() if p.name not in (".hydra", "config.yaml") and p.suffix != ".log"]
    if not kept and re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d+)?", folder.name):
        shutil.rmtree(folder)
        for parent in list(folder.parents)[:2]:  # <name> and paths.runs
            if any(parent.iterdir()):
                break
            parent.rmdir()


def _suggest(command: str, arguments: list[str]) -> None:
    """Writes what misspelt keys, groups and options were meant to be."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        config = compose(command)
    if found := list(suggestions(command, arguments, config, FOLDERS)):
        sys.stderr.write(f"\nDid you mean: {' '.join(found)}\n")


def command(config_name: str) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Makes `function(cfg)` a command that reads `conf/<config_name>.yaml`."""

    def wrap(function: Callable[[Any], Any]) -> Callable[[], None]:
        import hydra

        body = _Unpickled(function)

        @functools.wraps(function)
        def shown(cfg: Any) -> Any:
            from hydra.core.hydra_config import HydraConfig
            from hydra.types import RunMode

            hydra_config, started = HydraConfig.get(), time.monotonic()
            if hydra_config.mode == RunMode.MULTIRUN:
                body.called = True
                return sweep.run_job(config_name, cfg)
            silence_libraries()
            limit_threads(cfg)
            folder = Path(hydra_config.runtime.output_dir)
            recording = hydra_config.output_subdir is not None  # not in the further processes of DDP
            if recording:
                (folder / sweep.RECORD).unlink(missing_ok=True)
            try:
                with stoppable():
                    set_limits(cfg.get("limits") or {})
                    score = body(cfg)
            except Stopped as stop:
                sys.stderr.write(f"\n{stop}\n")
                sys.exit(128 + stop.number)
            except (HeroError, OSError, RuntimeError) as error:
                _remove_if_empty(folder)
                fault = system_fault(error)
                if fault is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                    raise
                sweep.exit_with(fault)
            if recording:
                sweep.finished(folder, score, started)
            return score

        vars(shown).pop("__wrapped__")
        main = hydra.main(version_base="1.3", config_path=CONF, config_name=config_name)(shown)

        @functools.wraps(function)
        def main_with_text() -> None:
            if {"-h", "--help"} & set(sys.argv[1:]):
                purpose = (sys.modules[function.__module__].__doc__ or "").partition(":")[0]
                sys.stdout.write(help_text(config_name, purpose, FOLDERS))
                return
            try:
                typed, sys.argv[1:] = sys.argv[1:], quoted(for_the_run(config_name, sys.argv[1:]))
            except HeroError as error:
                sweep.exit_with(error)
            try:
                with sweep.summarised(config_name):
                    main()
            except SystemExit as ended:
                if ended.code == 1 and not body.called:  # Hydra has refused the command line and said why
                    _suggest(config_name, typed)
                raise

        return main_with_text

    return wrap
