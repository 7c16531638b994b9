"""The files and tables a run leaves behind: predictions.csv, metrics.json, the plan and the closing table.

Data flow: SplitRecord per split -> predictions.csv (a line per sample) and, with intervals and baselines, metrics.json.

Shapes: N samples of a split, C outputs of a Target.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from hero_lightning.data.types import Label, Sample
from hero_lightning.metrics import classification
from hero_lightning.metrics.bootstrap import Figures, Groups, intervals, paired_bootstrap
from hero_lightning.metrics.table import Explanations, Predictions
from hero_lightning.reasoning.evidence import EvidenceItem, named_streams
from hero_lightning.targets import Target

if TYPE_CHECKING:
    from rich.table import Table

    from hero_lightning.data.coverage import Plan

log = logging.getLogger(__name__)

WIDTH = 132
"""Columns of the tables where no terminal says how many there are."""
PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "transformers", "numpy", "av")
"""Whose versions can change a result."""


@dataclass(slots=True)
class SplitRecord:
    """One pass over a split.

    Attributes:
        samples: N samples by row number.
        predictions: Target name -> N predictions, by row number.
        explanations: what explains them, by row number.
        linear: the linear head's predictions on the first Target, where a language model answers for it.
        answers: written answers by row number; not of every row.
    """

    split: str
    samples: list[Sample]
    predictions: dict[str, Predictions]
    explanations: Explanations
    linear: Predictions | None = None
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)


def score(target: Target, found: Predictions, groups: Groups = None, resamples: int = 1000) -> dict[str, Any]:
    """`report` of one fitted Target on one split, per_class filled, for classes with classes and confusion.

    `groups` are N names of what is drawn together (dialogues); None = every sample on its own.
    """
    label, mask = found.label, found.label.mask
    rows = target.statistics(found.prediction[mask], label.value[mask])
    lines = target.figures(found.prediction, label), target.chance(label), target.majority(label)
    out = report(rows, target.figures_of, len(mask), _pick(groups, mask), resamples, *lines)
    if out["labelled"]:
        out["per_class"] = target.per_class(found.prediction, label)
        if confusion := getattr(target, "confusion", None):
            out["classes"], out["confusion"] = list(target.classes), confusion(found.prediction, label).tolist()
    return out


def report(
    rows: Tensor,
    figures: Figures,
    n: int,
    groups: Groups,
    resamples: int,
    values: Mapping[str, Any] | None = None,
    chance: Mapping[str, Any] | None = None,
    majority: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """n, labelled, figures (name -> value, low, high, chance, majority) and an empty per_class, in builtins.

    Args:
        rows: [L, S] statistics of the labelled ones of n rows; without any there is no figure.
        figures, groups, resamples: see `intervals`.
        values: the figures, where there are more than the statistics give; those have no interval.
        chance, majority: figure -> what guessing and the best constant answer get, where known.
    """
    out: dict[str, Any] = {"n": n, "labelled": len(rows), "figures": {}, "per_class": {}}
    if len(rows):
        bounds = intervals(rows, figures, groups=groups, resamples=resamples)
        for name, value in (values or figures(rows.sum(dim=0))).items():
            low, high = bounds.get(name, (None, None))
            lines = {"chance": (chance or {}).get(name), "majority": (majority or {}).get(name)}
            out["figures"][name] = {"value": float(value), "low": low, "high": high, **lines}
    return out


def scores(
    targets: Mapping[str, Target], found: Mapping[str, Predictions], groups: Groups = None, resamples: int = 1000
) -> dict[str, dict[str, Any]]:
    """Target -> `score`, and what a corpus makes of two of them."""
    reports = {name: score(targets[name], p, groups, resamples) for name, p in found.items()}
    return reports | combined(targets, found, groups, resamples)


def combined(
    targets: Mapping[str, Target], found: Mapping[str, Predictions], groups: Groups = None, resamples: int = 1000
) -> dict[str, dict[str, Any]]:
    """MER2023's figure of MULTI and NOISE, weighted F1 - 0.25 MSE, where a corpus asks for it; else nothing.

    The first class Target and the ScoreTarget with `figures: mer2023` go together; only clips that carry both labels
    count (SEMI has no valence).
    """
    named = [n for n in found if targets[n].kind == "class"][:1]
    named += [n for n in found if getattr(targets[n], "form", "") == "mer2023"][:1]
    if len(named) < 2:
        return {}
    kind, score_of = (targets[n] for n in named)
    mask = found[named[0]].label.mask & found[named[1]].label.mask
    if not bool(mask.any()):
        return {}
    parts = [targets[n].statistics(found[n].prediction[mask], found[n].label.value[mask]) for n in named]

    def figures(sums: Tensor) -> dict[str, Tensor]:
        classes, scores = sums.split([p.shape[1] for p in parts], dim=-1)
        return {"combined": kind.figures_of(classes)["weighted_f1"] - 0.25 * score_of.figures_of(scores)["mse"]}

    constant = [targets[n].majority(Label(found[n].label.value, mask)) for n in named]
    majority = {"combined": constant[0]["weighted_f1"] - 0.25 * constant[1]["mse"]} if all(constant) else {}
    rows, groups = torch.cat(parts, dim=1), _pick(groups, mask)
    return {" and ".join(named): report(rows, figures, len(mask), groups, resamples, majority=majority)}


def compare(
    target: Target, found: Predictions, other: Tensor, groups: Groups = None, resamples: int = 1000
) -> dict[str, dict[str, float]]:
    """Figures of another system on the same rows, and how far ours is from it.

    `other` are [M, C] predictions, row number = place in the split. Figure -> value (theirs), difference (ours -
    theirs), low, high, p.
    """
    mask, theirs = found.label.mask, other[found.index]
    value = found.label.value[mask]
    ours, rows = (target.statistics(p[mask], value) for p in (found.prediction, theirs))
    paired = paired_bootstrap(ours, rows, target.figures_of, groups=_pick(groups, mask), resamples=resamples)
    figures = target.figures(theirs, found.label)
    return {k: {"value": figures[k], **asdict(d)} for k, d in paired.items()}


def written(target: Target, record: SplitRecord, groups: Groups = None, resamples: int = 1000) -> dict[str, Any]:
    """What the written answers of a split are worth; arguments and form as in `score`.

    Figures: weighted_f1 and accuracy of the labels in the answers (no label is wrong, never some class), parse_rate
    (answers that are JSON of the schema), agreement of written and scored label; where the corpus knows which
    streams carry the emotion, names_informative: how often the first stream a rationale names is one of them.
    """
    label, names = record.predictions[target.name].label, target.classes
    rows = [row for row in record.answers if label.mask[row]]
    answers = [record.answers[row] for row in rows]
    marks = []
    for row, answer in zip(rows, answers, strict=True):
        carriers = record.samples[row].truth.get("informative_streams") or ()
        first = named_streams(str(answer["answer"].get("rationale", "")))[:1]
        parsed, agrees = answer["status"] in ("ok", "repaired"), answer["generated"] == answer["label"]
        marks.append((1.0, parsed, agrees, bool(carriers), bool(carriers) and first != [] and first[0] in carriers))
    votes = classification.votes([a["generated"] for a in answers], names)
    additive = classification.statistics(votes, label.value[rows])
    additive = torch.cat([additive, torch.tensor(marks, dtype=additive.dtype).reshape(-1, 5)], dim=1)
    known = any(mark[3] for mark in marks)

    def figures(sums: Tensor) -> dict[str, Tensor]:
        of_class = classification.figures(sums[..., :-5], len(names))
        n, parsed, agrees, told, named = sums[..., -5:].unbind(-1)
        found = {k: of_class[k] for k in ("weighted_f1", "accuracy")}
        found |= {"parse_rate": parsed / n, "agreement": agrees / n}
        return found | ({"names_informative": named / told} if known else {})

    groups = groups and [groups[row] for row in rows]
    status = dict(Counter(str(a["status"]) for a in record.answers.values()))
    return report(additive, figures, len(record.answers), groups, resamples) | {"status": status}


def answer_row(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A written answer as a row of a table."""
    evidence = "\n".join(EvidenceItem(**e).line(show_weight=True) for e in answer["evidence"])
    kept = ("id", "truth", "label", "confidence", "generated", "status")
    return {**{k: answer[k] for k in kept}, "evidence": evidence, "text": answer["text"]}


def _pick(groups: Groups, mask: Tensor) -> list[Hashable] | None:
    return None if groups is None else [g for g, m in zip(groups, mask.tolist(), strict=True) if m]


def prediction_rows(record: SplitRecord, targets: Mapping[str, Target]) -> Iterator[dict[str, Any]]:
    """A line per sample: id, split, <target>_<column> of every Target, gate and importance, present, imputed."""
    columns: dict[str, Sequence[Any]] = {}
    for name, found in record.predictions.items():
        for column, values in targets[name].columns(found.prediction, found.label).items():
            columns[f"{name}_{column}"] = values
    for name, numbers in record.explanations.numbers.items():
        if not name.startswith(("present_", "imputed_")):
            columns[name] = numbers.tolist()
    for flag in ("present", "imputed"):
        names, table = record.explanations.matrix(flag)
        columns[flag] = ["|".join(n for n, v in zip(names, row, strict=True) if v) for row in table.tolist()]
    for i, sample in enumerate(record.samples):
        yield {"id": sample.id, "split": record.split, **{k: _short(v[i]) for k, v in columns.items()}}


def _short(value: Any) -> Any:
    if isinstance(value, float):  # None, not "": a W&B table wants one type per column
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value


def write_predictions(path: Path, records: Iterable[SplitRecord], targets: Mapping[str, Target]) -> None:
    """Writes predictions.csv, a line per sample of every split."""
    rows = [row for record in records for row in prediction_rows(record, targets)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(k for row in rows for k in row)))
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON that every reader takes: numbers that are none become null."""
    path.write_text(json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plan_facts(folder: Path) -> dict[str, Any]:
    """What a result must carry of plan.json: corpus, counts, where the splits come from, notes; empty without one."""
    path = folder / "plan.json"
    plan = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {k: plan[k] for k in ("corpus", "counts", "split_origin", "notes") if k in plan}


def provenance() -> dict[str, Any]:
    """Command, commit, versions and hardware of this process."""
    versions = {"python": platform.python_version()}
    for package in ("hero-lightning", *PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "command": " ".join(sys.argv),
        "commit": _commit(),
        "versions": versions,
        "hardware": {
            "machine": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        },
    }


def _commit() -> str | None:
    """Commit of the checkout this package runs from, `-dirty` where files differ from it; None if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # else git would name the repository around an installed package
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def note_test(folder: Path) -> int:
    """Notes in a finished run's folder that its test split is scored once more; returns how often it was."""
    path = folder / "test_uses.txt"
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now().isoformat(timespec='seconds')} {' '.join(sys.argv)}\n")
    uses = len(path.read_text(encoding="utf-8").splitlines())
    log.warning("the test split of %s has been scored %d times since its training", folder, uses)
    return uses


def show_plan(plan: Plan) -> None:
    """Shows samples per split, how every stream is had, and the notes a result must carry."""
    splits = _table(f"corpus {plan.corpus}", ("split", "samples", "where it comes from"), numbers=(1,))
    for split, samples in plan.samples.items():
        splits.add_row(split, str(len(samples)), plan.split_origin.get(split, ""))
    streams = _table("streams", ("stream", "split", "mode", "samples", "reason"), numbers=(3,))
    for c in plan.table:
        streams.add_row(c.stream, c.split, c.mode, str(c.count), c.reason)
    _show(splits, streams, *plan.notes)


def show_results(title: str, reports: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Shows the closing table of split -> Target name -> what `score` gave, with `baselines`: name -> `compare`'s."""
    head = ("split", "target", "figure", "value", "95 % interval", "chance", "majority")
    table = _table(title, head, numbers=(3, 4, 5, 6))
    head = ("split", "against", "figure", "theirs", "ours by", "95 % interval", "p")
    versus = _table("against simpler systems, same rows", head, numbers=(3, 4, 5, 6))
    for split, by_target in reports.items():
        for target, report in by_target.items():
            place = (f"{split} ({report['labelled']})", target)
            for name, f in report["figures"].items():
                table.add_row(
                    *place, name, _number(f["value"]), _bounds(f), _number(f["chance"]), _number(f["majority"])
                )
                place = ("", "")
            for other, figures in report.get("baselines", {}).items():
                name, f = next(iter(figures.items()))
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

    # A log file or pipe has no width of its own; rich would take 80 columns and cut the figures.
    console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False)  # "[frame]" is no markup
    for part in parts:
        console.print(part)
