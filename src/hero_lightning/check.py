"""What of a corpus is there, what is missing, and how to get it: `python -m hero_lightning.check dataset=meld`.

Data flow: corpus --index--> Plan -> tables on the screen, coverage.csv and ledger.csv in the run folder; one line of
advice per stream, mode and reason.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hero_lightning.config.cli import command

if TYPE_CHECKING:
    from hero_lightning.data.availability import Coverage
    from hero_lightning.features import Stream

log = logging.getLogger(__name__)


@command("check")
def main(cfg: Any) -> None:
    """Shows the coverage of a corpus; a corpus that lacks things is no error."""
    coverage(cfg)


def coverage(cfg: Any) -> list[str]:
    """The lines of advice, after the tables were shown and written."""
    from hero_lightning.config import build
    from hero_lightning.reporting import tables

    corpus = build.corpus(cfg)
    corpus.coverage = "mask"
    for stream in corpus.streams.values():
        if stream.mode == "preextracted" and stream.source is None:
            stream.mode = "auto"  # an empty store is what this command reports, not an error
    plan = corpus.plan
    plan.write(build.run_folder())
    tables.show_plan(plan)
    counts: dict[str, int] = {}
    for row in plan.table:
        if advice := _advice(row, corpus.streams.get(row.stream), str(corpus.name)):
            counts[advice] = counts.get(advice, 0) + row.count
    lines = [advice.format(n=n) for advice, n in counts.items()]
    for line in lines or ["everything is there"]:
        log.info(line)
    log.info("every clip that lacks something: %s", build.run_folder() / "ledger.csv")
    return lines


def _advice(row: Coverage, stream: Stream | None, corpus: str) -> str | None:
    """How to get what this row of the table counts; {n} = clips. None where nothing is missing."""
    if row.mode == "preextracted":
        return None
    remedy = stream.remedy if stream is not None else "the part's own coverage command"
    reason = row.reason.replace("{", "(").replace("}", ")").removesuffix(f": {remedy}")
    head = f"{row.stream}: {{n}} clips"
    if row.mode == "realtime":
        return f"{head} can be decoded and encoded while training; to store that first: {remedy}"
    if row.mode == "broken":
        return f"{head} are broken ({reason}); replace the files named in ledger.csv"
    if "not extracted" in reason or "extracted from another" in reason:
        return f"{head} are not extracted ({reason}): {remedy}"
    return f"{head} are missing ({reason}); where to get them: docs/data/README.md, {corpus}"


if __name__ == "__main__":
    main()
