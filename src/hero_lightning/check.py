"""What of a dataset is there, what is missing, and how to get it: `python -m hero_lightning.check dataset=meld`.

Data flow: dataset --index--> DatasetIndex -> tables on the screen, availability.csv and ledger.csv in the run folder; one line of
advice per modality, mode and reason.
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
    """Shows the availability of a dataset; a dataset that lacks things is no error."""
    availability(cfg)


def availability(cfg: Any) -> list[str]:
    """The lines of advice, after the tables were shown and written."""
    from hero_lightning.config import build
    from hero_lightning.reporting import tables

    dataset = build.dataset(cfg)
    dataset.missing = "mask"
    for modality in dataset.modalities.values():
        if modality.mode == "preextracted" and modality.source is None:
            modality.mode = "auto"  # an empty store is what this command reports, not an error
    index = dataset.index
    index.write(build.run_folder())
    tables.show_index(index)
    counts: dict[str, int] = {}
    for row in index.table:
        if advice := _advice(row, dataset.modalities.get(row.modality), str(dataset.name)):
            counts[advice] = counts.get(advice, 0) + row.count
    lines = [advice.format(n=n) for advice, n in counts.items()]
    for line in lines or ["everything is there"]:
        log.info(line)
    log.info("every clip that lacks something: %s", build.run_folder() / "ledger.csv")
    return lines


def _advice(row: AvailabilityCount, modality: Modality | None, dataset: str) -> str | None:
    """How to get what this row of the table counts; {n} = clips. None where nothing is missing."""
    if row.mode == "preextracted":
        return None
    remedy = modality.remedy if modality is not None else "the part's own availability command"
    reason = row.reason.replace("{", "(").replace("}", ")").removesuffix(f": {remedy}")
    head = f"{row.modality}: {{n}} clips"
    if row.mode == "realtime":
        return f"{head} can be decoded and encoded while training; to store that first: {remedy}"
    if row.mode == "broken":
        return f"{head} are broken ({reason}); replace the files named in ledger.csv"
    if "not extracted" in reason or "extracted from another" in reason:
        return f"{head} are not extracted ({reason}): {remedy}"
    return f"{head} are missing ({reason}); where to get them: docs/data/README.md, {dataset}"


if __name__ == "__main__":
    main()
