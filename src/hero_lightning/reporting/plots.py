"""Pictures of a run: confusion, gate weights, attention over time, training curves.

Data flow: arrays -> matplotlib (Agg, no display) -> PNG -> its path.

Shapes: C classes, N samples, E experts, R rows of a heat map, T time steps.
Colours: one hue from light to dark for amounts, the palette of Okabe & Ito (2008) for categories; colour-blind readers
can tell both apart.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe & Ito 2008, in order of contrast on white."""


def confusion(table: Tensor, classes: Sequence[str], path: Path, title: str) -> Path:
    """Confusion matrix: colour and percentage by row (recall), counts below.

    Args:
        table: [C, C] counts, truth down, prediction across.
        classes: C names.
    """
    counts = table.double()
    support = counts.sum(dim=1, keepdim=True)
    share = counts / support.clamp(min=1)
    size = max(4.0, 0.85 * len(classes) + 2.2)
    figure, (axes,) = _figure(size + 0.6, size)
    texts = [
        [f"{100 * s:.0f} %\n{int(c)}" if c else "" for s, c in zip(*row, strict=True)]
        for row in zip(share.tolist(), counts.tolist(), strict=True)
    ]
    rows = [f"{c}  ({int(n)})" for c, n in zip(classes, support[:, 0].tolist(), strict=True)]
    _heat_map(axes, share, rows, classes, texts, "share of the true class", top=1.0)
    axes.set(xlabel="predicted", ylabel="truth (samples)", title=title)
    return _save(figure, path)


def gates(gate: Tensor, experts: Sequence[str], groups: Mapping[str, Tensor], path: Path, title: str) -> Path:
    """Mean gate weight of every expert (columns) for groups of samples (rows), and over all samples.

    Args:
        gate: [N, E] weights that sum to one per sample.
        groups: row name -> [N] True where the sample belongs to it; a sample may belong to several.
    """
    rows = {k: m for k, m in groups.items() if bool(m.any())} | {"all": torch.ones(len(gate), dtype=torch.bool)}
    means = torch.stack([gate[m].double().mean(dim=0) for m in rows.values()])  # [R, E]
    figure, (axes,) = _figure(1.0 * len(experts) + 3.4, 0.5 * len(rows) + 1.9)
    texts = [[f"{v:.2f}" for v in row] for row in means.tolist()]
    names = [f"{k}  ({int(m.sum())})" for k, m in rows.items()]
    _heat_map(axes, means, names, experts, texts, "mean gate weight", top=max(float(means.max()), 1e-6))
    if len(rows) > 1:
        axes.axhline(len(rows) - 1.5, color="white", linewidth=3)
    axes.set(xlabel="expert", ylabel="group (samples)", title=title)
    return _save(figure, path)


def time_attention(attention: Mapping[str, tuple[Tensor, Tensor]], path: Path, title: str) -> Path:
    """Attention over the time of one clip, by modality, relative to uniform attention.

    Args:
        attention: modality -> times [T] in seconds and weights [T].
    """
    figure, panels = _figure(8, 1.2 * len(attention) + 1.2, rows=len(attention))
    heights = {name: weight * len(weight) / weight.sum() for name, (_, weight) in attention.items()}
    top = 1.3 * max(float(h.max()) for h in heights.values())
    for colour, axes, (name, height) in zip(_cycle(), panels, heights.items(), strict=False):
        x, y = attention[name][0].tolist(), height.tolist()
        axes.fill_between(x, y, step="mid", color=colour, alpha=0.25)
        axes.plot(x, y, color=colour, drawstyle="steps-mid", linewidth=1.5, marker="o", markersize=2.5)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        peak = max(range(len(y)), key=y.__getitem__)
        axes.annotate(f"{x[peak]:.2f} s", (x[peak], y[peak]), xytext=(4, 2), textcoords="offset points", fontsize=8)
        axes.set_ylim(0, top)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_title(title)
    panels[-1].set_xlabel("time in the clip (s); height: attention, 1 (dotted) = uniform")
    return _save(figure, path)


def metric_by_row(
    rows: Sequence[str], values: Sequence[float], intervals: Sequence[tuple[float, float]], path: Path, title: str
) -> Path:
    """A point with its 95 % interval per row of a table, first row on top.

    Args:
        rows: R names.
        values: R means over runs.
        intervals: R pairs (low, high).
    """
    figure, (axes,) = _figure(7.0, 0.4 * len(rows) + 1.4)
    places = list(range(len(rows)))
    low = [v - max(0.0, v - a) for v, (a, _) in zip(values, intervals, strict=True)]
    high = [v + max(0.0, b - v) for v, (_, b) in zip(values, intervals, strict=True)]
    axes.hlines(places, low, high, color=COLOURS[0], linewidth=2)
    axes.plot(values, places, "o", color=COLOURS[0])
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.3f}", (value, place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set(yticks=places, yticklabels=list(rows), title=title, xlabel="mean over runs, 95 % interval")
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.grid(axis="x", alpha=0.3)
    return _save(figure, path)


def training_curves(log: Path, path: Path, metrics: Sequence[str], title: str) -> Path:
    """Losses by step and validation metrics by epoch, from the CSV logger's file.

    Args:
        log: metrics.csv of Lightning's CSVLogger.
        metrics: columns of the right panel, e.g. val/emotion/weighted_f1.
    """
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    logged = {k for row in rows for k, v in row.items() if k and k.startswith("train/") and v}
    losses = sorted(logged, key=lambda k: (k != "train/loss", k))
    figure, (left, right) = _figure(11, 4, columns=2)
    _curves(left, rows, losses, "step", "training loss")
    _curves(right, rows, metrics, "epoch", "validation")
    figure.suptitle(title)
    return _save(figure, path)


def _curves(axes: Axes, rows: Sequence[Mapping[str, str]], names: Sequence[str], across: str, title: str) -> None:
    for colour, name in zip(_cycle(), names, strict=False):
        points = [(float(r[across]), float(r[name])) for r in rows if r.get(name) and r.get(across)]
        if points:
            label = name.split("/", 1)[1]
            axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1.6, marker=".")
    axes.set(xlabel=across, title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)


def _heat_map(
    axes: Axes,
    values: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    meaning: str,
    top: float,
) -> None:
    """Coloured cells [R, columns] from 0 to `top`, each with its text in black or white, whichever contrasts."""
    image = axes.imshow(values.numpy(), cmap="Blues", vmin=0, vmax=top, aspect="auto")
    turned = max((len(c) for c in columns), default=0) > 8
    axes.set_xticks(range(len(columns)), columns, rotation=30 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            ink = "white" if value > 0.6 * top else "black"
            axes.text(j, i, texts[i][j], ha="center", va="center", color=ink, fontsize=9)
    axes.figure.colorbar(image, ax=axes, label=meaning, pad=0.03)


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of width x height inches, outside pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=rows > 1, squeeze=False)
    return figure, list(axes.flat)


def _cycle() -> list[str]:
    return list(COLOURS) * 4


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
