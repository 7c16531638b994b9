"""Several datasets in one run, drawn in given ratios; each keeps its own Tasks, splits, stores and policies.

Data flow: datasets, each indexed by itself -> one DatasetIndex whose ids and Tasks are keyed dataset/name -> one loader, whose
sampler draws every dataset in its share of an epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hero_lightning.data.availability import DatasetIndex
from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.data.sampling import Strata
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.modality import Modality
from hero_lightning.features.source import Availability
from hero_lightning.tasks import Task
from hero_lightning.types import Sample, StoredFeatures


class MixedModality(Modality):
    """One modality of several datasets: what is stored is read by the dataset' own Modality, under the clip's own id.

    The first part batches and encodes for all.
    """

    def __init__(self, parts: Mapping[str, Modality]) -> None:
        first = next(iter(parts.values()))
        self.__dict__.update(first.__dict__)
        self.parts, self.dataset = dict(parts), "mix"
        self.mode = first.mode if len({s.mode for s in parts.values()}) == 1 else "auto"

    def _own(self, sample: Sample) -> tuple[Modality, Sample]:
        name, _, id = sample.id.partition("/")
        return self.parts[name], replace(sample, id=id)

    @property
    def dim(self) -> int:
        """Feature width D, on which all parts agree."""
        return next(iter(self.parts.values())).dim

    def identity(self) -> dict[str, Any]:
        """Those of its parts."""
        return {"dataset": "mix", "modality": self.name, "parts": {n: s.identity() for n, s in self.parts.items()}}

    def stored(self, sample: Sample) -> StoredFeatures:
        """See Modality."""
        modality, own = self._own(sample)
        return modality.stored(own)

    def length(self, sample: Sample) -> int | None:
        """See Modality."""
        modality, own = self._own(sample)
        return modality.length(own)


@dataclass(kw_only=True, eq=False, repr=False)
class MixDataModule(EmotionDataModule):
    """Several datasets.

    Attributes:
        datasets: name -> dataset, with its own modalities and Tasks.
        ratios: name -> how often it is drawn in an epoch, relative to the others; an epoch has as many items as all
            train parts together. Null = every item once. A small dataset repeats, a large one is spread over epochs.
    """

    datasets: Mapping[str, EmotionDataModule]
    ratios: Mapping[str, float] | None = None

    name = "mix"

    def __post_init__(self) -> None:
        self.datasets = dict(self.datasets)
        given = dict(self.tasks)
        for name, dataset in self.datasets.items():  # Tasks of a checkpoint go to the dataset whose name they carry
            for key in dataset.tasks:
                if f"{name}/{key}" in given:
                    dataset.tasks = {**dataset.tasks, key: _renamed(given[f"{name}/{key}"], key)}
        self._keyed()
        super().__post_init__()
        names = ", ".join(self.datasets)
        if len(self.datasets) < 2 or any("/" in name for name in self.datasets):
            raise ConfigError(
                "A mix needs datasets.", expected="at least two names", got=names, where="dataset.datasets"
            )
        if self.ratios is not None and (self.ratios.keys() != self.datasets.keys() or min(self.ratios.values()) <= 0):
            expected = f"a number above 0 for each of {names}"
            raise ConfigError("ratios is wrong.", expected=expected, got=self.ratios, where="dataset.ratios")
        for key, free in (("balance", None), ("label_map", None), ("limit", None)):
            if getattr(self, key) is not free:
                hint = f"dataset.datasets.NAME.{key}=..."
                raise ConfigError(f"{key} belongs to a part of the mix.", where=f"dataset.{key}", hint=hint)

    def _keyed(self) -> None:
        """Tasks as dataset/name."""
        parts = self.datasets.items()
        self.tasks = {f"{n}/{k}": _renamed(t, f"{n}/{k}") for n, dataset in parts for k, t in dataset.tasks.items()}

    def build_index(self) -> DatasetIndex:
        """Indexes every dataset and joins their indices; a second call returns the same index."""
        if self._plan is None:
            indices = {name: dataset.index for name, dataset in self.datasets.items()}
            self._keyed()
            dims: dict[str, int] = {}
            for name, index in indices.items():
                for modality, width in index.dims.items():
                    if dims.setdefault(modality, width) != width:
                        raise DataError(
                            f"Datasets of a mix have modality {modality} in different widths.",
                            expected=f"{dims[modality]}, as in the datasets before it",
                            got=f"{width} in {name}",
                            where=f"dataset.datasets.{name}",
                            hint=f"give {modality} one encoder in all, or leave it out: modalities=[...]",
                        )
            self.modalities = {
                s: MixedModality({n: c.modalities[s] for n, c in self.datasets.items() if s in indices[n].dims})
                for s in dims
            }
            splits = dict.fromkeys(
                s for p in indices.values() for s in p.samples if s in (self.use_splits or p.samples)
            )
            absent = Availability("absent", "the dataset has no such modality")
            self._plan = DatasetIndex(
                dataset=str(self.name),
                samples={s: [_keyed(n, x) for n, p in indices.items() for x in p.samples.get(s, ())] for s in splits},
                availability={
                    f"{n}/{id}": {s: found.get(s, absent) for s in dims}
                    for n, p in indices.items()
                    for id, found in p.availability.items()
                },
                dims=dims,
                classes={key: list(t.classes) for key, t in self.tasks.items()},
                table=[replace(c, reason=f"{n}: {c.reason}") for n, p in indices.items() for c in p.table],
                ledger=[replace(e, id=f"{n}/{e.id}") for n, p in indices.items() for e in p.ledger],
                split_origin={
                    s: "; ".join(f"{n}: {p.split_origin.get(s)}" for n, p in indices.items()) for s in splits
                },
                notes=[f"{n}: {note}" for n, p in indices.items() for note in p.notes],
            )
        return self._plan

    def samples(self) -> list[Sample]:
        """All samples of all datasets."""
        return [_keyed(n, s) for n, dataset in self.datasets.items() for s in dataset.gathered]

    _gather = samples

    def prepare_data(self) -> None:
        """Every dataset writes what its own stores lack."""
        for dataset in self.datasets.values():
            dataset.trainer = self.trainer
            dataset.prepare_data()
        self._plan = None
        self.build_index()

    def setup(self, stage: str | None = None) -> None:
        """See EmotionDataModule."""
        for dataset in self.datasets.values():
            dataset.setup(stage)
        self._plan = None
        self.build_index()

    def items(self, split: str) -> list[tuple[int, ...]]:
        """The datasets's items, one dataset after the other."""
        out: list[tuple[int, ...]] = []
        start = 0
        for dataset in self.datasets.values():
            if split in dataset.index.samples:
                out += [tuple(start + i for i in item) for item in dataset.items(split)]
                start += len(dataset.index.samples[split])
        return out

    def _strata(self, samples: Sequence[Sample], items: Sequence[tuple[int, ...]]) -> Strata:
        """Dataset of every item, and the datasets's ratios."""
        if self.ratios is None:
            return None, None
        number = {name: k for k, name in enumerate(self.datasets)}
        return [number[samples[i[0]].id.partition("/")[0]] for i in items], [self.ratios[name] for name in number]


def _renamed(task: Task, name: str) -> Task:
    out = copy.copy(task)
    out.name = name
    return out


def _keyed(name: str, s: Sample) -> Sample:
    """A sample whose id and labels say which dataset they are of; its words and speaker stay, features hang on them."""
    return replace(s, id=f"{name}/{s.id}", labels={f"{name}/{k}": v for k, v in s.labels.items()})
