"""Scores answers in words: MER-UniBench's open-vocabulary metrics, one dataset or all nine, and descriptions.

Data flow: prediction file + labelled samples -> label lists, signs or texts -> additive statistics -> reports.

Shapes: N labelled clips of a split, S statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hero_lightning.errors import ConfigError, HeroError
from hero_lightning.evaluation import scoring
from hero_lightning.evaluation.prediction_file import Rows, columns_of, plain
from hero_lightning.metrics import captions, openvocab
from hero_lightning.metrics.bootstrap import Metrics
from hero_lightning.metrics.extraction import Extractor
from hero_lightning.metrics.wheels import Wheels
from hero_lightning.types import Sample

ANSWER_COLUMNS = ("prediction", "openset", "fileitems", "labels", "name2reason", "reason", "caption", "answer", "text")
"""Names of the column of answers, tried in order where the configuration names none."""
SIGNS = {"negative": -1, "neutral": 0, "positive": 1}
NO_ANSWER = 2


@dataclass(frozen=True, slots=True)
class TestSet:
    """One of the nine: dataset with options, split, kind of label (see `score_words`), official number of clips."""

    dataset: str
    split: str
    kind: str
    label: str
    clips: int
    options: tuple[str, ...] = ()


SUITE = {
    "MER2023": TestSet("mer2023", "test1", "hit", "emotion", 411),
    "MER2024": TestSet("mer2024", "test1", "hit", "emotion", 1169),
    "MELD": TestSet("meld", "test", "hit", "emotion", 2610),
    "IEMOCAP": TestSet("iemocap", "test", "hit", "emotion", 1241, ("dataset.protocol=4way", "dataset.fold=5")),
    "CMU-MOSI": TestSet("cmu_mosi", "test", "sentiment", "sentiment_score", 686),
    "CMU-MOSEI": TestSet("cmu_mosei", "test", "sentiment", "sentiment_score", 4659),
    "SIMS": TestSet("sims", "test", "sentiment", "sentiment_score", 457),
    "SIMS v2": TestSet("simsv2", "test", "sentiment", "sentiment_score", 1034),
    "OV-MERD+": TestSet("ovmerd_plus", "test", "open", "openset", 532),
}
"""MER-UniBench (Lian et al. 2025)."""


def score_words(
    samples: Sequence[Sample],
    kind: str,
    label: str,
    rows: Rows,
    columns: Mapping[str, str],
    extract: Extractor,
    wheels: Wheels,
    resamples: int,
) -> dict[str, Any]:
    """`scoring.report` of a split whose answers are words; the primary metric first.

    `chance` is the score of the same answers assigned to the clips at random, `majority` the best of the constant
    answers, which `baselines` compares one by one.

    Args:
        samples: the split; clips without the label are left out.
        kind: hit (one class per clip), sentiment (a score) or open (a label set).
        label: key of the label in Sample.labels.
        rows: of `read_rows`; a clip without a row has no answer, which is wrong.
        columns: `answer` = the column of the answers: a list, a class name, a sign, or free text.
        extract: labels in free text.
        wheels: emotion wheels.
        resamples: of the bootstrap.
    """
    samples = [s for s in samples if s.labels.get(label) is not None]
    column = _column(rows, [columns.get("answer"), f"{label}_prediction", label, *ANSWER_COLUMNS])
    answers = [plain(rows.get(s.id, {}).get(column)) for s in samples]
    signed = [_sign(a) if kind == "sentiment" else None for a in answers]
    texts = [i for i, a in enumerate(answers) if isinstance(a, str) and a and signed[i] is None]
    found = dict(zip(texts, extract([answers[i] for i in texts]) if texts else [], strict=True))
    labels = [
        found.get(i, list(map(str, a)) if isinstance(a, list | tuple | set) else []) for i, a in enumerate(answers)
    ]
    if kind == "sentiment":
        scored = [i for i, s in enumerate(samples) if float(s.labels[label]) != 0]
        true = [float(samples[i].labels[label]) for i in scored]
        for i, a in enumerate(answers):
            if a is None or a == "":
                signed[i] = NO_ANSWER
            elif signed[i] is None:
                word = _sign(labels[i][0]) if len(labels[i]) == 1 else None
                signed[i] = wheels.polarity(labels[i]) if word is None else word
        constants = {"always negative": [-1] * len(true), "always positive": [1] * len(true)}
        return report(
            lambda row: openvocab.sentiment_statistics(row, true),
            openvocab.sentiment_metrics,
            [signed[i] for i in scored],
            constants,
            resamples,
        )
    sets = [set(s.labels[label]) if kind == "open" else {str(s.labels[label])} for s in samples]
    out = report(
        lambda row: openvocab.statistics(row, sets, wheels),
        lambda sums: openvocab.metrics(sums, kind),
        labels,
        {f"always {', '.join(words)}": [list(words)] * len(sets) for words in openvocab.CONSTANTS[kind]},
        resamples,
    )
    return {**out, "counted": openvocab.counted(openvocab.statistics(labels, sets, wheels).sum(dim=0))}


def score_captions(
    samples: Sequence[Sample],
    rows: Rows,
    columns: Mapping[str, str],
    embed: Callable[[Sequence[str]], Tensor] | None,
    resamples: int,
) -> dict[str, dict[str, Any]]:
    """Reports by kind of description (caption, rationale) that the dataset has; arguments as in `score_words`."""
    out = {}
    for kind in ("caption", "rationale"):
        own = [s for s in samples if s.descriptions.get(kind)]
        if own:
            column = _column(rows, [columns.get(kind), kind, columns.get("answer"), *ANSWER_COLUMNS])
            true = [s.descriptions[kind] for s in own]
            texts = [str(rows.get(s.id, {}).get(column) or "") for s in own]
            measure = lambda row, true=true: captions.statistics(row, true, embed)  # noqa: E731
            out[kind] = report(measure, captions.metrics, texts, {}, resamples)
    if not out:
        expected = "a dataset with captions or rationales"
        raise ConfigError("The split has no descriptions.", expected=expected, where="dataset")
    return out


def report(
    measure: Callable[[Any], Tensor],
    metrics: Metrics,
    answers: Sequence[Any],
    constants: Mapping[str, Any],
    resamples: int,
) -> dict[str, Any]:
    """`scoring.report` of answers, with chance and constant answers; see `score_words`.

    Args:
        measure: N answers -> statistics [N, S].
        metrics, resamples: see `scoring.report`.
        answers: N answers.
        constants: name -> N answers that do not depend on the clip.
    """
    if not answers:
        return scoring.report(torch.empty(0, 0), metrics, 0)
    order = np.random.default_rng(0).permutation(len(answers))
    dealt = _floats(metrics(measure([answers[i] for i in order]).sum(dim=0)))
    others = {name: measure(row) for name, row in constants.items()}
    values = [_floats(metrics(rows.sum(dim=0))) for rows in others.values()]
    best = {k: max((v[k] for v in values), default=math.nan) for k in dealt}
    own = measure(answers)
    return scoring.report(own, metrics, len(own), resamples=resamples, chance=dealt, majority=best, others=others)


def _floats(found: Mapping[str, Tensor]) -> dict[str, float]:
    return {k: float(v) for k, v in found.items()}


def run_suite(score: Callable[[TestSet, Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Scores those of the nine test sets that have a prediction file.

    Args:
        score: a test set and its prediction file -> report.
        folder: with <dataset>.csv, .jsonl, .json or .npz.

    Returns:
        sets (name -> report), missing (name -> reason), mean of the primary metrics, complete (whether all nine are in
            the mean).

    Raises:
        ConfigError: no set could be scored.
    """
    sets: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    for name, one in SUITE.items():
        path = next((p for p in sorted(folder.glob(f"{one.dataset}.*")) if p.is_file()), None)
        if path is None:
            missing[name] = f"no {one.dataset}.csv, .jsonl, .json or .npz in {folder}"
            continue
        try:
            sets[name] = score(one, path)
        except HeroError as error:
            missing[name] = " ".join(str(error).split())
    if not sets:
        got = "; ".join(f"{k}: {v}" for k, v in missing.items())
        raise ConfigError("No test set could be scored.", expected="a file per test set", got=got, where="predictions")
    primary = [next(iter(r["metrics"].values()))["value"] for r in sets.values()]
    return {"sets": sets, "missing": missing, "mean": sum(primary) / len(primary), "complete": not missing}


def _column(rows: Rows, names: Sequence[str | None]) -> str:
    have = columns_of(rows)
    found = next((n for n in names if n in have), None)
    if found is None:
        expected, hint = " or ".join(ANSWER_COLUMNS), "columns='{answer: NAME}'"
        raise ConfigError("The file has no answers.", expected=expected, got=have, where="columns", hint=hint)
    return found


def _sign(answer: Any) -> int | None:
    """-1, 0 or 1 of a number, its text, or one of three words; None = something else."""
    if isinstance(answer, str):
        word = answer.strip().lower()
        if word in SIGNS:
            return SIGNS[word]
    try:
        value = float(answer)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(value) else int(np.sign(value))
