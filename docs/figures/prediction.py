"""Draws one prediction of one clip: what the model saw, where it looked, what it answered and why.

    python -m hero_lightning.predict run=RUN video=clip.mp4 out=DIR
    python docs/figures/prediction.py DIR clip.mp4 --truth surprise --out docs/figures/prediction.png

Data flow: prediction.json of the command `predict` + the clip (PyAV) -> matplotlib -> PNG. Nothing in the picture is
written here but titles; a part of the record that is absent (no language model, no clock) is left out.

Units: see style.py. Shapes: N audio samples, T steps of a modality.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from style import (
    CARD,
    CARD_EDGE,
    COLOURS,
    IMPUTED,
    INK,
    LINE,
    MODALITIES,
    MONO,
    MUTED,
    PANEL_EDGE,
    WIDTH,
    Canvas,
    save,
    setup,
    wrapped,
)

PNG_DPI = 120
LEFT, RIGHT = 104.0, 634.0
"""Span of the time axis on the canvas."""
STRIP = 84.0
"""Height of the pictures."""
TOP, ROW = 62.0, 36.0
"""Where the pictures begin; least height of one modality's attention."""
BAR = 21.0
"""Height of one row of bars."""
SIZE, LEADING = 12.0, 17.0
"""Of running text."""


class Clip(NamedTuple):
    """What is shown of a clip.

    Attributes:
        seconds: its length.
        pictures: [H, W, 3] each, one from the middle of every equal part.
        sound: [N] mono, -1..1; empty where there is no sound.
    """

    seconds: float
    pictures: list[np.ndarray]
    sound: np.ndarray


def read(path: Path) -> Clip:
    """Pictures and sound of a clip."""
    times: list[float] = []
    pictures: list[np.ndarray] = []
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            times.append(float(frame.time or 0.0))
            pictures.append(frame.to_ndarray(format="rgb24"))
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
    seconds = times[-1] - times[0] + step
    height, width = pictures[0].shape[:2]
    count = max(1, round((RIGHT - LEFT) / (STRIP * width / height)))
    middles = (np.arange(count) + 0.5) * seconds / count
    shown = [pictures[int(np.searchsorted(np.array(times) - times[0], t, side="right")) - 1] for t in middles]
    pieces: list[np.ndarray] = []
    with av.open(str(path)) as file:
        if file.streams.audio:
            resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
            for frame in file.decode(audio=0):
                pieces += [f.to_ndarray()[0] for f in resampler.resample(frame)]
    return Clip(seconds, shown, np.concatenate(pieces) if pieces else np.zeros(0))


def axes_at(figure: Figure, x0: float, y0: float, x1: float, y1: float, height: float) -> Axes:
    """Axes whose corners are given in canvas units, without frame or ticks."""
    axes = figure.add_axes((x0 / WIDTH, 1 - y1 / height, (x1 - x0) / WIDTH, (y1 - y0) / height))
    axes.set(xticks=[], yticks=[], facecolor="none")
    axes.spines[:].set_visible(False)
    return axes


class Page:
    """The picture of one record.

    Args:
        found: the record, as `predict` wrote it.
        clip: what it is about.
        truth: label that the dataset gives the clip, if known.
    """

    def __init__(self, found: Mapping[str, Any], clip: Clip, truth: str | None) -> None:
        self.found, self.clip, self.truth = found, clip, truth
        self.task, self.answered = next((n, p) for n, p in found["predictions"].items() if "all" in p)
        self.gate: dict[str, float] = found.get("gate", {})
        self.attention: dict[str, Any] = found.get("time_attention", {})
        self.reasoning: dict[str, Any] = found.get("reasoning", {})
        self.status: dict[str, str] = found.get("modalities", found.get("streams", {}))
        self.inferred: dict[str, float] = found.get("inferred", {})
        # both columns end where the longer one does
        bars_end = 84 + 18 + BAR * len(self.answered["all"]) + 26 + (18 + BAR * len(self.gate) if self.gate else 0)
        rows_from = TOP + STRIP + 80
        self.middle = max(rows_from + ROW * len(self.attention) + 28, bars_end)
        self.row = (self.middle - 28 - rows_from) / max(len(self.attention), 1)
        self.evidence = [self._item(e) for e in self.reasoning.get("evidence", [])]
        self.reasons = self._reasons()
        rows = max(sum(len(lines) for _, _, lines, _ in self.evidence), len(self.reasons))
        self.height = self.middle + (14 + 42 + LEADING * rows + 14 if rows else 14)

    def _item(self, item: Mapping[str, Any]) -> tuple[str, str, list[str], float | None]:
        """Id, colour, lines and weight of an item of evidence."""
        sure = f" (inferred, confidence {item['confidence']:.2f})" if item["source"] == "inferred" else ""
        name = item.get("modality", item.get("stream", ""))
        colour = COLOURS.get(name, INK) if item["source"] == "observed" else IMPUTED
        weight = None if item["source"] == "absent" else float(item["weight"])
        return item["id"], colour, wrapped(item["text"] + sure, SIZE, 330), weight

    def _reasons(self) -> list[tuple[str, str]]:
        """Lines of the written answer, each with its style: key or text."""
        answer = self.reasoning.get("answer", {})
        out: list[tuple[str, str]] = []
        for key in ("emotion_caption", "rationale", "final_emotion"):
            if answer.get(key):
                out += [("key", key), *(("text", line) for line in wrapped(str(answer[key]), SIZE, 372))]
        return out

    def draw(self) -> Figure:
        """All parts."""
        figure, c = setup(self.height)
        label, sure = self.answered["label"], self.answered["confidence"]
        c.text(24, 30, f"Clip {self.found['id']}", 15, weight="bold", ha="left")
        words = f"predicted {self.task}: {label} ({sure:.2f})"
        words += "" if self.truth is None else f"     label in the dataset: {self.truth}"
        c.text(WIDTH - 24, 30, words, 13, ha="right", color=MUTED)
        c.panel(14, 50, 656, self.middle)
        c.panel(670, 50, WIDTH - 14, self.middle)
        self._timeline(figure, c)
        y = self._bars(c, 84, f"Probability of each {self.task}", self.answered["all"], {label: COLOURS["frame"]})
        self._bars(c, y + 26, "Gate weight of each expert", self.gate, COLOURS)
        if self.evidence or self.reasons:
            self._words(c)
        return figure

    def _timeline(self, figure: Figure, c: Canvas) -> None:
        """Pictures, sound and attention on one time axis."""
        width = (RIGHT - LEFT) / len(self.clip.pictures)
        for k, picture in enumerate(self.clip.pictures):
            x = LEFT + k * width
            axes = axes_at(figure, x + 1, TOP, x + width - 1, TOP + STRIP, self.height)
            axes.imshow(picture, aspect="auto", interpolation="antialiased")
        c.text(LEFT - 10, TOP + STRIP / 2, "video", ha="right")
        y = TOP + STRIP + 8
        if len(self.clip.sound):
            self._sound(axes_at(figure, LEFT, y, RIGHT, y + 44, self.height))
            c.text(LEFT - 10, y + 22, "sound", ha="right")
        y += 52
        c.text(
            LEFT,
            y + 8,
            "attention over seconds (dotted: every step alike; each row to its own scale)",
            11.5,
            ha="left",
            color=MUTED,
        )
        y += 18
        heights = {n: np.array(a["weight"]) * len(a["weight"]) for n, a in self.attention.items()}
        for name, height in heights.items():
            c.text(LEFT - 10, y + self.row - 11, name, ha="right", color=COLOURS[name], weight="bold")
            axes = axes_at(figure, LEFT, y + 4, RIGHT, y + self.row, self.height)
            self._attention(axes, np.array(self.attention[name]["seconds"]), height, COLOURS[name])
            y += self.row
        ticks = np.arange(0, self.clip.seconds + 1e-6, 0.5 if self.clip.seconds < 6 else 1.0)
        for t in ticks:
            x = LEFT + (RIGHT - LEFT) * t / self.clip.seconds
            c.axes.plot([x, x], [TOP + STRIP + 8, y], color=PANEL_EDGE, linewidth=0.9, zorder=1.2)
            c.text(x, y + 11, f"{t:g} s", 11.5, color=MUTED)

    def _sound(self, axes: Axes) -> None:
        """Range of the samples in every pixel column."""
        bins = np.array_split(self.clip.sound, 530)
        x = np.linspace(0, len(self.clip.sound) / 16000, len(bins))
        low, high = (np.array([f(b) if len(b) else 0.0 for b in bins]) for f in (np.min, np.max))
        axes.fill_between(x, low, high, color=LINE, linewidth=0.4)
        top = max(float(np.abs(self.clip.sound).max()), 1e-3)
        axes.set(xlim=(0, self.clip.seconds), ylim=(-top, top))

    def _attention(self, axes: Axes, seconds: np.ndarray, height: np.ndarray, colour: str) -> None:
        """A step for every time step, drawn to its own peak."""
        between = (seconds[1:] + seconds[:-1]) / 2
        first = max(0.0, seconds[0] - (between[0] - seconds[0] if len(between) else 0.0))
        last = min(self.clip.seconds, seconds[-1] + (seconds[-1] - between[-1] if len(between) else 0.0))
        edges = np.concatenate([[first], between, [max(last, seconds[-1])]])
        axes.stairs(height, edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(height, edges, color=colour, linewidth=1.3)
        axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.axhline(0, color=CARD_EDGE, linewidth=0.8)
        axes.set(xlim=(0, self.clip.seconds), ylim=(0, 1.05 * max(2.0, float(height.max()))))

    def _bars(self, c: Canvas, y: float, title: str, values: Mapping[str, float], colours: Mapping[str, str]) -> float:
        """Horizontal bars under a title; returns where they end."""
        c.text(684, y - 8, title, 13, weight="bold", ha="left")
        y += 18
        start, longest = 772.0, 150.0
        for name, value in values.items():
            absent = name in MODALITIES and self.status.get(name, "").startswith(("absent", "broken"))
            inferred = name in self.inferred
            c.text(start - 10, y, name, ha="right", color=IMPUTED if absent or inferred else INK)
            c.axes.add_patch(Rectangle((start, y - 7), longest, 14, facecolor=CARD, edgecolor=PANEL_EDGE, lw=0.8))
            c.axes.add_patch(
                Rectangle(
                    (start, y - 7), longest * value, 14, zorder=3, linewidth=0,
                    facecolor=IMPUTED if inferred else colours.get(name, "#9AA4AE"),
                )
            )  # fmt: skip
            c.text(start + longest + 8, y, f"{value:.2f}", ha="left", color=MUTED)
            if inferred:
                c.text(start + 6, y, "missing, imputed", 11.5, ha="left", color=IMPUTED)
            y += BAR
        return y

    def _words(self, c: Canvas) -> None:
        """Evidence, and the answer of the language model."""
        top, bottom = self.middle + 14, self.height - 14
        c.box(14, top, 560, bottom, "#FFF9E5", "#C9A227")
        c.text(28, top + 18, "Evidence in words, as the language model read it", 13, weight="bold", ha="left")
        c.text(546, top + 18, "weight", 11.5, ha="right", color=MUTED)
        y = top + 42
        for id, colour, lines, weight in self.evidence:
            c.text(28, y, id, SIZE, ha="left", family=MONO, weight="bold", color=colour)
            if weight is not None:
                c.axes.add_patch(Rectangle((452, y - 5), 60 * weight, 10, facecolor=colour, linewidth=0, zorder=4))
                c.text(546, y, f"{weight:.2f}", 11.5, ha="right", color=MUTED)
            for line in lines:
                c.text(96, y, line, SIZE, ha="left", color=IMPUTED if colour == IMPUTED else INK)
                y += LEADING
        c.box(574, top, WIDTH - 14, bottom, "#FFF9E5", "#C9A227")
        c.text(588, top + 18, "Answer of the language model", 13, weight="bold", ha="left")
        y = top + 42
        for kind, line in self.reasons:
            font: dict[str, Any] = {"family": MONO, "color": MUTED} if kind == "key" else {}
            c.text(588, y, line, 11.5 if kind == "key" else SIZE, ha="left", **font)
            y += LEADING


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads record and clip, writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prediction", type=Path, help="prediction.json, or the folder that `predict` wrote (out=)")
    parser.add_argument("clip", type=Path, help="the clip it is about")
    parser.add_argument("--truth", help="label that the dataset gives the clip")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("prediction.png"))
    given = parser.parse_args(arguments)
    path = given.prediction / "prediction.json" if given.prediction.is_dir() else given.prediction
    found = json.loads(path.read_text(encoding="utf-8"))
    save(Page(found, read(given.clip), given.truth).draw(), given.out, PNG_DPI)


if __name__ == "__main__":
    main()
