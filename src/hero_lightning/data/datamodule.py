"""EmotionDataModule: the samples of a dataset, the availability of their modalities, and the loaders that serve them.

Data flow: samples() -> unique ids, dialogues, splits, Tasks fitted on train -> Availability, policy -> DatasetIndex
-> EpochBatchSampler -> ItemDataset (worker) -> Collate -> Batch.

A dataset is a subclass that implements `samples`. Everything is decided when the dataset is indexed; a clip is never
replaced by another one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal
from weakref import WeakSet

import torch
from pytorch_lightning import LightningDataModule

from hero_lightning.data import availability
from hero_lightning.data.availability import POLICIES, DatasetIndex, Entry
from hero_lightning.data.collate import BatchLoader, Collate, ItemDataset
from hero_lightning.data.sampling import EpochBatchSampler, EvalBatchSampler, Strata
from hero_lightning.data.splits import SPLIT_NAMES, check_leaks, check_unique, make_splits
from hero_lightning.errors import ConfigError, DataError, in_range, one_of
from hero_lightning.features.extraction import fill
from hero_lightning.features.modality import Modality
from hero_lightning.tasks import Task
from hero_lightning.types import Sample, dialogues, link_dialogues

log = logging.getLogger(__name__)

CHOICES = {"missing": POLICIES, "unit": ("clip", "dialogue"), "unknown_label": ("error", "drop")}
"""Possible values of settings that every dataset has."""
RANGES = {"batch_size": "[1, inf)", "num_workers": "[0, inf)", "seed": "[0, inf)", "val_fraction": "(0, 1)"}


@dataclass(kw_only=True, eq=False, repr=False)
class EmotionDataModule(LightningDataModule):
    """Base class of every dataset.

    A subclass implements `samples` and may set the class attributes below. Keys are those of config group `dataset`.

    Attributes:
        modalities: name -> Modality, in canonical order.
        tasks: name -> Task; those without a train label are left out when the dataset is indexed.
        features_root: folder of our own feature stores.
        batch_size: items per batch and process.
        num_workers: processes that read clips; 0 = the training process.
        seed: decides the order of training items.
        balance: Task (of kind class) whose classes are drawn equally often; None = every item once per epoch.
        bucket: whether items of similar length share a batch.
        unit: what an item is: clip, or dialogue (all its turns in order; batch_size then counts dialogues).
        missing: policy for a clip that lacks a modality: error, skip (left out), mask (kept without it).
        unknown_label: policy for a label outside the class list: error, or drop (counted).
        label_map: class names of this dataset -> those of the Tasks (of a model of another dataset); unknown labels are
            then dropped and counted.
        val_fraction: share of train that becomes validation where the dataset has none.
        test_fraction: the same for test; 0 = no test split.
        test_from: split that serves as test where the dataset has none, e.g. dev; validation then comes from train.
        split_seed: decides such splits; separate from `seed`, so that runs of several seeds share their splits.
        limit: only the first `limit` samples of every split.
        use_splits: only these are indexed and served (evaluation); None = all.
        choices, ranges: setting of the subclass -> its possible values, or its interval (see `in_range`).
        class_orders: official class order by Task, used where the config gives none.
        official_counts: official number of samples by split.
        known_broken: ids whose media are broken in the official release.
        apart: units that no two splits may share (see `check_leaks`).
        group: what samples with the same `dialogue` have in common, if it is not a conversation.
    """

    root: Path | str
    modalities: Mapping[str, Modality]
    tasks: Mapping[str, Task]
    features_root: Path | str
    batch_size: int = 16
    num_workers: int = 0
    seed: int = 0
    balance: str | None = None
    bucket: bool = True
    unit: str = "clip"
    missing: str = "mask"
    unknown_label: Literal["error", "drop"] = "error"
    label_map: Mapping[str, str] | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.0
    test_from: str | None = None
    split_seed: int = 0
    limit: int | None = None
    use_splits: Sequence[str] | None = None

    name = "dataset"
    choices: ClassVar[Mapping[str, Sequence[Any]]] = {}
    ranges: ClassVar[Mapping[str, str]] = {}
    class_orders: ClassVar[Mapping[str, Sequence[str]]] = {}
    official_counts: ClassVar[Mapping[str, int]] = {}
    known_broken: ClassVar[frozenset[str]] = frozenset()
    apart: ClassVar[tuple[str, ...]] = ("dialogue",)
    group: ClassVar[str] = "dialogue"

    def __post_init__(self) -> None:
        super().__init__()
        self.root, self.features_root = Path(self.root), Path(self.features_root)
        self.modalities, self.tasks = dict(self.modalities), dict(self.tasks)
        self._samples: list[Sample] | None = None
        self._origin: dict[str, str] = {}
        self._notes: list[str] = []
        self._ledger: list[Entry] = []
        self._index: DatasetIndex | None = None
        self._loaders: WeakSet[BatchLoader] = WeakSet()
        for key, known in {**CHOICES, **self.choices, "balance": (None, *self._class_tasks())}.items():
            one_of(f"dataset.{key}", getattr(self, key), known)
        for key, interval in {**RANGES, **self.ranges, "test_fraction": f"[0, {1 - self.val_fraction})"}.items():
            in_range(f"dataset.{key}", getattr(self, key), interval)
        in_range("dataset.limit", 1 if self.limit is None else self.limit, "[1, inf)")
        for key in ("modalities", "tasks"):
            if not getattr(self, key):
                raise ConfigError(f"The dataset has no {key}.", expected="at least one", where=f"dataset.{key}")

    def use_tasks(self, fitted: Mapping[str, Task]) -> None:
        """Uses fitted Tasks (of a checkpoint) in place of its own of the same names; call it before `build_index`."""
        self.tasks = {name: fitted.get(name, task) for name, task in self.tasks.items()}

    # ---- what a dataset defines

    def samples(self) -> list[Sample]:
        """All samples with the dataset's own splits and label names. Subclasses implement this."""
        raise TypeError(f"{type(self).__name__} does not define samples")

    def items(self, split: str) -> list[tuple[int, ...]]:
        """The items of a split by `unit`: row numbers of samples that belong together."""
        samples = self.index.samples[split]
        return dialogues(samples) if self.unit == "dialogue" else [(row,) for row in range(len(samples))]

    def class_order(self, task: str) -> Sequence[str]:
        """The official class order of a Task; empty = sorted names of the train split."""
        return self.class_orders.get(task, ())

    def official(self) -> Mapping[str, int]:
        """Official number of samples by split; a dataset with several protocols overrides this."""
        return self.official_counts

    # ---- index

    def build_index(self) -> DatasetIndex:
        """Reads the dataset and decides everything about it; a second call returns the same index."""
        if self._index is None:
            self._index = self._check(self.gathered)
        return self._index

    @property
    def index(self) -> DatasetIndex:
        """The index, built on first use."""
        return self.build_index()

    @property
    def gathered(self) -> list[Sample]:
        """All samples with splits, turns and labels, before availability is checked and `missing` is applied."""
        if self._samples is None:
            self._samples = self._gather()
        return list(self._samples)

    def limited(self) -> list[Sample]:
        """The samples that commands on media read: all; with `limit` the first of every split, as in training."""
        return link_dialogues(self.samples()) if self.limit is None else self.gathered

    @property
    def dims(self) -> dict[str, int]:
        """Feature width of every modality in use."""
        return self.index.dims

    def _gather(self) -> list[Sample]:
        """Samples with unique ids, turns, splits and labels that the fitted Tasks can encode."""
        samples = self.samples()
        if not samples:
            raise self._wrong("The dataset has no samples.", expected="at least one", hint="dataset.root=FOLDER")
        check_unique((s.id, f"sample {n} ({s.split})") for n, s in enumerate(samples, start=1))
        found = Counter(s.split for s in samples)
        for split, official in self.official().items():
            self._compare_count(f"{self.name} {split} has", found.get(split, official), "samples", official)
        samples, self._origin = make_splits(
            link_dialogues(samples),
            {"test": self.test_fraction, "val": self.val_fraction},
            seed=self.split_seed,
            test_from=SPLIT_NAMES.get(self.test_from or "", self.test_from),
            label=next(iter(self._class_tasks()), None),
        )
        for split, origin in self._origin.items():
            self._origin[split] = origin.replace("dialogue", self.group)
            log.debug("%s: %s samples, %s", split, sum(s.split == split for s in samples), self._origin[split])
        leaks = "; ".join(check_leaks(samples, self.apart, self.group))
        log.info("leak check: %s", leaks or "no dialogue, speaker or video is named")
        if names := self.label_map:
            own = {self.tasks[n].name for n in self._class_tasks()}
            samples = [
                replace(s, labels={k: names.get(str(v), v) if k in own else v for k, v in s.labels.items()})
                for s in samples
            ]
        self._fit([s for s in samples if s.split == "train"])
        place = {split: count() for split in sorted({s.split for s in samples})}
        wanted = self.use_splits or place
        for split in wanted:
            one_of("dataset.use_splits", split, place, DataError)
        limit = len(samples) if self.limit is None else self.limit
        return self._encodable([s for s in samples if next(place[s.split]) < limit and s.split in wanted])

    def _wrong(self, problem: str, *, expected: str, hint: str, got: str = "none") -> DataError:
        return DataError(problem, expected=expected, got=got, where=f"{self.name} {self.root}", hint=hint)

    def _compare_count(self, subject: str, found: int, unit: str, official: int) -> None:
        if found != official:
            self._note(f"{subject} {found} {unit}; the official count is {official}")

    def _note(self, sentence: str) -> None:
        log.warning(sentence)
        self._notes.append(sentence)

    def _fit(self, train: Sequence[Sample]) -> None:
        """Fits Tasks on the train split; one that is fitted already (from a checkpoint) stays as it is."""
        kept: dict[str, Task] = {}
        for name, task in self.tasks.items():
            if not task.classes:
                task.classes = tuple(self.class_order(task.name))
            values = [s.labels[task.name] for s in train if s.labels.get(task.name) is not None]
            if train and not values:
                self._note(f"task {name} is left out: no train sample has a label {task.name!r}")
                continue
            if task.prior is None and train:
                task.fit(values)
            if not task.outputs:
                problem, hint = f"The classes of task {name} are unknown.", f"++dataset.tasks.{name}.classes=[...]"
                raise self._wrong(problem, expected="a train split to take them from, or a list", hint=hint)
            kept[name] = task
        if not kept:
            found = sorted({k for s in train for k in s.labels})
            expected, hint = f"train labels for one of {', '.join(self.tasks)}", "add a task under dataset.tasks"
            raise self._wrong("No task is left.", expected=expected, got=f"labels {found}", hint=hint)
        self.tasks = kept

    def _encodable(self, samples: list[Sample]) -> list[Sample]:
        """Checks every label; an unknown one is an error, or is dropped and counted."""
        policy: Literal["error", "drop"] = "drop" if self.label_map else self.unknown_label
        out, before = [], len(self._ledger)
        for s in samples:
            for name, task in self.tasks.items():
                value = s.labels.get(task.name)
                if value is not None and task.encode(value, f"{s.id} ({s.split})", policy) is None:
                    self._ledger.append(Entry(s.id, s.split, name, "unknown", f"label {value!r} is not in the list"))
                    s = replace(s, labels={k: v for k, v in s.labels.items() if k != task.name})
            out.append(s)
        if unknown := len(self._ledger) - before:
            self._note(f"{unknown} unknown labels were dropped")
        return out

    def _check(self, samples: Sequence[Sample]) -> DatasetIndex:
        """Checks the availability of every modality and applies `missing`."""
        train = [s for s in samples if s.split == "train"] or samples
        for modality in self.modalities.values():
            modality.bind(Path(self.features_root), str(self.name))
            modality.probe(train)
        found = availability.check_all(self.modalities, samples, self.known_broken)
        table = availability.tabulate(samples, found)
        notes = list(self._notes)
        present = {name for row in found.values() for name, r in row.items() if r.present}
        gone = [name for name in self.modalities if name not in present and self.missing != "error"]
        for name in gone:
            reason = next(c.reason for c in table if c.modality == name)
            notes.append(f"modality {name} is left out: no clip has it ({reason})")
            log.warning(notes[-1])
        if len(gone) == len(self.modalities):
            expected, got = f"clips or features for one of {', '.join(gone)}", "; ".join(notes[-len(gone) :])
            hint = "correct dataset.root, paths.features or the modes of the modalities"
            raise self._wrong("No modality is left.", expected=expected, got=got, hint=hint)
        found = {i: {n: r for n, r in row.items() if n not in gone} for i, row in found.items()}
        kept, ledger = availability.apply_policy(samples, found, self.missing)
        splits = {split: [s for s in kept if s.split == split] for split in dict.fromkeys(s.split for s in samples)}
        for split, rows in splits.items():
            if not rows:
                reason = next(e.reason for e in ledger if e.split == split)
                hint = "dataset.missing=mask, or fewer modalities"
                raise self._wrong(f"No sample of split {split} is left.", expected="some", got=reason, hint=hint)
        for name, line in availability.describe(table).items():
            log.debug("%s: %s", name, line)
        if dropped := sum(e.kind == "dropped" for e in ledger):
            notes.append(f"{dropped} samples were left out, see ledger.csv")
            log.warning(notes[-1])
        return DatasetIndex(
            dataset=str(self.name),
            samples=splits,
            availability={s.id: found[s.id] for s in kept},
            dims={n: s.dim for n, s in self.modalities.items() if n not in gone},
            classes={n: list(t.classes) for n, t in self.tasks.items()},
            table=table,
            ledger=[*self._ledger, *ledger],
            split_origin=dict(self._origin),
            notes=notes,
        )

    # ---- Lightning

    def prepare_data(self) -> None:
        """Fills the stores of modalities in mode auto; Lightning calls it on one process."""
        free = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.fill_stores(self.trainer.strategy.root_device if self.trainer is not None else free)
        self.build_index()

    def fill_stores(self, device: torch.device) -> None:
        """Computes on `device` and stores the features that modalities in mode auto lack."""
        if missing := {n: self.modalities[n] for n in self._uncached()}:
            samples = [s for rows in self.index.samples.values() for s in rows]
            size, workers = self.batch_size, self.num_workers
            result = fill(missing, samples, batch_size=size, device=device, workers=workers, progress=True)
            log.info("%s", result)
            self._index = None

    def setup(self, stage: str | None = None) -> None:
        """Indexes the dataset, anew where another process has filled the stores since."""
        if self._uncached():
            self._index = None
        self.build_index()

    def teardown(self, stage: str | None = None) -> None:
        """Ends the loaders' worker processes at once, not when the loaders happen to be freed."""
        for loader in self._loaders:
            loader.close()

    def _uncached(self) -> list[str]:
        """Modalities whose features should be in the store but are not."""
        rows, named = self.index.availability.values(), (n for n in self.index.dims if self.modalities[n].cacheable)
        return [n for n in named if any(r[n].mode == "realtime" for r in rows)]

    def train_dataloader(self) -> BatchLoader:
        """Shuffled batches of the train split; in order where Lightning overfits a few batches."""
        overfit = self.trainer is not None and bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]
        return self.loader("train", shuffle=not overfit)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Batches of the validation split in order; an empty list where there is none."""
        return self.loader("val") if "val" in self.index.samples else []

    def test_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """One loader per split of `test_splits`."""
        loaders = [self.loader(split) for split in self.test_splits]
        return loaders[0] if len(loaders) == 1 else loaders

    predict_dataloader = test_dataloader

    @property
    def test_splits(self) -> list[str]:
        """Splits that test and predict serve: `use_splits` where given, else those whose name starts with test."""
        return list(self.use_splits or [s for s in self.index.samples if s.startswith("test")])

    def loader(
        self, split: str, shuffle: bool = False, *, seed: int | None = None, batch_size: int | None = None
    ) -> BatchLoader:
        """Batches of a split for this process, shuffled or in order; `seed` and `batch_size` replace its own."""
        index, items, samples = self.index, self.items(split), self.index.samples[split]
        seed, batch_size = self.seed if seed is None else seed, batch_size or self.batch_size
        modalities = {n: self.modalities[n] for n in index.dims}
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        sampler: EpochBatchSampler | EvalBatchSampler
        if shuffle:
            classes, ratios = self._strata(samples, items)
            lengths = None
            if self.bucket:  # steps over all modalities; those of unknown length do not count
                steps = [sum(m.length(s) or 0 for m in modalities.values()) for s in samples]
                lengths = [sum(steps[i] for i in item) for item in items]
            sampler = EpochBatchSampler(
                len(items), batch_size, seed=seed, classes=classes, ratios=ratios, lengths=lengths,
                rank=rank, world=world,
            )  # fmt: skip
        else:
            sampler = EvalBatchSampler(len(items), batch_size, rank=rank, world=world)
        dataset = ItemDataset(samples, items, modalities, index.availability, seed)
        loader = BatchLoader(dataset, Collate(modalities, self.tasks), sampler, self.num_workers, index, self.missing)
        self._loaders.add(loader)
        return loader

    def _class_tasks(self) -> list[str]:
        return [n for n, task in self.tasks.items() if task.kind == "class"]

    def _strata(self, samples: Sequence[Sample], items: Sequence[tuple[int, ...]]) -> Strata:
        """Class of every item's first sample in the Task to balance by (-1 = no label), all drawn equally often."""
        if self.balance is None:
            return None, None
        if self.balance not in self.tasks:
            raise ConfigError("No train sample has the label to balance by.", got=self.balance, where="dataset.balance")
        task = self.tasks[self.balance]
        values = [samples[item[0]].labels.get(task.name) for item in items]
        codes = [-1 if v is None else task.encode(v, samples[i[0]].id) for v, i in zip(values, items, strict=True)]
        if unlabelled := codes.count(-1):
            log.warning("dataset.balance: %d train items have no label %s and are not drawn", unlabelled, self.balance)
        return codes, None
