"""Several corpora in one run, drawn in given ratios; each keeps its own Targets, splits, stores and policies.

Data flow: corpora, each indexed by itself -> one Plan whose ids and Targets are keyed corpus/name -> one loader, whose
sampler draws every corpus in its share of an epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hero_lightning.data.availability import Plan
from hero_lightning.data.datamodule import CorpusDataModule
from hero_lightning.data.sampling import Strata
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.modality import Stream
from hero_lightning.features.source import Resolution
from hero_lightning.tasks import Target
from hero_lightning.types import Ready, Sample


class MixedStream(Stream):
    """One stream of several corpora: what is stored is read by the corpus' own Stream, under the clip's own id.

    The first part batches and encodes for all.
    """

    def __init__(self, parts: Mapping[str, Stream]) -> None:
        first = next(iter(parts.values()))
        self.__dict__.update(first.__dict__)
        self.parts, self.corpus = dict(parts), "mix"
        self.mode = first.mode if len({s.mode for s in parts.values()}) == 1 else "auto"

    def _own(self, sample: Sample) -> tuple[Stream, Sample]:
        name, _, id = sample.id.partition("/")
        return self.parts[name], replace(sample, id=id)

    @property
    def dim(self) -> int:
        """Feature width D, on which all parts agree."""
        return next(iter(self.parts.values())).dim

    def identity(self) -> dict[str, Any]:
        """Those of its parts."""
        return {"corpus": "mix", "stream": self.name, "parts": {n: s.identity() for n, s in self.parts.items()}}

    def stored(self, sample: Sample) -> Ready:
        """See Stream."""
        stream, own = self._own(sample)
        return stream.stored(own)

    def length(self, sample: Sample) -> int | None:
        """See Stream."""
        stream, own = self._own(sample)
        return stream.length(own)


@dataclass(kw_only=True, eq=False, repr=False)
class MixDataModule(CorpusDataModule):
    """Several corpora.

    Attributes:
        corpora: name -> corpus, with its own streams and Targets.
        ratios: name -> how often it is drawn in an epoch, relative to the others; an epoch has as many items as all
            train parts together. Null = every item once. A small corpus repeats, a large one is spread over epochs.
    """

    corpora: Mapping[str, CorpusDataModule]
    ratios: Mapping[str, float] | None = None

    name = "mix"

    def __post_init__(self) -> None:
        self.corpora = dict(self.corpora)
        given = dict(self.targets)
        for name, corpus in self.corpora.items():  # Targets of a checkpoint go to the corpus whose name they carry
            for key in corpus.targets:
                if f"{name}/{key}" in given:
                    corpus.targets = {**corpus.targets, key: _renamed(given[f"{name}/{key}"], key)}
        self._keyed()
        super().__post_init__()
        names = ", ".join(self.corpora)
        if len(self.corpora) < 2 or any("/" in name for name in self.corpora):
            raise ConfigError("A mix needs corpora.", expected="at least two names", got=names, where="dataset.corpora")
        if self.ratios is not None and (self.ratios.keys() != self.corpora.keys() or min(self.ratios.values()) <= 0):
            expected = f"a number above 0 for each of {names}"
            raise ConfigError("ratios is wrong.", expected=expected, got=self.ratios, where="dataset.ratios")
        for key, free in (("balance", None), ("label_map", None), ("limit", None)):
            if getattr(self, key) is not free:
                mend = f"dataset.corpora.NAME.{key}=..."
                raise ConfigError(f"{key} belongs to a part of the mix.", where=f"dataset.{key}", mend=mend)

    def _keyed(self) -> None:
        """Targets as corpus/name."""
        parts = self.corpora.items()
        self.targets = {f"{n}/{k}": _renamed(t, f"{n}/{k}") for n, corpus in parts for k, t in corpus.targets.items()}

    def index(self) -> Plan:
        """Indexes every corpus and joins their plans; a second call returns the same plan."""
        if self._plan is None:
            plans = {name: corpus.plan for name, corpus in self.corpora.items()}
            self._keyed()
            dims: dict[str, int] = {}
            for name, plan in plans.items():
                for stream, width in plan.dims.items():
                    if dims.setdefault(stream, width) != width:
                        raise DataError(
                            f"Corpora of a mix have stream {stream} in different widths.",
                            expected=f"{dims[stream]}, as in the corpora before it",
                            got=f"{width} in {name}",
                            where=f"dataset.corpora.{name}",
                            mend=f"give {stream} one encoder in all, or leave it out: streams=[...]",
                        )
            self.streams = {
                s: MixedStream({n: c.streams[s] for n, c in self.corpora.items() if s in plans[n].dims}) for s in dims
            }
            splits = dict.fromkeys(s for p in plans.values() for s in p.samples if s in (self.use_splits or p.samples))
            absent = Resolution("absent", "the corpus has no such stream")
            self._plan = Plan(
                corpus=str(self.name),
                samples={s: [_keyed(n, x) for n, p in plans.items() for x in p.samples.get(s, ())] for s in splits},
                resolutions={
                    f"{n}/{id}": {s: found.get(s, absent) for s in dims}
                    for n, p in plans.items()
                    for id, found in p.resolutions.items()
                },
                dims=dims,
                classes={key: list(t.classes) for key, t in self.targets.items()},
                table=[replace(c, reason=f"{n}: {c.reason}") for n, p in plans.items() for c in p.table],
                ledger=[replace(e, id=f"{n}/{e.id}") for n, p in plans.items() for e in p.ledger],
                split_origin={s: "; ".join(f"{n}: {p.split_origin.get(s)}" for n, p in plans.items()) for s in splits},
                notes=[f"{n}: {note}" for n, p in plans.items() for note in p.notes],
            )
        return self._plan

    def samples(self) -> list[Sample]:
        """All samples of all corpora."""
        return [_keyed(n, s) for n, corpus in self.corpora.items() for s in corpus.gathered]

    _gather = samples

    def prepare_data(self) -> None:
        """Every corpus writes what its own stores lack."""
        for corpus in self.corpora.values():
            corpus.trainer = self.trainer
            corpus.prepare_data()
        self._plan = None
        self.index()

    def setup(self, stage: str | None = None) -> None:
        """See CorpusDataModule."""
        for corpus in self.corpora.values():
            corpus.setup(stage)
        self._plan = None
        self.index()

    def items(self, split: str) -> list[tuple[int, ...]]:
        """The corpora's items, one corpus after the other."""
        out: list[tuple[int, ...]] = []
        start = 0
        for corpus in self.corpora.values():
            if split in corpus.plan.samples:
                out += [tuple(start + i for i in item) for item in corpus.items(split)]
                start += len(corpus.plan.samples[split])
        return out

    def _strata(self, samples: Sequence[Sample], items: Sequence[tuple[int, ...]]) -> Strata:
        """Corpus of every item, and the corpora's ratios."""
        if self.ratios is None:
            return None, None
        number = {name: k for k, name in enumerate(self.corpora)}
        return [number[samples[i[0]].id.partition("/")[0]] for i in items], [self.ratios[name] for name in number]


def _renamed(target: Target, name: str) -> Target:
    out = copy.copy(target)
    out.name = name
    return out


def _keyed(name: str, s: Sample) -> Sample:
    """A sample whose id and labels say which corpus they are of; its words and speaker stay, features hang on them."""
    return replace(s, id=f"{name}/{s.id}", labels={f"{name}/{k}": v for k, v in s.labels.items()})
