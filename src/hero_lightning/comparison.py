"""The comparison protocol without its fits: equal settings for all, figures over folds and seeds, the table.

Data flow: space -> settings; results of fits -> statistics by (seed, fold) -> mean, interval, paired differences -> markdown.

Shapes: N ids over all folds, K seeds, F folds, S statistics of a row, C classes, n validation rows.
A figure of a row is the mean over its K x F fits, and so is every resample of the bootstrap: ids are drawn, of all folds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.data.types import Label
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.metrics.bootstrap import Paired, intervals, paired_bootstrap
from hero_lightning.targets import Target


@dataclass(frozen=True, slots=True)
class Answers:
    """What one fit says about the labelled clips of a split.

    Attributes:
        ids: N names.
        truth: their labels, as `Label.value`.
        prediction: [N, C].
    """

    ids: list[str]
    truth: Tensor
    prediction: Tensor

    @staticmethod
    def of(stored: Mapping[str, Any], target: Target) -> Answers:
        """From a stored result, ids in order, so that all fits of a fold agree."""
        order = sorted(range(len(stored["ids"])), key=stored["ids"].__getitem__)
        truth = torch.tensor(stored["truth"])[order]
        prediction = torch.tensor(stored["prediction"], dtype=torch.float32).reshape(len(order), target.outputs)
        return Answers([stored["ids"][i] for i in order], truth, prediction[order])


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        name: of the model.
        values: figure -> mean over fits.
        spread: figure -> standard deviation over fits; nan of one.
        bounds: figure -> 95 % interval of the mean.
        fits: K x F.
        against: reference -> figure -> how much this row is above it.
    """

    name: str
    values: dict[str, float]
    spread: dict[str, float]
    bounds: dict[str, tuple[float, float]]
    fits: int
    against: dict[str, dict[str, Paired]]


def draw(space: Mapping[str, Any], count: int, seed: int) -> list[dict[str, float]]:
    """Random settings, the same for every model: `count` times a value per key.

    Args:
        space: config key -> list of values, or {low, high} of numbers drawn evenly by their logarithm.
        count, seed: how many, and which.

    Raises:
        ConfigError: a key with neither.
    """
    rng = np.random.default_rng(seed)
    out: list[dict[str, float]] = [{} for _ in range(count)]
    for key, of in space.items():
        ranged = isinstance(of, Mapping) and set(of) == {"low", "high"} and 0 < of["low"] <= of["high"]
        if not ranged and not (isinstance(of, list) and of):
            expected = "a list of values, or {low, high} above 0"
            raise ConfigError("A setting has no range.", expected=expected, got=of, where=f"space.{key}")
        for setting in out:
            if isinstance(of, Mapping):
                setting[key] = float(f"{math.exp(rng.uniform(math.log(of['low']), math.log(of['high']))):.3g}")
            else:
                setting[key] = of[int(rng.integers(len(of)))]
    return out


def calibrate(probability: Tensor, logits: Tensor, truth: Tensor) -> tuple[float, float]:
    """Weights a, b >= 0 of softmax(a * logits + b * log probability) that are likeliest on held-out rows.

    1 / a is the temperature of the outside logits, b against a the weight of the model.

    Args:
        probability: [n, C] of the model.
        logits: [n, C] from outside.
        truth: [n] class indices.
    """
    parts = torch.stack([logits, probability.clamp(min=1e-6).log()]).double()
    raw = torch.zeros(2, dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        # a weak pull to 1: inner clips that are all right would ask for endless weights
        value = F.cross_entropy((raw.exp()[:, None, None] * parts).sum(dim=0), truth) + 1e-3 * raw.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    a, b = raw.detach().exp().tolist()
    return a, b


def joined(answers: Answers, logits: Tensor, weights: tuple[float, float]) -> Answers:
    """Answers beside outside logits [N, C], with the weights of `calibrate`."""
    mixed = weights[0] * logits + weights[1] * answers.prediction.clamp(min=1e-6).log()
    return Answers(answers.ids, answers.truth, mixed.softmax(dim=1))


def rows(
    target: Target, found: Mapping[str, Mapping[tuple[int, int], Answers]], against: Sequence[str], resamples: int
) -> list[Row]:
    """The lines of a table.

    Args:
        target: scored.
        found: model -> (fold, seed) -> its answers on the fold's test split.
        against: models every other one is compared with.
        resamples: of the bootstrap.

    Raises:
        DataError: models that answered for other clips.
    """
    folds = sorted({fold for fits in found.values() for fold, _ in fits})
    parts = {name: _statistics(target, fits, folds) for name, fits in found.items()}
    ids = {name: [i for f in folds for i in _first(fits, f).ids] for name, fits in found.items()}
    if wrong := [name for name in ids if ids[name] != ids[next(iter(ids))]]:
        raise DataError(
            "Two models answered for other clips.",
            expected=f"the test clips of {next(iter(ids))}",
            got=f"{len(ids[wrong[0]])} clips of {wrong[0]}",
            where="the fits' results",
            mend="delete the results of one of them",
        )
    figures = partial(_means, target, len(folds), next(iter(parts.values())).shape[3])
    flat = {name: part.flatten(1) for name, part in parts.items()}
    out = []
    for name, part in parts.items():
        each = {k: v.flatten() for k, v in target.figures_of(part.sum(dim=0)).items()}  # [K F]
        bounds = intervals(flat[name], figures, resamples=resamples)
        pairs = {
            r: paired_bootstrap(flat[name], flat[r], figures, resamples=resamples)
            for r in against
            if r in flat and r != name
        }
        spread = {k: float(v.std()) if len(v) > 1 else math.nan for k, v in each.items()}
        out.append(Row(name, {k: float(v.mean()) for k, v in each.items()}, spread, bounds, len(found[name]), pairs))
    return out


def _first(fits: Mapping[tuple[int, int], Answers], fold: int) -> Answers:
    return fits[min(place for place in fits if place[0] == fold)]


def _statistics(target: Target, fits: Mapping[tuple[int, int], Answers], folds: Sequence[int]) -> Tensor:
    """[N, K, F, S]: a clip counts in its own fold, once per seed."""
    seeds, out = sorted({seed for _, seed in fits}), []
    for place, fold in enumerate(folds):
        own = torch.stack([target.statistics(fits[fold, s].prediction, fits[fold, s].truth) for s in seeds], dim=1)
        wide = own.new_zeros(len(own), len(seeds), len(folds), own.shape[-1])
        wide[:, :, place] = own
        out.append(wide)
    return torch.cat(out)


def _means(target: Target, folds: int, width: int, sums: Tensor) -> dict[str, Tensor]:
    """Summed statistics [..., K F S] -> figure -> mean over fits [...]."""
    found = target.figures_of(sums.unflatten(-1, (-1, folds, width)))
    return {k: v.flatten(-2).mean(dim=-1) for k, v in found.items()}


def constants(found: Mapping[int, tuple[Target, Answers]]) -> dict[str, dict[str, float]]:
    """`majority` and `chance` -> figure -> mean over folds; found: fold -> its fitted Target and any answers."""
    lines: dict[str, list[dict[str, float]]] = {"majority": [], "chance": []}
    for target, answers in found.values():
        label = Label(answers.truth, torch.ones(len(answers.ids), dtype=torch.bool))
        lines["majority"].append(target.majority(label))
        lines["chance"].append(target.chance(label))
    return {name: {k: sum(p[k] for p in parts) / len(parts) for k in parts[0]} for name, parts in lines.items()}


def markdown(lines: Sequence[Row], plain: Mapping[str, Mapping[str, float]], figures: Sequence[str]) -> str:
    """A table whose first figure is compared.

    Args:
        lines: rows.
        plain: name -> figure -> value of constant answers.
        figures: columns.
    """
    first, references = figures[0], list(dict.fromkeys(r for line in lines for r in line.against))
    head = ["model", *(f"{f} (95 % interval)" if f == first else f for f in figures)]
    head += [f"{first}, minus {r}" for r in references]
    out = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, values in plain.items():
        if values:
            cells = [f"{values[f]:.4f}" if f in values else "" for f in figures]
            out.append(f"| {name} | {' | '.join(cells)} | {' | '.join('' for _ in references)} |")
    for line in lines:
        cells = []
        for f in figures:
            spread = "" if math.isnan(line.spread[f]) else f" +- {line.spread[f]:.4f}"
            low, high = line.bounds[f]
            cells.append(f"{line.values[f]:.4f}{spread}" + (f" ({low:.4f} .. {high:.4f})" if f == first else ""))
        cells += [_difference(line.against[r][first]) if r in line.against else "" for r in references]
        out.append(f"| {line.name} | {' | '.join(cells)} |")
    return "\n".join(out)


def _difference(pair: Paired) -> str:
    """A paired difference; one whose interval holds zero is not significant, and says so."""
    mark = ", n.s." if pair.low <= 0 <= pair.high else ""
    return f"{pair.difference:+.4f} ({pair.low:+.4f} .. {pair.high:+.4f}{mark})"
