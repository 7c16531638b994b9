"""Scores a prediction file, or a folder of them: `python -m hero_lightning.evaluate predictions=FILE dataset=NAME`.

Data flow: rows of the file, labelled samples of a split -> Predictions per Target (or answers in words) -> reports.

Shapes: N samples of the split, C outputs of a Target.
No model, GPU, language model or clip is needed. A clip without an answer counts as wrong and is named.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning import build, runfolder, unibench
from hero_lightning.data.types import Label, Sample
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.metrics.captions import SentenceVectors
from hero_lightning.metrics.table import Predictions
from hero_lightning.metrics.wheels import Wheels
from hero_lightning.prediction_file import Rows, columns_of, plain, read_rows
from hero_lightning.targets import ScoreTarget, Target
from hero_lightning.targets.base import Unfit, number

log = logging.getLogger(__name__)

CHOICES = {"task": ("targets", "open", "caption"), "suite": (None, "unibench")}
KINDS = {"class": "hit", "score": "sentiment", "open": "open"}
"""Kind of a Target -> how answers in words are scored."""


def score(cfg: Any) -> None:
    """Scores what `cfg.predictions` names; tables and metrics.json lie in the command's run folder."""
    for key, values in CHOICES.items():
        if cfg[key] not in values:
            raise ConfigError(f"Unknown {key}.", expected=", ".join(map(str, values)), got=cfg[key], where=key)
    if cfg.predictions is None:
        raise ConfigError("A suite scores prediction files.", expected="predictions=FOLDER", where="predictions")
    path, columns, extra = Path(cfg.predictions), build.plain(cfg.columns) if cfg.columns else {}, {}
    words: Any = None
    if cfg.suite or cfg.task == "open":
        wheels = Wheels(cfg.wheels)
        lexicon = str(cfg.extractor._target_).endswith(".Lexicon")
        extract = build.make(cfg.extractor, "extractor", **({"wheels": wheels} if lexicon else {}))

        def words(corpus: Any, file: Path, split: str, kind: str, label: str) -> dict[str, Any]:
            # labels as the corpus words them, from the official parts: no Target need know them, no train part be there
            rows, own, missing = read_rows(file, columns, corpus.samples(), split)
            found = unibench.score_words(own, kind, label, rows, columns, extract, wheels, cfg.resamples)
            return {**found, "missing": missing}

    if cfg.suite:

        def one(test: unibench.TestSet, file: Path) -> dict[str, Any]:
            corpus = build.corpus(build.beside("evaluate", f"dataset={test.dataset}", *test.options))
            return words(corpus, file, test.split, test.kind, test.label)

        found = unibench.run_suite(one, path)
        reports = {name: {"open vocabulary": report} for name, report in found.pop("sets").items()}
        title, extra = f"MER-UniBench, mean of {len(reports)} of 9 test sets: {found['mean']:.4f}", found
    else:
        corpus = build.corpus(cfg, **({"label_map": build.plain(cfg.label_map)} if cfg.label_map else {}))
        title = f"{corpus.name}, {path.name}"
        if cfg.task == "open":
            target = next(iter(corpus.targets.values()))
            if target.kind not in KINDS:
                expected = "a first target of kind " + ", ".join(KINDS)
                raise ConfigError(
                    "No answer in words fits.", expected=expected, got=target.kind, where="dataset.targets"
                )
            found = {target.name: words(corpus, path, cfg.split, KINDS[target.kind], target.name)}
        else:
            rows, own, missing = read_rows(path, columns, corpus.gathered, cfg.split)
            if cfg.task == "caption":
                embed = SentenceVectors(cfg.sentence_encoder) if cfg.sentence_encoder else None
                found = unibench.score_captions(own, rows, columns, embed, cfg.resamples)
            else:
                said = answered(own, corpus.targets, rows, columns, cfg.label_map or {})
                found = runfolder.scores(corpus.targets, said, resamples=cfg.resamples)
            extra = {"missing": missing}
        reports = {cfg.split: found}
    facts = {
        "predictions": str(path),
        "intervals": f"95 % percentile bootstrap, {cfg.resamples} resamples of single samples",
        **extra,
        **runfolder.provenance(),
    }
    runfolder.write_json(build.run_folder() / "metrics.json", {**facts, "splits": reports})
    runfolder.show_results(title, reports)
    for name, reason in extra.get("missing", {}).items() if cfg.suite else ():
        log.warning("%s is not in the mean: %s", name, reason)


def answered(
    samples: Sequence[Sample],
    targets: Mapping[str, Target],
    rows: Rows,
    columns: Mapping[str, str],
    names: Mapping[str, str],
) -> dict[str, Predictions]:
    """The file's answers to every Target it answers.

    Args:
        columns: Target name -> its column; else <target>_p_<class>, <target>_prediction or <target>.
        names: classes as the file calls them -> as the corpus does.
    """
    have = columns_of(rows)
    found: dict[str, Predictions] = {}
    for name, target in targets.items():
        if target.kind == "open":
            log.warning("target %s is not scored here: task=open does", name)
            continue
        parts = [f"{name}_p_{c}" for c in target.classes if name not in columns]
        usual = [columns[name]] if name in columns else [f"{name}_prediction", name]
        column = next((c for c in usual if c in have), None)
        whole = bool(parts) and set(parts) <= set(have)
        if not whole and column is None:
            log.warning("target %s is not scored: no column %s", name, " or ".join(usual))
            continue
        label = target.collate([s.labels.get(target.name) for s in samples], [s.id for s in samples])
        prediction = _worst(target, label)
        for i, s in enumerate(samples):
            row = rows.get(s.id, {})
            value = [row.get(c) for c in parts] if whole else plain(row.get(column or ""))
            if not any(v is None or v == "" for v in (value if whole else [value])):
                prediction[i] = _coded(target, value, names, s.id, whole)
        found[name] = Predictions(torch.arange(len(samples)), prediction, label)
    if not found:
        expected = ", ".join(f"{n}_prediction" for n in targets)
        mend = "columns.TARGET=NAME, or task=open"
        raise ConfigError("The file answers no target.", expected=expected, got=have, where="columns", mend=mend)
    return found


def _coded(target: Target, value: Any, names: Mapping[str, str], place: str, whole: bool) -> Tensor:
    """One answer (`whole`: C cells) -> [C]; numbers that are no shares are taken as logits."""
    try:
        if isinstance(value, list) and (whole or not any(isinstance(v, str) for v in value)):
            row = torch.tensor([number(v) for v in value])
            if len(row) != target.outputs:
                raise Unfit("Wrong number of values", target.outputs, len(row))
            logits = target.kind in ("class", "distribution") and (row.min() < 0 or abs(float(row.sum()) - 1) > 1e-3)
            return row.softmax(dim=-1) if logits else row
        if target.kind in ("score", "pair"):
            return torch.tensor([number(value)])
        if isinstance(value, str):
            value = names.get(value, value) if target.kind == "class" else [v for v in value.split("|") if v]
        code = torch.tensor(target.code(value))
        return F.one_hot(code, target.outputs) if target.kind == "class" else code
    except Unfit as error:
        problem, expected, got = error.args
        raise DataError(f"{problem} in the prediction file.", expected=expected, got=got, where=place) from None


def _worst(target: Target, label: Label) -> Tensor:
    """Answers [N, C] that are wrong whatever the figure: what a clip without an answer counts as."""
    y = label.value
    if isinstance(target, ScoreTarget):  # the far end of the scale
        return torch.where(y > target.middle, target.low, target.high).unsqueeze(-1)
    if target.kind == "distribution":
        return F.one_hot(y.argmin(dim=-1), target.outputs).float()
    if target.kind == "multilabel":
        return 1 - y
    return torch.full((len(y), target.outputs), torch.nan if target.kind == "pair" else 0.0)
