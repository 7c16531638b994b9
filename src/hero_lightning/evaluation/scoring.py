"""Metrics of a split, with intervals, chance and majority baselines.

Data flow: Predictions + labels -> row statistics of the labelled rows -> `report`: metrics, intervals, comparisons.

Shapes: N rows of a split, L labelled ones, S statistics, C outputs of a Task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from hero_lightning.metrics import classification
from hero_lightning.metrics.bootstrap import Groups, Metrics, intervals, paired_bootstrap
from hero_lightning.metrics.table import Explanations, Predictions
from hero_lightning.reasoning.evidence import named_modalities
from hero_lightning.tasks import Task
from hero_lightning.types import Label, Sample


@dataclass(slots=True)
class SplitRecord:
    """One pass over a split.

    Attributes:
        samples: N samples by row number.
        predictions: Task name -> N predictions, by row number.
        explanations: gate, presence, imputation and importance, by row number.
        linear: the linear head's predictions on the first Task, where a language model answers for it.
        answers: written answers by row number; not of every row.
    """

    split: str
    samples: list[Sample]
    predictions: dict[str, Predictions]
    explanations: Explanations
    linear: Predictions | None = None
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)


def report(
    rows: Tensor,
    metrics: Metrics,
    n: int,
    groups: Groups = None,
    resamples: int = 1000,
    *,
    values: Mapping[str, float] | None = None,
    chance: Mapping[str, float] | None = None,
    majority: Mapping[str, float] | None = None,
    others: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """The report that every table, metrics.json and W&B show, in builtins.

    Args:
        rows: [L, S] statistics of the labelled ones of n rows; without any there is no metric.
        metrics, groups, resamples: see `intervals`; groups names the L rows.
        values: the metrics, where there are more than the statistics give; those have no interval.
        chance, majority: metric -> value of uniform guessing and of the best constant answer, where known.
        others: name of another system -> its statistics [L, S] of the same rows.

    Returns:
        n, labelled, metrics (name -> value, low, high, chance, majority), per_class (empty), baselines (name -> metric
        -> value of the other system, difference = ours - theirs, low, high, p).
    """
    out: dict[str, Any] = {"n": n, "labelled": len(rows), "metrics": {}, "per_class": {}, "baselines": {}}
    if not len(rows):
        return out
    bounds = intervals(rows, metrics, groups=groups, resamples=resamples)
    for name, value in (values or metrics(rows.sum(dim=0))).items():
        low, high = bounds.get(name, (None, None))
        lines = {"chance": (chance or {}).get(name), "majority": (majority or {}).get(name)}
        out["metrics"][name] = {"value": float(value), "low": low, "high": high, **lines}
    for name, theirs in (others or {}).items():
        value_of = metrics(theirs.sum(dim=0))
        paired = paired_bootstrap(rows, theirs, metrics, groups=groups, resamples=resamples)
        out["baselines"][name] = {k: {"value": float(value_of[k]), **asdict(d)} for k, d in paired.items()}
    return out


def score(
    task: Task,
    found: Predictions,
    groups: Groups = None,
    resamples: int = 1000,
    others: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """`report` of one fitted Task on one split, with per_class, and for a class Task with classes and confusion.

    Args:
        task, found: what is scored.
        groups: N names of what is drawn together (dialogues); None = every sample on its own.
        resamples: of the bootstrap.
        others: name -> predictions [M, C] of another system, row number = place in the split.
    """
    label, mask = found.label, found.label.mask
    value = label.value[mask]
    out = report(
        task.statistics(found.prediction[mask], value), task.metrics_of, len(mask), _pick(groups, mask), resamples,
        values=task.metrics(found.prediction, label), chance=task.chance(label), majority=task.majority(label),
        others={name: task.statistics(p[found.index][mask], value) for name, p in (others or {}).items()},
    )  # fmt: skip
    if out["labelled"]:
        out["per_class"] = task.per_class(found.prediction, label)
        if confusion := getattr(task, "confusion", None):
            out["classes"], out["confusion"] = list(task.classes), confusion(found.prediction, label).tolist()
    return out


def scores(
    tasks: Mapping[str, Task],
    found: Mapping[str, Predictions],
    groups: Groups = None,
    resamples: int = 1000,
    others: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Task name -> `score`, and the metric that a dataset makes of two of them; others: Task name -> see `score`."""
    reports = {n: score(tasks[n], p, groups, resamples, (others or {}).get(n)) for n, p in found.items()}
    return reports | combined(tasks, found, groups, resamples)


def combined(
    tasks: Mapping[str, Task], found: Mapping[str, Predictions], groups: Groups = None, resamples: int = 1000
) -> dict[str, dict[str, Any]]:
    """MER2023's metric of MULTI and NOISE, weighted F1 - 0.25 MSE, where a dataset asks for it; else nothing.

    It joins the first class Task and the ScoreTask with `metrics: mer2023`; only clips that carry both labels count
    (SEMI has no valence).
    """
    named = [n for n in found if tasks[n].kind == "class"][:1]
    named += [n for n in found if getattr(tasks[n], "metric_set", "") == "mer2023"][:1]
    if len(named) < 2:
        return {}
    kind, score_of = (tasks[n] for n in named)
    mask = found[named[0]].label.mask & found[named[1]].label.mask
    if not bool(mask.any()):
        return {}
    parts = [tasks[n].statistics(found[n].prediction[mask], found[n].label.value[mask]) for n in named]

    def metrics(sums: Tensor) -> dict[str, Tensor]:
        classes, scores = sums.split([p.shape[1] for p in parts], dim=-1)
        return {"combined": kind.metrics_of(classes)["weighted_f1"] - 0.25 * score_of.metrics_of(scores)["mse"]}

    constant = [tasks[n].majority(Label(found[n].label.value, mask)) for n in named]
    majority = {"combined": constant[0]["weighted_f1"] - 0.25 * constant[1]["mse"]} if all(constant) else {}
    rows = torch.cat(parts, dim=1)
    return {" and ".join(named): report(rows, metrics, len(mask), _pick(groups, mask), resamples, majority=majority)}


def written(task: Task, record: SplitRecord, groups: Groups = None, resamples: int = 1000) -> dict[str, Any]:
    """`report` of the written answers of a split; arguments as in `score`.

    Metrics: weighted_f1 and accuracy of the labels in the answers (an answer without a label is wrong), parse_rate
    (answers that are JSON of the schema), agreement of written and scored label; where the dataset knows which
    modalities carry the emotion, names_informative: how often the first modality a rationale names is one of them.
    """
    label, names = record.predictions[task.name].label, task.classes
    rows = [row for row in record.answers if label.mask[row]]
    answers = [record.answers[row] for row in rows]
    marks = []
    for row, answer in zip(rows, answers, strict=True):
        carriers = record.samples[row].truth.get("informative_modalities") or ()
        first = named_modalities(str(answer["answer"].get("rationale", "")))[:1]
        parsed, agrees = answer["status"] in ("ok", "repaired"), answer["generated"] == answer["label"]
        marks.append((1.0, parsed, agrees, bool(carriers), bool(carriers) and first != [] and first[0] in carriers))
    votes = classification.votes([a["generated"] for a in answers], names)
    additive = classification.statistics(votes, label.value[rows])
    additive = torch.cat([additive, torch.tensor(marks, dtype=additive.dtype).reshape(-1, 5)], dim=1)
    known = any(mark[3] for mark in marks)

    def metrics(sums: Tensor) -> dict[str, Tensor]:
        of_class = classification.metrics(sums[..., :-5], len(names))
        n, parsed, agrees, with_carriers, named = sums[..., -5:].unbind(-1)
        found = {k: of_class[k] for k in ("weighted_f1", "accuracy")}
        found |= {"parse_rate": parsed / n, "agreement": agrees / n}
        return found | ({"names_informative": named / with_carriers} if known else {})

    groups = groups and [groups[row] for row in rows]
    status = dict(Counter(str(a["status"]) for a in record.answers.values()))
    return report(additive, metrics, len(record.answers), groups, resamples) | {"status": status}


def _pick(groups: Groups, mask: Tensor) -> list[Hashable] | None:
    return None if groups is None else [g for g, m in zip(groups, mask.tolist(), strict=True) if m]
