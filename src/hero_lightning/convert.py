"""Writes a dataset as a feature folder or as shards, or checks such a folder: `python -m hero_lightning.convert`.

Data flow: dataset with filled stores -> out/features, labels.json, classes.json, splits.json | out/*.tar; or
check=DIR -> faults.csv.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hero_lightning.config.cli import command

log = logging.getLogger(__name__)


@command("convert")
def main(cfg: Any) -> None:
    """Writes the folder or the shards, or lists the faults of a folder (exit code 1 if there are any)."""
    if convert(cfg):
        raise SystemExit(1)


def convert(cfg: Any) -> int:
    """The number of faults found with check=DIR; else 0."""
    from hero_lightning.config import build
    from hero_lightning.datasets.export import Fault, check_folder, write_folder
    from hero_lightning.datasets.shards import write_shards
    from hero_lightning.errors import ConfigError, one_of
    from hero_lightning.features.files import write_csv

    if (cfg.out is None) == (cfg.check is None):
        expected, got = "one of out=DIR and check=DIR", "none" if cfg.out is None else "both"
        raise ConfigError(
            "Either out or check must be given, and not both.", expected=expected, got=got, where="convert"
        )
    one_of("form", cfg.form, ("folder", "shards"))
    if cfg.check is not None:
        faults = check_folder(Path(cfg.check))
        write_csv(build.run_folder() / "faults.csv", Fault, faults)
        for fault in faults[: cfg.show]:
            log.error("%s: %s. Hint: %s", fault.id, fault.problem, fault.hint)
        log.info("%d faults in %s, listed in %s", len(faults), cfg.check, build.run_folder() / "faults.csv")
        return len(faults)
    datamodule = build.dataset(cfg)
    if cfg.features or cfg.form == "shards":
        datamodule.prepare_data()
    out = Path(cfg.out)
    written = write_shards(datamodule, out) if cfg.form == "shards" else write_folder(datamodule, out, cfg.features)
    counts = ", ".join(f"{name} {n}" for name, n in written.items())
    log.info("%d samples of %s in %s, with features: %s", len(datamodule.gathered), datamodule.name, cfg.out, counts)
    log.info("python -m hero_lightning.train dataset=%s dataset.root=%s", cfg.form, cfg.out)
    return 0


if __name__ == "__main__":
    main()
