"""Draws the architecture of the HERO model: `python docs/figures/architecture.py` writes architecture.svg and .png.

Data flow: the numbers below -> matplotlib (Agg, SVG) -> two files beside this script. Needs matplotlib alone; the same
version of it writes the same bytes. Units: see style.py.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.patches import Circle, Rectangle
from style import (
    CARD,
    CARD_EDGE,
    IMPUTED,
    IMPUTED_FILL,
    INK,
    LINE,
    LOSS,
    MODALITIES,
    MONO,
    MUTED,
    SYNERGY,
    WIDTH,
    Canvas,
    rounded,
    save,
    setup,
)

HEIGHT = 616.0
PNG_DPI = 120

LEARNT = ("#E3EEFB", "#4F86C6")
ENCODER = ("#ECEFF2", "#9AA4AE")
WORDS = ("#FFF9E5", "#C9A227")
"""Fill and edge of a block."""
ENCODERS = {
    "frame": "CLIP", "face": "not found", "motion": "VideoMAE", "audio": "HuBERT", "au": "OpenFace", "text": "BERT"
}  # fmt: skip
"""An encoder of every modality, or why there is none."""
MISSING = "face"
"""The modality that is drawn as missing."""
GATE = (0.13, 0.05, 0.20, 0.42, 0.06, 0.11, 0.03)
"""Heights of the bars that stand for gate weights, the modalities and synergy: an illustration."""
ROWS = dict(zip(MODALITIES, (100.0 + 56.0 * i for i in range(len(MODALITIES))), strict=True))
"""Middle of every modality's row."""


def column(c: Canvas, x0: float, x1: float, title: str, note: str) -> None:
    """A panel with its title and a line below it."""
    c.panel(x0, 14, x1, 556)
    c.text((x0 + x1) / 2, 32, title, 14, weight="bold")
    c.text((x0 + x1) / 2, 51, note, 12, color=MUTED)


def inputs(c: Canvas) -> None:
    """Raw clip and stored features."""
    column(c, 14, 120, "Input", "per clip")
    c.box(24, 79, 110, 401, CARD, ENCODER[1])
    c.text(67, 100, "Raw clip", 13, weight="bold")
    for k in range(3):  # a film strip
        c.axes.add_patch(Rectangle((34 + 23 * k, 128), 20, 30, facecolor="#DCE6F2", edgecolor=LINE, lw=0.8, zorder=5))
        c.axes.add_patch(Circle((44 + 23 * k, 139), 4, facecolor="#8FA9C7", edgecolor="none", zorder=6))
        c.axes.add_patch(Rectangle((38.5 + 23 * k, 145), 11, 9, facecolor="#8FA9C7", edgecolor="none", zorder=6))
    c.text(67, 173, "video", 12, color=MUTED)
    for k, height in enumerate((3, 7, 12, 6, 14, 10, 16, 8, 13, 5, 9, 4, 7, 3)):
        c.axes.plot([37 + 4.6 * k] * 2, [217 - height, 217 + height], color=MODALITIES["audio"], lw=1.8, zorder=5)
    c.text(67, 246, "sound", 12, color=MUTED)
    for k, width in enumerate((58, 66, 44)):
        c.axes.plot([34, 34 + width], [282 + 9 * k] * 2, color=MODALITIES["text"], lw=2.4, zorder=5)
    c.text(67, 317, "words", 12, color=MUTED)
    for k, width in enumerate((30, 52, 18)):
        c.axes.add_patch(Rectangle((36, 346 + 8 * k), width, 5, facecolor=MODALITIES["au"], lw=0, zorder=5))
    c.text(67, 386, "AU table", 12, color=MUTED)
    c.box(24, 444, 110, 508, CARD, ENCODER[1])
    c.text(67, 476, "Stored\nfeatures", 13, weight="bold", linespacing=1.2)


def encoders(c: Canvas) -> None:
    """One encoder per modality."""
    column(c, 134, 254, "Encoders", "frozen or trained")
    for name, y in ROWS.items():
        gone, colour = name == MISSING, MODALITIES[name]
        c.box(144, y - 21, 244, y + 21, *((CARD, "#A9B2BC", "--") if gone else ENCODER))
        c.axes.add_patch(Rectangle((150, y - 14), 4, 28, facecolor=CARD_EDGE if gone else colour, lw=0, zorder=5))
        c.text(161, y - 7.5, name, 13, weight="bold", ha="left", color=MUTED if gone else INK)
        c.text(161, y + 8.5, ENCODERS[name], 12, ha="left", color=IMPUTED if gone else MUTED)
    c.line([(110, 240), (134, 240)])
    c.line([(110, 476), (268, 476)], halo=True)
    c.text(194, 463, "in place of", 12, color=MUTED)
    c.text(194, 489, "an encoder", 12, color=MUTED)


def experts(c: Canvas) -> None:
    """A Q-Former per modality, and the synergy expert."""
    column(c, 268, 492, "Observation experts", "one Q-Former per modality")
    c.text(280, 70, "$W$: projection", 12, ha="left", color=MUTED)
    c.text(426, 70, "tokens $F$", 12, color=MUTED)
    c.text(470, 70, "$s$", 12, color=MUTED)
    for name, y in ROWS.items():
        gone, colour = name == MISSING, MODALITIES[name]
        c.line([(244, y), (280, y)], "#A9B2BC" if gone else LINE, (0, (3, 2)) if gone else "-", halo=True)
        c.box(280, y - 21, 302, y + 21, *LEARNT)
        c.text(291, y, "$W$", 12.5)
        c.line([(302, y), (326, y)])
        c.box(326, y - 21, 394, y + 21, *LEARNT)
        c.text(360, y, "Q-Former", 12.5)
        for k in range(4):
            c.token(401 + 13 * k, y, 10.5, colour, "masked" if gone else "real")
        c.summary(470, y, colour, "masked" if gone else "real")
    for x, name in ((311, "motion"), (317, "audio")):
        c.line([(x, ROWS[name]), (x, 444)], MODALITIES[name], halo=True, width=1.6)
        c.dot(x, ROWS[name], MODALITIES[name])
    c.box(280, 444, 394, 508, *LEARNT)
    c.text(337, 462, "Synergy", 13, weight="bold")
    c.text(337, 480, "do sound and", 12, color=MUTED)
    c.text(337, 495, "motion match?", 12, color=MUTED)
    c.line([(394, 476), (461, 476)])
    c.summary(470, 476, SYNERGY)
    c.loss(398, 444, "sync")


def integration(c: Canvas) -> None:
    """Imputation, adaptive query, panoramic attention, token bank, evidence in words."""
    column(c, 506, 752, "Evidence integration", "gate, query and attention")
    left, right, middle = 532, 738, 635
    colours = (*MODALITIES.values(), SYNERGY)
    gone = list(MODALITIES).index(MISSING)
    for y in (*ROWS.values(), 476):  # summaries share a line up to the imputation
        c.line([(478, y), (500, y)], head=False)
    c.line([(500, 476), (500, 90), (left, 90)])
    c.box(left, 74, right, 120, IMPUTED_FILL, IMPUTED)
    c.text(middle, 89, "Imputation", 13, weight="bold")
    c.text(middle, 107, r"missing $s$, with confidence $\kappa$", 12, color=MUTED)
    c.line([(middle, 120), (middle, 162)])
    for k, colour in enumerate(colours):
        c.summary(middle + 19 * (k - 3), 139, colour, "imputed" if k == gone else "real")
    c.box(left, 162, right, 244, *LEARNT)
    c.text(middle, 181, "Adaptive query", 13, weight="bold")
    for k, (share, colour) in enumerate(zip(GATE, colours, strict=True)):
        x, height = 550 + 13 * k, 86 * share
        fill, edge = (IMPUTED_FILL, IMPUTED) if k == gone else (colour, "none")
        c.axes.add_patch(Rectangle((x, 232 - height), 9, height, facecolor=fill, edgecolor=edge, lw=0.9, zorder=5))
    c.axes.plot([546, 642], [232.5, 232.5], color=LINE, lw=0.9, zorder=5)
    c.text(652, 206, r"gate $\alpha$,", 12, ha="left", color=MUTED)
    c.text(652, 222, r"query $g$", 12, ha="left", color=MUTED)
    c.loss(right - 6, 162, "unimodal")
    c.loss(right - 6, 244, "entropy")
    c.line([(middle, 244), (middle, 274)])
    c.text(middle - 8, 259, "$g$", 12.5, color=MUTED, ha="right")
    c.box(left, 274, right, 324, *LEARNT)
    c.text(middle, 290, "Panoramic attention", 13, weight="bold")
    c.text(middle, 308, "$O$ learned queries, led by $g$", 12, color=MUTED)
    c.line([(middle, 354), (middle, 324)])
    c.text(middle - 8, 340, "keys, values", 12, color=MUTED, ha="right")
    c.box(left, 354, right, 406, *LEARNT)
    c.text(middle, 370, "Token bank", 13, weight="bold")
    for k, (name, colour) in enumerate(MODALITIES.items()):
        for n in range(4):
            kind = "real" if name != MISSING else "imputed" if n == 0 else "masked"
            c.token(539.5 + 32.6 * k + 7.4 * n, 391, 7.4, colour, kind)
    c.axes.plot([400, 400, 453, 453], [396, 402, 402, 396], color=LINE, lw=1.2, zorder=2)  # all tokens
    c.line([(426.5, 402), (426.5, 418), (518, 418), (518, 391), (left, 391)], halo=True)
    c.line([(left, 108), (518, 108), (518, 369), (left, 369)], IMPUTED, (0, (3, 2)))
    c.box(left, 432, right, 546, *WORDS)
    c.text(middle, 451, "Evidence in words", 13, weight="bold")
    for k, words in enumerate(("AE-01: pitch very high", "ME-01: movement large", "FE-01: face not available")):
        colour = IMPUTED if words.endswith("available") else INK
        c.text(left + 10, 471 + 16 * k, words, 12, ha="left", family=MONO, color=colour)
    c.text(middle, 520, "from measures or a decoder,", 12, color=MUTED)
    c.text(middle, 534, "ordered by weight", 12, color=MUTED)
    c.loss(right - 6, 432, "evidence")
    c.line([(492, 489), (left, 489)])


def reasoning(c: Canvas) -> None:
    """Heads, projector, language model, answer."""
    column(c, 766, 986, "Tasks and reasoning", "labels and reasons")
    left, right, middle = 782, 974, 878
    c.line([(738, 203), (759, 203)], head=False)
    c.line([(738, 299), (left, 299)])
    c.line([(759, 299), (759, 100), (left, 100)])
    c.dot(759, 299)
    c.dot(759, 203)
    c.box(left, 74, right, 126, *LEARNT)
    c.text(middle, 92, "Linear heads", 13, weight="bold")
    c.text(middle, 110, "one per task", 12, color=MUTED)
    c.loss(right - 6, 74, "task")
    c.line([(middle, 126), (middle, 150)])
    c.box(left, 150, right, 208, *WORDS)
    c.text(middle, 166, "Labels", 13, weight="bold")
    c.text(middle, 187, "class, score, label set, ...", 12, color=MUTED)
    c.text(middle, 262, "context $C$: $O$ tokens", 12, color=MUTED)
    c.box(left, 279, right, 319, *LEARNT)
    c.text(middle, 299, "Projector", 13, weight="bold")
    c.line([(middle, 319), (middle, 342)])
    c.box(left, 342, right, 406, *LEARNT)
    c.text(middle, 361, "Language model", 13, weight="bold")
    c.text(middle, 378, "frozen, LoRA or trained;", 12, color=MUTED)
    c.text(middle, 393, "also reads the transcript", 12, color=MUTED)
    c.loss(right - 6, 342, "generation")
    c.line([(738, 489), (759, 489), (759, 378), (left, 378)])
    c.line([(middle, 406), (middle, 432)])
    c.box(left, 432, right, 546, *WORDS)
    c.text(middle, 451, "Answer", 13, weight="bold")
    for k, words in enumerate(("emotion_caption", "evidence_summary", "rationale", "final_emotion")):
        c.text(left + 12, 470 + 15.5 * k, words, 12, ha="left", family=MONO)
    c.text(middle, 535, "label scored over the classes", 12, color=MUTED)


def legend(c: Canvas) -> None:
    """What colours and shapes mean."""
    y, x = 584, 22.0
    entries = (
        ("block", ENCODER, "encoder", 78),
        ("block", LEARNT, "learned", 76),
        ("block", WORDS, "text", 58),
        ("token", None, "token $[d]$", 92),
        ("summary", None, "summary $[d]$", 112),
        ("masked", None, "masked", 82),
        ("imputed", None, "imputed", 86),
        ("loss", None, "training loss", 110),
    )
    total = sum(e[3] + 24 for e in entries)
    x = (WIDTH - total) / 2 + 6
    for kind, colours, words, width in entries:
        if kind == "block" and colours is not None:
            c.box(x, y - 8, x + 18, y + 8, *colours)
        elif kind == "summary":
            c.summary(x + 9, y, MODALITIES["frame"])
        elif kind == "loss":
            c.axes.add_patch(rounded(x - 4, y - 7, x + 18, y + 7, CARD, LOSS, radius=6.5, z=7))
        else:
            c.token(x + 3, y, 12, MODALITIES["frame"], {"token": "real"}.get(kind, kind))
        c.text(x + 25, y, words, 12, ha="left", color=MUTED)
        x += width + 24


def main() -> None:
    """Writes both files."""
    figure, canvas = setup(HEIGHT)
    for draw in (inputs, encoders, experts, integration, reasoning, legend):
        draw(canvas)
    here = Path(__file__).resolve().parent
    save(figure, here / "architecture.svg", PNG_DPI)
    save(figure, here / "architecture.png", PNG_DPI)


if __name__ == "__main__":
    main()
