"""The edge of every command: where the configuration lies, and how an error is shown.

Data flow: command line -> Hydra (conf/) -> task(cfg) -> exit code; a HeroError becomes its message, not a traceback.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hero_lightning.errors import HeroError

log = logging.getLogger(__name__)


def _folder(name: str) -> Path:
    """`conf` or `experiments`: beside the sources in a checkout, inside the package in a wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1] / name
    return checkout if (package.parents[1] / "pyproject.toml").exists() and checkout.is_dir() else package / name


CONF = str(_folder("conf"))
# Read by `hydra.searchpath` in the primary configs: a relative file:// there would mean the working directory.
os.environ["HERO_EXPERIMENTS"] = str(_folder("experiments"))


def _choice(group: str, *, _root_: DictConfig) -> str:
    """The option chosen of a config group: also while Hydra makes the folder of a sweep, when `hydra:` is not known."""
    from hydra.core.hydra_config import HydraConfig

    chosen = HydraConfig.get() if HydraConfig.initialized() else _root_.hydra
    return str(chosen.runtime.choices[group])


OmegaConf.register_new_resolver("choice", _choice, replace=True)


def _quiet() -> None:
    """Silences what libraries tell a user who can do nothing about it."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)  # device lists and an advertisement
    told = ("LeafSpec", "exists and is not empty", "does not have many workers", "litlogger", "no `val_dataloader`")
    for message in told:
        warnings.filterwarnings("ignore", f".*{message}.*")


def command(config_name: str) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Makes `task(cfg)` a command that reads `conf/<config_name>.yaml`."""

    def wrap(task: Callable[[Any], Any]) -> Callable[[], None]:
        import hydra

        @functools.wraps(task)
        def shown(cfg: Any) -> Any:
            _quiet()
            try:
                return task(cfg)
            except HeroError as error:
                if os.environ.get("HYDRA_FULL_ERROR") == "1":
                    raise
                from hydra.core.hydra_config import HydraConfig
                from hydra.types import RunMode

                if HydraConfig.get().mode == RunMode.MULTIRUN:  # let Hydra count the job as failed and go on
                    raise
                sys.stderr.write(f"\nError: {error}\n")
                sys.exit(2)

        return hydra.main(version_base="1.3", config_path=CONF, config_name=config_name)(shown)

    return wrap
