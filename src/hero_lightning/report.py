"""A table of finished runs: `python -m hero_lightning.report run=runs/ablation-fusion`.

Data flow: run folders -> rows by what varies -> mean, spread, intervals and paired differences over seeds and folds ->
table.md, table.tex, table.csv, table.json and a picture per metric, and the same table in the terminal.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hero_lightning.config.cli import command

log = logging.getLogger(__name__)


@command("report")
def main(cfg: Any) -> None:
    """The report of the runs that `cfg.run` names, or the W&B workspace of an earlier one."""
    if isinstance(cfg.wandb, str):
        from hero_lightning.reporting import wandb_workspace

        wandb_workspace.save(Path(cfg.wandb))
        return
    places = [Path(p) for p in ([cfg.run] if isinstance(cfg.run, str) else cfg.run)]
    report(
        places,
        out=Path(cfg.out) if cfg.out else None,
        split=cfg.split,
        task=cfg.task,
        metrics=cfg.metrics,
        reference=cfg.reference,
        folds=list(cfg.folds),
        resamples=cfg.resamples,
        wandb=cfg.wandb,
    )


def report(
    places: list[Path],
    out: Path | None = None,
    split: str = "test",
    task: str | None = None,
    metrics: Any = None,
    reference: str | None = None,
    folds: list[str] | None = None,
    resamples: int = 1000,
    wandb: bool = False,
) -> list[dict[str, Any]]:
    """Compares runs and writes the table; see conf/report.yaml for the arguments.

    Returns:
        A line per row, as `evaluation.comparison.rows` gives them.

    Raises:
        ConfigError: no finished run, or a reference, task, split or metric that the runs do not have.
    """
    from hero_lightning.errors import one_of
    from hero_lightning.evaluation import comparison, runs
    from hero_lightning.reporting import summary, tables

    finished, unfinished = runs.find(places)
    table = runs.rows(finished, folds or [])
    chosen = runs.task_of(finished[0], task, split)
    fits = runs.fits(table, chosen, split)
    if reference is not None:
        one_of("reference", reference, fits)
    elif len(fits) > 1:
        reference = next(iter(fits))
    lines = comparison.rows(chosen, fits, [reference] if reference else [], resamples)
    names = list(metrics or [chosen.primary, *(m for m in lines[0]["values"] if m != chosen.primary)][:4])
    for name in names:
        one_of("metrics", name, lines[0]["values"])
    constants = _constants([r for row in table.values() for r in row.values()], chosen.name, split, names)
    cells = summary.cells(lines, names, [reference] if reference else [], constants)
    facts: dict[str, Any] = {
        "task": chosen.name, "split": split, "metrics": names, "reference": reference, "resamples": resamples,
        "constants": constants, "unfinished": [str(f) for f in unfinished],
        "runs": {name: [str(r.folder) for r in row.values()] for name, row in table.items()},
        "commits": sorted({str(r.results.get("commit")) for r in finished}),
    }  # fmt: skip
    note = (
        f"{chosen.name}, {split} split. Mean over runs ± standard deviation, [95 % interval]: bootstrap over clips, "
        f"{resamples} resamples; differences are paired by clip, p-values adjusted by Holm's method."
    )
    folder = out or (places[0] / "report" if len(places) == 1 else Path("report"))
    files = summary.write(folder, cells, lines, facts, note)
    tables.show_comparison(f"{chosen.name}, {split} split, mean over runs", lines, names[0], reference)
    if len(facts["commits"]) > 1:
        log.warning("the runs come from %d commits: %s", len(facts["commits"]), ", ".join(facts["commits"]))
    for lost in unfinished:
        log.warning("left no result: %s", lost)
    log.info("report in %s: %s", folder, ", ".join(f.name for f in files))
    if wandb:
        from hero_lightning.reporting import wandb_workspace

        wandb_workspace.write(folder, finished, chosen.name, split, names, folds or [])
    return lines


def _constants(runs: list[Any], task: str, split: str, metrics: list[str]) -> dict[str, dict[str, float]]:
    """Chance and majority -> metric -> mean over runs, where the runs know them."""
    out: dict[str, dict[str, float]] = {}
    for line in ("chance", "majority"):
        for metric in metrics:
            found = [r.results["splits"][split][task]["metrics"].get(metric, {}).get(line) for r in runs]
            known = [v for v in found if v is not None]
            if known:
                out.setdefault(line, {})[metric] = sum(known) / len(known)
    return out


if __name__ == "__main__":
    main()
