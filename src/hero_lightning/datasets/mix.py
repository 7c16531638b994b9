"""Several datasets in one run, drawn in given ratios; each keeps its own Tasks, splits, feature stores and policies.

Data flow: datasets, each with its own index -> one DatasetIndex whose ids and Tasks are keyed dataset/name -> one
loader, whose sampler draws every dataset at its ratio.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch

from hero_lightning.data.availability import DatasetIndex
from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.data.sampling import Strata
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.modality import Modality
from hero_lightning.features.source import Availability
from hero_lightning.tasks import Task
from hero_lightning.types import Sample, StoredFeatures


class MixedModality(Modality):
    """One modality of several datasets: stored features are read by the dataset's own Modality, under its own ids.

    The first part that has an encoder batches and encodes for all.
    """

    def __init__(self, parts: Mapping[str, Modality]) -> None:
        first = next((p for p in parts.values() if p.factory is not None), next(iter(parts.values())))
        mode = first.mode if len({p.mode for p in parts.values()}) == 1 else "auto"
        options = replace(first.options, fallback=first.options.fallback and mode == "preextracted")
        super().__init__(first.name, mode, first.factory, first.sampler, first.source, first.detector, options=options)
        self.parts = dict(parts)

    def _own(self, sample: Sample) -> tuple[Modality, Sample]:
        name, _, id = sample.id.partition("/")
        return self.parts[name], replace(sample, id=id)

    @property
    def dim(self) -> int:
        """Feature width D, on which all parts agree."""
        return next(iter(self.parts.values())).dim

    def identity(self) -> dict[str, Any]:
        """The identities of its parts."""
        return {"dataset": "mix", "modality": self.name, "parts": {n: m.identity() for n, m in self.parts.items()}}

    def stored(self, sample: Sample) -> StoredFeatures:
        """The features that the dataset has stored."""
        modality, own = self._own(sample)
        return modality.stored(own)

    def length(self, sample: Sample) -> int | None:
        """Steps of the clip in the dataset."""
        modality, own = self._own(sample)
        return modality.length(own)


@dataclass(kw_only=True, eq=False, repr=False)
class MixDataModule(EmotionDataModule):
    """Several datasets.

    Attributes:
        datasets: name -> dataset, with its own modalities and Tasks.
        ratios: name -> how often it is drawn in an epoch, relative to the others; an epoch has as many items as all
            train parts together. None = every item once. A small dataset repeats, a large one takes several epochs.
    """

    datasets: Mapping[str, EmotionDataModule]
    ratios: Mapping[str, float] | None = None

    name = "mix"

    def __post_init__(self) -> None:
        fitted, self.tasks = self.tasks, self._keyed_tasks()
        super().__post_init__()
        names, ratios = ", ".join(self.datasets), self.ratios
        if len(self.datasets) < 2 or "/" in names:
            expected = "at least two names without /"
            raise ConfigError("A mix needs datasets.", expected=expected, got=names, where="dataset.datasets")
        if ratios is not None and (ratios.keys() != self.datasets.keys() or min(ratios.values()) <= 0):
            expected = f"a number above 0 for each of {names}"
            raise ConfigError("ratios is wrong.", expected=expected, got=ratios, where="dataset.ratios")
        for key in ("balance", "label_map"):
            if getattr(self, key) is not None:
                hint = f"dataset.datasets.NAME.{key}=..."
                raise ConfigError(f"{key} is a setting of each part of a mix.", where=f"dataset.{key}", hint=hint)
        if self.limit is not None:
            for part in self.datasets.values():
                part.limit = min(self.limit, part.limit or self.limit)
        self.use_tasks(fitted)

    def limited(self) -> list[Sample]:
        """All samples of all datasets, each with its own limit."""
        return [_keyed(n, s) for n, datamodule in self.datasets.items() for s in datamodule.limited()]

    def use_tasks(self, fitted: Mapping[str, Task]) -> None:
        """Passes fitted Tasks, keyed dataset/name, to the datasets."""
        for name, part in self.datasets.items():
            prefix = f"{name}/"
            own = {k.removeprefix(prefix): t for k, t in fitted.items() if k.startswith(prefix)}
            part.use_tasks({k: _renamed(t, k) for k, t in own.items()})
        self.tasks = self._keyed_tasks()

    def _keyed_tasks(self) -> dict[str, Task]:
        parts = self.datasets.items()
        return {f"{n}/{k}": _renamed(t, f"{n}/{k}") for n, part in parts for k, t in part.tasks.items()}

    def build_index(self) -> DatasetIndex:
        """Indexes every dataset and joins the indices; a second call returns the same index."""
        if self._index is None:
            parts = {name: datamodule.index for name, datamodule in self.datasets.items()}
            self.tasks = self._keyed_tasks()
            dims = _widths(parts)
            self.modalities = {
                m: MixedModality({n: d.modalities[m] for n, d in self.datasets.items() if m in parts[n].dims})
                for m in dims
            }
            splits = [s for p in parts.values() for s in p.samples if s in (self.use_splits or p.samples)]
            splits = list(dict.fromkeys(splits))
            absent = Availability("absent", "the dataset has no such modality")
            self._index = DatasetIndex(
                dataset=str(self.name),
                samples={s: [_keyed(n, x) for n, p in parts.items() for x in p.samples.get(s, ())] for s in splits},
                availability={
                    f"{n}/{id}": {m: found.get(m, absent) for m in dims}
                    for n, p in parts.items()
                    for id, found in p.availability.items()
                },
                dims=dims,
                classes={key: list(t.classes) for key, t in self.tasks.items()},
                table=[replace(c, reason=f"{n}: {c.reason}") for n, p in parts.items() for c in p.table],
                ledger=[replace(e, id=f"{n}/{e.id}") for n, p in parts.items() for e in p.ledger],
                split_origin={s: "; ".join(f"{n}: {p.split_origin.get(s)}" for n, p in parts.items()) for s in splits},
                notes=[f"{n}: {note}" for n, p in parts.items() for note in p.notes],
            )
        return self._index

    def samples(self) -> list[Sample]:
        """All samples of all datasets."""
        return [_keyed(n, s) for n, datamodule in self.datasets.items() for s in datamodule.gathered]

    _gather = samples

    def fill_stores(self, device: torch.device) -> None:
        """Fills the stores of every dataset."""
        for datamodule in self.datasets.values():
            datamodule.fill_stores(device)
        self._index = None

    def setup(self, stage: str | None = None) -> None:
        """Indexes every dataset and joins the indices."""
        for datamodule in self.datasets.values():
            datamodule.setup(stage)
        self._index = None
        self.build_index()

    def items(self, split: str) -> list[tuple[int, ...]]:
        """The items of one dataset after the other."""
        parts = [d for d in self.datasets.values() if split in d.index.samples]
        starts = accumulate((len(d.index.samples[split]) for d in parts), initial=0)
        return [tuple(k + i for i in item) for k, d in zip(starts, parts, strict=False) for item in d.items(split)]

    def _strata(self, samples: Sequence[Sample], items: Sequence[tuple[int, ...]]) -> Strata:
        """The dataset of every item, and the ratios of the datasets."""
        if self.ratios is None:
            return None, None
        number = {name: k for k, name in enumerate(self.datasets)}
        return [number[samples[i[0]].id.partition("/")[0]] for i in items], [self.ratios[name] for name in number]


def _widths(parts: Mapping[str, DatasetIndex]) -> dict[str, int]:
    """Modality -> feature width. DataError where datasets differ."""
    dims: dict[str, int] = {}
    for name, index in parts.items():
        for modality, width in index.dims.items():
            if dims.setdefault(modality, width) != width:
                problem = f"Datasets of a mix have modality {modality} in different widths."
                expected, where = f"{dims[modality]}, as in the datasets before it", f"dataset.datasets.{name}"
                hint = f"give {modality} the same encoder in all datasets, or leave it out: modalities=[...]"
                raise DataError(problem, expected=expected, got=f"{width} in {name}", where=where, hint=hint)
    return dims


def _renamed(task: Task, name: str) -> Task:
    out = copy.copy(task)
    out.name = name
    return out


def _keyed(name: str, s: Sample) -> Sample:
    """A sample whose id and labels carry the dataset's name; text and speaker stay, because features depend on them."""
    return replace(s, id=f"{name}/{s.id}", labels={f"{name}/{k}": v for k, v in s.labels.items()})
