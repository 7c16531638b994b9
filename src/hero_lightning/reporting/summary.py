"""The table of a sweep as markdown, LaTeX, csv, JSON and pictures.

Data flow: lines of `comparison.rows` -> header and cells -> table.md, table.tex, table.csv, table.json, <metric>.png.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hero_lightning.evaluation.runs import holm
from hero_lightning.features.files import write_atomic, write_csv
from hero_lightning.reporting import plots, run_folder

Cells = list[list[str]]
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
"""Characters that mean something to LaTeX -> how they are printed."""


def adjusted(lines: Sequence[Mapping[str, Any]], reference: str, metric: str) -> dict[str, float]:
    """Row -> p-value of its difference from the reference in a metric, adjusted over all rows by Holm's method."""
    names = [line["model"] for line in lines if reference in line["minus"]]
    p = [line["minus"][reference][metric]["p"] for line in lines if reference in line["minus"]]
    return dict(zip(names, holm(p), strict=True)) if p else {}


def cells(
    lines: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    references: Sequence[str],
    constants: Mapping[str, Mapping[str, float]],
) -> Cells:
    """Header and body of the table.

    Args:
        lines: of `comparison.rows`; single runs are never listed, only means over runs.
        metrics: columns; the first one is compared with the references.
        references: names in `minus` of a line that the rows are compared with.
        constants: chance and majority -> metric -> value, shown first.
    """
    first = metrics[0]
    p = {r: adjusted(lines, r, first) for r in references}
    head = ["", "runs", *metrics, *(c for r in references for c in (f"{first} minus {r}", "p (Holm)"))]
    known = {name: of for name, of in constants.items() if of}
    body = [[name, "", *(_number(of.get(m)) for m in metrics)] for name, of in known.items()]
    for line in lines:
        row = [line["model"], str(line["fits"])]
        for m in metrics:
            spread, (low, high) = line["spread"][m], line["interval"][m]
            deviation = "" if spread is None or math.isnan(spread) else f" ± {_number(spread)}"
            row.append(f"{_number(line['values'][m])}{deviation} [{_number(low)}, {_number(high)}]")
        for r in references:
            d = line["minus"].get(r, {}).get(first)
            known_p = f"{p[r][line['model']]:.3f}" if d else ""
            row += [f"{d['difference']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]" if d else "", known_p]
        body.append(row)
    return [head, *(row + [""] * (len(head) - len(row)) for row in body)]


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def markdown(table: Cells) -> str:
    """A pipe table."""
    head, *body = ([c.replace("|", "\\|") for c in row] for row in table)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)) + "\n"


def latex(table: Cells) -> str:
    """A tabular of the package booktabs."""
    rows = [
        " & ".join("".join(LATEX.get(c, "$\\pm$" if c == "±" else c) for c in cell) for cell in row) for row in table
    ]
    columns = "l" + "r" * (len(table[0]) - 1)
    body = [f"{row} \\\\" for row in rows]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            body[0],
            "\\midrule",
            *body[1:],
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )


def write(
    folder: Path, table: Cells, lines: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], note: str
) -> list[Path]:
    """Writes the table in every form, and a picture per metric; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "table.md": f"{note}\n\n{markdown(table)}",
        "table.tex": f"% {note}\n{latex(table)}",
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    run_folder.write_json(folder / "table.json", {**facts, "rows": list(lines)})
    write_csv(folder / "table.csv", table[0], table[1:])
    names = [line["model"] for line in lines]
    pictures = [
        plots.metric_by_row(
            names,
            [line["values"][m] for line in lines],
            [line["interval"][m] for line in lines],
            folder / f"{m}.png",
            m.replace("_", " "),
        )
        for m in facts["metrics"]
    ]
    return [*(folder / name for name in (*texts, "table.csv", "table.json")), *pictures]
