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

WIDTH = 80
"""Width of the tables where standard output is no terminal; columns of words wrap, numbers are never cut."""


def show_index(index: DatasetIndex) -> None:
    """Shows samples per split, where every modality comes from and what it lacks, and the notes of the index."""
    counts = ", ".join(f"{split} {len(samples)}" for split, samples in index.samples.items())
    origins = "; ".join(dict.fromkeys(index.split_origin.values()))
    table = _table(
        f"dataset {index.dataset}: {counts}" + (f" ({origins})" if origins else ""),
        ("modality", *index.samples, "from", "missing"),
        numbers=range(1, 1 + len(index.samples)),
    )
    for modality in dict.fromkeys(c.modality for c in index.table):
        own = [c for c in index.table if c.modality == modality]
        there = [c for c in own if c.mode in ("preextracted", "realtime")]
        cells = []
        for split in index.samples:
            count, total = (sum(c.count for c in rows if c.split == split) for rows in (there, own))
            cells.append(str(count) if count == total else f"{count}/{total}")
        lacking: dict[str, int] = {}
        for c in own:
            if c not in there:
                lacking[f"{c.mode}: {c.reason}"] = lacking.get(f"{c.mode}: {c.reason}", 0) + c.count
        sources = dict.fromkeys(f"{c.mode}: {c.reason}" for c in there)
        table.add_row(modality, *cells, "; ".join(sources), "; ".join(f"{n} {why}" for why, n in lacking.items()))
    _show(table, *index.notes)


def show_results(title: str, reports: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Shows the results, a table per split; reports: split -> Task name -> `scoring.report`."""
    head = ("task", "metric", "value", "95 % interval", "chance", "majority")
    versus = ("baseline", "metric", "theirs", "difference", "95 % interval", "p")
    for split, by_task in reports.items():
        rows = {report["labelled"] for report in by_task.values()}
        size = f" ({rows.pop()})" if len(rows) == 1 else ""
        table = _table(f"{title}, {split}{size}", head, numbers=(2, 3, 4, 5))
        baselines = _table(f"{split}: baselines on the same rows", versus, numbers=(2, 3, 4, 5))
        for task, report in by_task.items():
            place = task if size else f"{task} ({report['labelled']})"
            for name, f in report["metrics"].items():
                table.add_row(
                    place, name, _number(f["value"]), _bounds(f), _number(f["chance"]), _number(f["majority"])
                )
                place = ""
            for other, metrics in report["baselines"].items():
                name, f = next(iter(metrics.items()))
                baselines.add_row(
                    other, name, _number(f["value"]), f"{f['difference']:+.4f}", _bounds(f), f"{f['p']:.3f}"
                )
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
        table.add_column(column, justify="right" if i in numbers else "left", no_wrap=i in numbers, overflow="fold")
    return table


@rank_zero_only
def _show(*parts: Table | str) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False)  # "[frame]" is no markup
    for part in parts:
        console.print(part)
