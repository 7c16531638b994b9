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
"""Width of the tables where standard output is no terminal."""


def show_index(index: DatasetIndex) -> None:
    """Shows samples per split, where every modality comes from, and the notes of the index."""
    splits = _table(f"dataset {index.dataset}", ("split", "samples", "where it comes from"), numbers=(1,))
    for split, samples in index.samples.items():
        splits.add_row(split, str(len(samples)), index.split_origin.get(split, ""))
    modalities = _table("modalities", ("modality", "split", "mode", "samples", "reason"), numbers=(3,))
    for c in index.table:
        modalities.add_row(c.modality, c.split, c.mode, str(c.count), c.reason)
    _show(splits, modalities, *index.notes)


def show_results(title: str, reports: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Shows the results; reports: split -> Task name -> `scoring.report`."""
    head = ("split", "task", "metric", "value", "95 % interval", "chance", "majority")
    table = _table(title, head, numbers=(3, 4, 5, 6))
    head = ("split", "baseline", "metric", "theirs", "difference", "95 % interval", "p")
    baselines = _table("baselines on the same rows", head, numbers=(3, 4, 5, 6))
    for split, by_task in reports.items():
        for task, report in by_task.items():
            place = (f"{split} ({report['labelled']})", task)
            for name, f in report["metrics"].items():
                table.add_row(
                    *place, name, _number(f["value"]), _bounds(f), _number(f["chance"]), _number(f["majority"])
                )
                place = ("", "")
            for other, metrics in report["baselines"].items():
                name, f = next(iter(metrics.items()))
                difference = f"{f['difference']:+.4f}"
                baselines.add_row(split, other, name, _number(f["value"]), difference, _bounds(f), f"{f['p']:.3f}")
    _show(table, *([baselines] if baselines.rows else []))


def show_comparison(title: str, lines: Sequence[Mapping[str, Any]], metric: str, reference: str | None) -> None:
    """Shows one metric of every row of `comparison.rows`, and its difference from the reference."""
    head = ("row", "runs", metric, "std", "95 % interval", *(("difference", "95 % interval") if reference else ()))
    table = _table(title, head, numbers=range(1, len(head)))
    for line in lines:
        low, high = line["interval"][metric]
        row = [line["model"], str(line["fits"]), _number(line["values"][metric]), _number(line["spread"][metric])]
        d = line["minus"].get(reference, {}).get(metric)
        versus = ([f"{d['difference']:+.4f}", _bounds(d)] if d else ["", ""]) if reference else []
        table.add_row(*row, _bounds({"low": low, "high": high}), *versus)
    _show(table, *([f"differences are from {reference}"] if reference else []))


def _bounds(metric: Mapping[str, float | None]) -> str:
    return f"{_number(metric['low'])} .. {_number(metric['high'])}" if _number(metric["low"]) else ""


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

    # Without a terminal rich would assume 80 columns and cut the metrics.
    console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False)  # "[frame]" is no markup
    for part in parts:
        console.print(part)
