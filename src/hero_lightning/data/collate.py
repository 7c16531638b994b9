"""Reads the clips of an item in the loader's worker and collates items to a Batch.

Data flow: draw (epoch, item) --ItemDataset--> Item (rows of its samples) --Collate--> Loaded (Batch + failures)
--BatchLoader--> Batch.

Legend: B rows of a batch = samples of all its items; group and order point back to the item.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hero_lightning.data.availability import DatasetIndex, Entry
from hero_lightning.data.sampling import Draw, EpochBatchSampler, EvalBatchSampler
from hero_lightning.errors import DataError
from hero_lightning.features.modality import Modality
from hero_lightning.features.read import NO_FACE, read_clip
from hero_lightning.features.source import Availability
from hero_lightning.tasks import Task
from hero_lightning.types import Batch, Features, Label, ModalityBatch, Row, Sample, measures_of


@dataclass(slots=True)
class Item:
    """One drawn item; failures are modalities that cannot be read although the index says that they are available.

    Attributes:
        index: row numbers of the samples in the split.
        rows: modality -> row, of every sample.
    """

    index: tuple[int, ...]
    samples: list[Sample]
    rows: list[dict[str, Row]]
    failures: list[Entry]


class MovableBatch(Batch):
    """A Batch with its own `to`; Lightning's recursive transfer would enter every Sample and fail there."""

    def to(self, device: torch.device) -> MovableBatch:
        """The batch on a device; copies to a GPU are asynchronous."""
        return map_tensors(self, lambda x: x.to(device, non_blocking=device.type == "cuda"))


@dataclass(slots=True)
class Loaded:
    """A batch as it leaves the worker, with the modalities that could not be read."""

    batch: MovableBatch
    failures: list[Entry]

    def pin_memory(self) -> Loaded:
        """Called by the DataLoader's pinning thread."""
        return Loaded(map_tensors(self.batch, Tensor.pin_memory), self.failures)


class ItemDataset(Dataset[Item]):
    """Reads the clips of one item; `items` are rows of the split, `availability` maps sample id -> modality."""

    def __init__(
        self,
        samples: Sequence[Sample],
        items: Sequence[tuple[int, ...]],
        modalities: Mapping[str, Modality],
        availability: Mapping[str, Mapping[str, Availability]],
        seed: int = 0,
    ) -> None:
        self.samples, self.items, self.modalities, self.seed = samples, items, modalities, seed
        self.availability = {s.id: availability[s.id] for s in samples}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, draw: Draw) -> Item:
        epoch, number = draw
        item = self.items[number]
        samples = [self.samples[i] for i in item]
        read = [self.read(s, epoch) for s in samples]
        return Item(item, samples, [rows for rows, _ in read], [f for _, failures in read for f in failures])

    def read(self, sample: Sample, epoch: int = 0) -> tuple[dict[str, Row], list[Entry]]:
        """One clip's rows of all modalities and its failures; a clip is never replaced by another."""
        rows: dict[str, Row] = dict.fromkeys(self.modalities)
        present = {n: r for n, r in self.availability[sample.id].items() if r.present and n in self.modalities}
        try:
            rows |= self._rows(sample, present, epoch)
            no_face = [name for name in present if rows[name] is None]
            return rows, [Entry(sample.id, sample.split, name, "absent", NO_FACE) for name in no_face]
        except DataError:
            pass  # one modality failed: read them one by one to find out which
        failures: list[Entry] = []
        for name, found in present.items():
            try:
                rows |= self._rows(sample, {name: found}, epoch)
            except DataError as error:
                reason = f"{error.problem} {error.details['where'] or ''}".strip()
                failures.append(Entry(sample.id, sample.split, name, "failed", reason))
        return rows, failures

    def _rows(self, sample: Sample, present: Mapping[str, Availability], epoch: int) -> dict[str, Row]:
        return read_clip({n: self.modalities[n] for n in present}, present, sample, epoch, self.seed)


class Collate:
    """Collates items to a Batch: pads modalities, encodes labels with the fitted Tasks."""

    def __init__(self, modalities: Mapping[str, Modality], tasks: Mapping[str, Task]) -> None:
        self.modalities, self.tasks = modalities, tasks

    def __call__(self, items: list[Item]) -> Loaded:
        """Items of any number of samples -> a Batch of B rows."""
        samples = [s for item in items for s in item.samples]
        rows = [r for item in items for r in item.rows]
        ids = [s.id for s in samples]
        batch = MovableBatch(
            index=torch.tensor([i for item in items for i in item.index]),
            group=torch.tensor([g for g, item in enumerate(items) for _ in item.index]),
            order=torch.tensor([o for item in items for o in range(len(item.index))]),
            modalities={name: modality.collate([r[name] for r in rows]) for name, modality in self.modalities.items()},
            labels={
                name: task.collate([s.labels.get(task.name) for s in samples], ids) for name, task in self.tasks.items()
            },
            samples=samples,
            measures=[measures_of(r) for r in rows],
        )
        return Loaded(batch, [f for item in items for f in item.failures])


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A batch or part of one with every tensor replaced by function(tensor); everything else is shared."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(part, function) for key, part in value.items()}
    if isinstance(value, (Batch, ModalityBatch, Features, Label)):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)})
    return value


class BatchLoader:
    """An iterable of Batches for Lightning that resumes inside an epoch.

    Lightning requests an iterator before it sets the epoch, so nothing is drawn before the first batch is requested.
    What cannot be decoded is recorded in the index; it is a DataError where `missing` is error.
    """

    def __init__(
        self,
        dataset: ItemDataset,
        collate: Collate,
        sampler: EpochBatchSampler | EvalBatchSampler,
        num_workers: int,
        index: DatasetIndex,
        missing: str,
    ) -> None:
        self.dataset, self.collate, self.batch_sampler = dataset, collate, sampler
        self.num_workers, self.index, self.missing = num_workers, index, missing
        self.served = 0
        self._loader: DataLoader[Loaded] | None = None
        self._pass: Generator[MovableBatch, None, None] | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[MovableBatch]:
        self._pass = self._batches()
        return self._pass

    def _batches(self) -> Generator[MovableBatch, None, None]:
        self.served = self.batch_sampler.start if isinstance(self.batch_sampler, EpochBatchSampler) else 0
        if self._loader is None:
            self._loader = DataLoader(
                self.dataset,  # type: ignore[arg-type]  # it yields Items, which collate turns into Loaded
                batch_sampler=self.batch_sampler,
                collate_fn=self.collate,
                num_workers=self.num_workers,
                persistent_workers=self.num_workers > 0,
                pin_memory=torch.cuda.is_available(),
                generator=torch.Generator(),  # its own: the loader must not draw from the global random state
            )
        for loaded in self._loader:
            if loaded.failures and self.missing == "error":
                self._loader = None  # its processes end with it
                first = loaded.failures[0]
                problem, where = (
                    f"Modality {first.modality} of {first.id} cannot be read.",
                    f"{first.id} ({first.split})",
                )
                expected = "a clip that can be read to its end, for dataset.missing=error"
                hint = "dataset.missing=mask (train without the modality), or replace the file"
                raise DataError(problem, expected=expected, got=first.reason, where=where, hint=hint)
            self.index.record(loaded.failures)
            self.served += 1
            yield loaded.batch

    def close(self) -> None:
        """Ends the worker processes; the next pass starts new ones."""
        if self._pass is not None:
            self._pass.close()  # an unfinished pass refers to the DataLoader's iterator, with which the processes end
        self._loader = self._pass = None

    def state_dict(self) -> dict[str, int]:
        """The position from which a resumed run continues."""
        return self.batch_sampler.state_dict(self.served) if isinstance(self.batch_sampler, EpochBatchSampler) else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from the position in `state`."""
        if isinstance(self.batch_sampler, EpochBatchSampler) and state:
            self.batch_sampler.load_state_dict(state)
