"""The comparison protocol without its fits: settings drawn for all models, metrics over folds and seeds, the table.

Data flow: space -> settings; results of fits -> statistics by (seed, fold) -> means, intervals, differences -> table.

Shapes: N ids over all folds, K seeds, F folds, S statistics of a row, C classes, n validation rows.
A metric is the mean over K x F fits, and so is every resample of the bootstrap, which draws ids of all folds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.source import FeatureSource
from hero_lightning.metrics.bootstrap import intervals, paired_bootstrap
from hero_lightning.tasks import Task
from hero_lightning.types import Label, Sample


@dataclass(frozen=True, slots=True)
class Answers:
    """Predictions [N, C] of one fit for the labelled clips of a split, with their N ids and truth (`Label.value`)."""

    ids: list[str]
    truth: Tensor
    prediction: Tensor

    @staticmethod
    def sorted(ids: Sequence[str], truth: Tensor, prediction: Tensor) -> Answers:
        """Rows sorted by id, so that all fits of a fold have the same order."""
        order = sorted(range(len(ids)), key=ids.__getitem__)
        return Answers([ids[i] for i in order], truth[order], prediction[order])


Fits = dict[tuple[int, int], Answers]
"""Fold and seed -> answers."""


def draw(space: Mapping[str, Any], count: int, seed: int) -> list[dict[str, Any]]:
    """Random settings, the same for every model.

    Args:
        space: config key -> list of values, or {low, high} of a number drawn log-uniformly.
        count, seed: how many settings, and which.

    Raises:
        ConfigError: a key with neither.
    """
    rng = np.random.default_rng(seed)
    for key, of in space.items():
        ranged = isinstance(of, Mapping) and set(of) == {"low", "high"} and 0 < of["low"] <= of["high"]
        if not ranged and not (isinstance(of, list) and of):
            expected = "a list of values, or {low, high} above 0"
            raise ConfigError("A setting has no range.", expected=expected, got=of, where=f"space.{key}")

    def one(of: Any) -> Any:
        if isinstance(of, list):
            return of[int(rng.integers(len(of)))]
        return float(f"{math.exp(rng.uniform(math.log(of['low']), math.log(of['high']))):.3g}")

    return [{key: one(of) for key, of in space.items()} for _ in range(count)]


def gather(results: Mapping[tuple[str, int, int], Any], task: Task, split: str = "test") -> dict[str, Fits]:
    """Stored results by (model, fold, seed) -> model -> its answers on a split."""
    out: dict[str, Fits] = {}
    for (model, *place), result in results.items():
        stored = result[split]
        prediction = torch.tensor(stored["prediction"], dtype=torch.float32).reshape(-1, task.outputs)
        fold, seed = place
        out.setdefault(model, {})[fold, seed] = Answers.sorted(stored["ids"], torch.tensor(stored["truth"]), prediction)
    return out


def external_logits(sources: Sequence[FeatureSource], ids: Sequence[str]) -> Tensor:
    """Logits [N, C] of clips, each from the first source that has it; DataError where none does."""
    out = []
    for sample in (Sample(i, "") for i in ids):
        source = next((s for s in sources if s.contains(sample)), None)
        if source is None:
            raise DataError("A clip has no external logits.", expected="a row", got=sample.id, where="late.sources")
        out.append(source.read(sample).x[0])
    return torch.stack(out)


def calibrate(probability: Tensor, logits: Tensor, truth: Tensor) -> tuple[float, float]:
    """Weights a, b > 0 of softmax(a * logits + b * log probability) with the least cross-entropy on held-out rows.

    1 / a is the temperature of the external logits, b / a the weight of the model relative to them.

    Args:
        probability: [n, C] of the model.
        logits: [n, C] external ones.
        truth: [n] class indices.
    """
    parts = torch.stack([logits, probability.clamp(min=1e-6).log()]).double()
    raw = torch.zeros(2, dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        # a weak prior at 1: without it the weights diverge where all held-out rows are right
        value = F.cross_entropy((raw.exp()[:, None, None] * parts).sum(dim=0), truth) + 1e-3 * raw.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    a, b = raw.detach().exp().tolist()
    return a, b


def add_late(
    found: dict[str, Fits], inner: Mapping[str, Fits], name: str, logits: Callable[[Sequence[str]], Tensor]
) -> dict[str, list[float]]:
    """Fuses every model's test answers with external logits, weighted on validation; adds a row of the logits alone.

    Args:
        found: model -> answers on test; changed in place.
        inner: model -> answers on validation.
        name: of the row of the external logits alone.
        logits: ids -> [N, C].

    Returns:
        Model, fold and seed -> the two weights of `calibrate`.
    """
    weights = {}
    alone = {p: Answers(a.ids, a.truth, logits(a.ids).softmax(dim=1)) for p, a in next(iter(found.values())).items()}
    for model, fits in found.items():
        for (fold, seed), test in fits.items():
            held = inner[model][fold, seed]
            a, b = calibrate(held.prediction, logits(held.ids), held.truth)
            mixed = a * logits(test.ids) + b * test.prediction.clamp(min=1e-6).log()
            fits[fold, seed] = Answers(test.ids, test.truth, mixed.softmax(dim=1))
            weights[f"{model} fold {fold} seed {seed}"] = [a, b]
    found[name] = alone
    return weights


def rows(
    task: Task,
    found: Mapping[str, Fits],
    against: Sequence[str],
    resamples: int,
    compared: Mapping[str, Mapping[str, Fits]] | None = None,
) -> list[dict[str, Any]]:
    """The lines of a table.

    Args:
        task: scored.
        found: model -> its answers on test, by fold and seed.
        against: models that every other one is compared with.
        resamples: of the bootstrap.
        compared: other tables on the same clips; a model is compared with itself there.

    Returns:
        Per model: model, fits, values, spread (nan of one fit), interval; and minus: reference -> metric -> difference,
        low, high, p.

    Raises:
        DataError: two models answered for different clips.
    """
    folds = sorted({fold for fits in found.values() for fold, _ in fits})
    tables = {"": found, **(compared or {})}  # "" = this table
    fits = {(name, table): models[name] for table, models in tables.items() for name in found if name in models}
    parts = {key: _statistics(task, made, folds) for key, made in fits.items()}
    ids = {key: [(f, made[p].ids) for p in sorted(made) for f in p[:1]] for key, made in fits.items()}
    known = dict(next(iter(ids.values())))
    for key, by_fold in ids.items():
        if any(known[fold] != own for fold, own in by_fold):
            hint = "delete the results of one of them"
            got = " on ".join(filter(None, key))
            raise DataError("Two models answered for different clips.", expected=next(iter(ids))[0], got=got, hint=hint)
    metrics = partial(_means, task, len(folds), next(iter(parts.values())).shape[3])
    flat = {key: part.flatten(1) for key, part in parts.items()}
    out = []
    for name in found:
        each = {k: v.flatten() for k, v in task.metrics_of(parts[name, ""].sum(dim=0)).items()}  # [K F]
        own = flat[name, ""]
        others = {r: flat[r, ""] for r in against if r in found and r != name}
        others |= {f"itself on {t}": flat[name, t] for t in tables if t and (name, t) in flat}
        pairs = {r: paired_bootstrap(own, theirs, metrics, resamples=resamples) for r, theirs in others.items()}
        line = {
            "model": name,
            "fits": len(found[name]),
            "values": {k: float(v.mean()) for k, v in each.items()},
            "spread": {k: float(v.std()) if len(v) > 1 else math.nan for k, v in each.items()},
            "interval": intervals(own, metrics, resamples=resamples),
            "minus": {r: {k: asdict(d) for k, d in pair.items()} for r, pair in pairs.items()},
        }
        out.append(line)
    return out


def _statistics(task: Task, fits: Fits, folds: Sequence[int]) -> Tensor:
    """Statistics [N, K, F, S]: zero but for the clip's own fold, once per seed."""
    seeds, out = sorted({seed for _, seed in fits}), []
    for place, fold in enumerate(folds):
        own = torch.stack([task.statistics(fits[fold, s].prediction, fits[fold, s].truth) for s in seeds], dim=1)
        wide = own.new_zeros(len(own), len(seeds), len(folds), own.shape[-1])
        wide[:, :, place] = own
        out.append(wide)
    return torch.cat(out)


def _means(task: Task, folds: int, width: int, sums: Tensor) -> dict[str, Tensor]:
    """Summed statistics [..., K F S] -> metric -> mean over fits [...]."""
    found = task.metrics_of(sums.unflatten(-1, (-1, folds, width)))
    return {k: v.flatten(-2).mean(dim=-1) for k, v in found.items()}


def constants(tasks: Mapping[int, Task], fits: Fits) -> dict[str, dict[str, float]]:
    """`majority` and `chance` -> metric -> mean over folds; tasks: fold -> the Task fitted on its train split."""
    lines: dict[str, list[dict[str, float]]] = {"majority": [], "chance": []}
    for fold, answers in {fold: answers for (fold, _), answers in fits.items()}.items():
        label = Label(answers.truth, torch.ones(len(answers.ids), dtype=torch.bool))
        lines["majority"].append(tasks[fold].majority(label))
        lines["chance"].append(tasks[fold].chance(label))
    return {name: {k: sum(p[k] for p in parts) / len(parts) for k in parts[0]} for name, parts in lines.items()}
