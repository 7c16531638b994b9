"""Which features and media of a dataset are available, and how to get the rest: `python -m hero_lightning.check`.

Data flow: dataset -> DatasetIndex -> tables on the screen, availability.csv and ledger.csv in the run folder; one line
of advice per modality, mode and reason.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hero_lightning.config.cli import command

if TYPE_CHECKING:
    from hero_lightning.data.availability import AvailabilityCount
    from hero_lightning.features import Modality

log = logging.getLogger(__name__)


@command("check")
def main(cfg: Any) -> None:
    """Shows the availability of a dataset; missing features or media are no error."""
    availability(cfg)


def availability(cfg: Any) -> list[str]:
    """Shows and writes the tables; returns the lines of advice."""
    from hero_lightning.config import build
    from hero_lightning.reporting import tables

    for node in cfg.modality.values():
        if node.get("mode") == "preextracted" and "_target_" not in (node.get("source") or {}):
            node.mode, node.fallback = "auto", False  # else an empty store would be an error, not a row of the tables
    datamodule = build.dataset(cfg, missing="mask")
    index = datamodule.index
    index.write(build.run_folder())
    tables.show_index(index)
    counts: dict[str, int] = {}
    for row in index.table:
        if advice := _advice(row, datamodule.modalities.get(row.modality), index.dataset):
            counts[advice] = counts.get(advice, 0) + row.count
    lines = [advice.format(n=n) for advice, n in counts.items()]
    for line in lines or ["nothing is missing"]:
        log.info(line)
    log.info("every clip with a missing modality: %s", build.run_folder() / "ledger.csv")
    return lines


def _advice(row: AvailabilityCount, modality: Modality | None, dataset: str) -> str | None:
    """How to get what this row of the table counts; {n} = clips. None where nothing is missing."""
    if row.mode == "preextracted":
        return None
    remedy = modality.remedy if modality is not None else "python -m hero_lightning.check of that part's dataset"
    reason = row.reason.replace("{", "(").replace("}", ")").removesuffix(f": {remedy}")
    head = f"{row.modality}: {{n}} clips"
    if row.mode == "realtime":
        return f"{head} can be decoded and encoded during training; to store the features first: {remedy}"
    if row.mode == "broken":
        return f"{head} are broken ({reason}); replace the files named in ledger.csv"
    if "not extracted" in reason or "extracted from another" in reason:
        return f"{head} are not extracted ({reason}): {remedy}"
    return f"{head} are missing ({reason}); where to get them: docs/data/README.md, {dataset}"


if __name__ == "__main__":
    main()
