"""Tables in the terminal: the dataset index, the results."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytorch_lightning.utilities import rank_zero_only

if TYPE_CHECKING:
    from rich.table import Table

    from hero_lightning.data.availability import DatasetIndex

WIDTH = 132
"""Columns of the tables where no terminal says how many there are."""


def show_index(index: DatasetIndex) -> None:
    """Shows samples per split, how every modality is had, and the notes a result must carry."""
    splits = _table(f"dataset {index.dataset}", ("split", "samples", "where it comes from"), numbers=(1,))
    for split, samples in index.samples.items():
        splits.add_row(split, str(len(samples)), index.split_origin.get(split, ""))
    modalities = _table("modalities", ("modality", "split", "mode", "samples", "reason"), numbers=(3,))
    for c in index.table:
        modalities.add_row(c.modality, c.split, c.mode, str(c.count), c.reason)
    _show(splits, modalities, *index.notes)


def show_results(title: str, reports: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Shows the closing table of split -> Task name -> what `score` gave, with `baselines`: name -> `compare`'s."""
    head = ("split", "task", "figure", "value", "95 % interval", "chance", "majority")
    table = _table(title, head, numbers=(3, 4, 5, 6))
    head = ("split", "against", "figure", "theirs", "ours by", "95 % interval", "p")
    versus = _table("against simpler systems, same rows", head, numbers=(3, 4, 5, 6))
    for split, by_task in reports.items():
        for task, report in by_task.items():
            place = (f"{split} ({report['labelled']})", task)
            for name, f in report["metrics"].items():
                table.add_row(
                    *place, name, _number(f["value"]), _bounds(f), _number(f["chance"]), _number(f["majority"])
                )
                place = ("", "")
            for other, metrics in report.get("baselines", {}).items():
                name, f = next(iter(metrics.items()))
                difference = f"{f['difference']:+.4f}"
                versus.add_row(split, other, name, _number(f["value"]), difference, _bounds(f), f"{f['p']:.3f}")
    _show(table, *([versus] if versus.rows else []))


def _bounds(figure: Mapping[str, float | None]) -> str:
    """The interval, nothing where there is none."""
    return f"{_number(figure['low'])} .. {_number(figure['high'])}" if _number(figure["low"]) else ""


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def _table(title: str, columns: Sequence[str], numbers: Sequence[int]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i in numbers else "left", no_wrap=column != "reason")
    return table


@rank_zero_only
def _show(*parts: Table | str) -> None:
    from rich.console import Console

    # A log file or pipe has no width of its own; rich would take 80 columns and cut the metrics.
    console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False)  # "[frame]" is no markup
    for part in parts:
        console.print(part)
