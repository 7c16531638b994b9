"""Colours and drawing helpers that the figures of the documentation share.

Data flow: calls in canvas units -> matplotlib artists on one axes. Needs matplotlib alone.

Units: a canvas is 1000 wide, y grows downwards; font sizes are in the same units (1 unit = 1/80 inch).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.textpath import TextToPath

WIDTH = 1000.0
PER_INCH = 80.0

INK, MUTED, LINE = "#1F2328", "#59636E", "#6E7781"
CARD, CARD_EDGE, PANEL, PANEL_EDGE = "#FFFFFF", "#D0D7DE", "#F6F8FA", "#E1E6EB"
IMPUTED, IMPUTED_FILL = "#D9480F", "#FFE8DC"
LOSS = "#B42355"
MODALITIES = {
    "frame": "#0072B2",
    "face": "#56B4E9",
    "motion": "#009E73",
    "audio": "#CC79A7",
    "au": "#E69F00",
    "text": "#7A5AC8",
}
"""Colour of every modality, in canonical order; the first five are Okabe and Ito's."""
SYNERGY = "#3B4754"
COLOURS = MODALITIES | {"synergy": SYNERGY}
MONO = "DejaVu Sans Mono"


def setup(height: float) -> tuple[Figure, Canvas]:
    """An empty canvas on a white card, so that it reads on light and dark pages."""
    mpl.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "mathtext.fontset": "dejavusans",
            "svg.fonttype": "path",
            "svg.hashsalt": "hero",
            "text.hinting": "none",
        }
    )
    figure = Figure(figsize=(WIDTH / PER_INCH, height / PER_INCH))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    axes.add_patch(rounded(2, 2, WIDTH - 2, height - 2, CARD, CARD_EDGE, radius=10))
    return figure, Canvas(axes)


def rounded(
    x0: float, y0: float, x1: float, y1: float, fill: str, edge: str, radius: float = 5, style: str = "-", z: float = 1
) -> FancyBboxPatch:
    """A box with round corners, from its left top to its right bottom corner."""
    return FancyBboxPatch(
        (x0 + radius, y0 + radius),
        x1 - x0 - 2 * radius,
        y1 - y0 - 2 * radius,
        boxstyle=f"round,pad={radius},rounding_size={radius}",
        facecolor=fill,
        edgecolor=edge,
        linewidth=1.1,
        linestyle=style,
        zorder=z,
    )


def look(colour: str, kind: str) -> tuple[str, str, Any]:
    """Fill, edge and line style of a vector: real, masked (empty, dashed) or imputed."""
    return {
        "real": (colour, CARD, "-"),
        "masked": (CARD, "#8C959F", (0, (2, 1.4))),
        "imputed": (IMPUTED_FILL, IMPUTED, "-"),
    }[kind]


class Canvas:
    """Draws on one axes in canvas units."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes

    def text(self, x: float, y: float, words: str, size: float = 12.5, **options: Any) -> None:
        """Text whose middle is at x, y unless `ha` or `va` say otherwise."""
        settings: dict[str, Any] = {"ha": "center", "va": "center", "color": INK, "zorder": 6} | options
        self.axes.text(x, y, words, fontsize=size * 72 / PER_INCH, **settings)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: str = CARD, edge: str = CARD_EDGE, style: str = "-"
    ) -> None:
        """A block."""
        self.axes.add_patch(rounded(x0, y0, x1, y1, fill, edge, style=style, z=3))

    def panel(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """A tinted area behind blocks."""
        self.axes.add_patch(rounded(x0, y0, x1, y1, PANEL, PANEL_EDGE, radius=8))

    def line(
        self,
        points: Sequence[tuple[float, float]],
        colour: str = LINE,
        style: Any = "-",
        head: bool = True,
        halo: bool = False,
        width: float = 1.3,
    ) -> None:
        """A path of straight pieces, with an arrow head at its end."""
        xs, ys = zip(*points, strict=True)
        if halo:
            self.axes.plot(xs, ys, color=PANEL, linewidth=width + 3, zorder=1.8, solid_capstyle="butt")
        body = points
        if head:  # the line ends inside the head
            (xa, ya), (xb, yb) = points[-2:]
            length = max(((xb - xa) ** 2 + (yb - ya) ** 2) ** 0.5, 1e-9)
            short = 4.0 / length
            body = [*points[:-1], (xb - (xb - xa) * short, yb - (yb - ya) * short)]
            self.axes.add_patch(
                FancyArrowPatch(
                    (xb - (xb - xa) * 8.5 / length, yb - (yb - ya) * 8.5 / length),
                    (xb, yb),
                    arrowstyle="-|>,head_length=5,head_width=2.6",
                    mutation_scale=1,
                    color=colour,
                    linewidth=0,
                    shrinkA=0,
                    shrinkB=0,
                    zorder=4,
                )
            )
        xs, ys = zip(*body, strict=True)
        self.axes.plot(
            xs, ys, color=colour, linestyle=style, linewidth=width, zorder=2, solid_joinstyle="round",
            solid_capstyle="butt",
        )  # fmt: skip

    def dot(self, x: float, y: float, colour: str = LINE) -> None:
        """A junction of lines."""
        self.axes.add_patch(Circle((x, y), 2.6, color=colour, zorder=4))

    def token(self, x: float, y: float, size: float, colour: str, kind: str = "real") -> None:
        """One vector as a square: real, masked or imputed."""
        fill, edge, style = look(colour, kind)
        self.axes.add_patch(
            Rectangle((x, y - size / 2), size, size, facecolor=fill, edgecolor=edge, linestyle=style, linewidth=0.9,
                      zorder=5)
        )  # fmt: skip

    def summary(self, x: float, y: float, colour: str, kind: str = "real") -> None:
        """An expert's summary vector as a disc: real, masked or imputed."""
        fill, edge, style = look(colour, kind)
        self.axes.add_patch(Circle((x, y), 7.5, facecolor=fill, edgecolor=edge, linestyle=style, lw=1.2, zorder=5))

    def loss(self, x: float, y: float, name: str) -> None:
        """The name of a loss term in a pill that ends at x."""
        width = 7.1 * len(name) + 13
        self.axes.add_patch(rounded(x - width, y - 8.5, x, y + 8.5, CARD, LOSS, radius=8, z=7))
        self.text(x - width / 2, y + 0.3, name, 11.5, color=LOSS, zorder=8)


def width_of(words: str, size: float, **font: Any) -> float:
    """Width of a line of text in canvas units."""
    properties = FontProperties(size=size, **font)
    return float(TextToPath().get_text_width_height_descent(words, properties, ismath=False)[0])


def wrapped(words: str, size: float, width: float, **font: Any) -> list[str]:
    """Text broken at blanks into lines of at most `width`."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width_of(longer, size, **font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Writes .svg or .png by the path's suffix, without date or version, so that equal input gives equal bytes."""
    if path.suffix == ".svg":
        FigureCanvasSVG(figure)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        return
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=dpi, transparent=True, metadata={"Software": None}, pil_kwargs={"optimize": True})
