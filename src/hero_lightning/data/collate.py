"""From draws to batches: reads the clips of an item in the worker and joins items to a Batch.

Data flow: draw (epoch, item) --ItemDataset--> Item (rows of its samples) --Collate--> Loaded (Batch + failures)
--BatchLoader--> Batch.

Legend: B rows of a batch = samples of all its items; group and order point back to the item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

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
    """What a draw yields: row numbers in the split and samples of one item, their rows by modality, and failures.

    A failure is a modality that could not be read though it looked sound at index time.
    """

    index: tuple[int, ...]
    samples: list[Sample]
    rows: list[dict[str, Row]]
    failures: list[Entry]


class MovableBatch(Batch):
    """A Batch that Lightning moves by its tensors; Lightning's own walk would enter, and fail in, every Sample."""

    def to(self, device: torch.device) -> MovableBatch:
        """The batch on a device."""
        return to_device(self, device)


@dataclass(slots=True)
class Loaded:
    """A batch as it leaves the worker, with what failed on the way."""

    batch: MovableBatch
    failures: list[Entry]

    def pin_memory(self) -> Loaded:
        """The loader's pinning thread calls this."""
        return Loaded(map_tensors(self.batch, Tensor.pin_memory), self.failures)


class ItemDataset(Dataset[Item]):
    """Reads the clips of one item; `items` are rows of the split, `availability` sample id -> modality -> Availability."""

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
        """One clip's rows of all modalities, and what could not be read; never another clip's."""
        blank: dict[str, Row] = dict.fromkeys(self.modalities)
        present = {n: r for n, r in self.availability[sample.id].items() if r.present and n in self.modalities}
        try:
            rows = blank | self._rows(sample, present, epoch)
            gone = [name for name in present if rows[name] is None]
            return rows, [Entry(sample.id, sample.split, name, "absent", NO_FACE) for name in gone]
        except DataError:
            pass  # one modality failed: read them one by one to learn which
        failures: list[Entry] = []
        for name, resolution in present.items():
            try:
                blank |= self._rows(sample, {name: resolution}, epoch)
            except DataError as error:
                reason = f"{error.problem} {error.details['where'] or ''}".strip()
                failures.append(Entry(sample.id, sample.split, name, "failed", reason))
        return blank, failures

    def _rows(self, sample: Sample, present: Mapping[str, Availability], epoch: int) -> dict[str, Row]:
        return read_clip({n: self.modalities[n] for n in present}, present, sample, epoch, self.seed)


class Collate:
    """Joins items to a Batch: pads modalities, codes labels by fitted Tasks."""

    def __init__(self, modalities: Mapping[str, Modality], tasks: Mapping[str, Task]) -> None:
        self.modalities, self.tasks = modalities, tasks

    def __call__(self, items: list[Item]) -> Loaded:
        """N items of any number of samples -> a Batch of B rows."""
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


def map_tensors(batch: Batch, function: Callable[[Tensor], Tensor]) -> MovableBatch:
    """The batch with every tensor replaced by function(tensor); everything else is shared."""

    def maybe(x: Tensor | None) -> Tensor | None:
        return None if x is None else function(x)

    modalities = {}
    for name, s in batch.modalities.items():
        ready = s.stored and Features(function(s.stored.x), function(s.stored.mask), maybe(s.stored.time))
        raw = None if s.inputs is None else {key: function(x) for key, x in s.inputs.items()}
        modalities[name] = ModalityBatch(s.size, ready, maybe(s.stored_rows), raw, maybe(s.input_rows))
    labels = {name: Label(function(y.value), function(y.mask)) for name, y in batch.labels.items()}
    index, group, order = function(batch.index), function(batch.group), function(batch.order)
    return MovableBatch(index, group, order, modalities, labels, batch.samples, batch.measures)


def to_device(batch: Batch, device: torch.device) -> MovableBatch:
    """The batch on a device; copies from pinned memory to a GPU do not wait."""
    return map_tensors(batch, lambda x: x.to(device, non_blocking=device.type == "cuda"))


class BatchLoader:
    """An iterable of Batches for Lightning: starts lazily, resumes inside an epoch, reports decode failures.

    Lightning asks for an iterator before it tells the epoch; here nothing is drawn until the first batch is wanted.

    Failures go to the index; the policy `error` turns one into an error.
    """

    def __init__(
        self,
        dataset: ItemDataset,
        collate: Collate,
        sampler: EpochBatchSampler | EvalBatchSampler,
        num_workers: int,
        index: DatasetIndex,
        policy: str,
    ) -> None:
        self.batch_sampler, self.index, self.policy = sampler, index, policy
        self.served = 0
        self.loader: DataLoader[Loaded] = DataLoader(
            dataset,  # type: ignore[arg-type]  # what it yields is Loaded, after collate
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the loader must not draw from the global random state
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[MovableBatch]:
        self.served = self.batch_sampler.start if isinstance(self.batch_sampler, EpochBatchSampler) else 0
        for loaded in self.loader:
            if loaded.failures:
                if self.policy == "error":
                    self.close()
                    first = loaded.failures[0]
                    raise DataError(
                        f"Modality {first.modality} of {first.id} cannot be read.",
                        expected="a clip that can be read to its end, for dataset.missing=error",
                        got=first.reason,
                        where=f"{first.id} ({first.split})",
                        hint="dataset.missing=mask (train without the modality), or hint the file",
                    )
                self.index.record(loaded.failures)
            self.served += 1
            yield loaded.batch

    def close(self) -> None:
        """Ends the worker processes; the next pass starts new ones."""
        if isinstance(self.loader._iterator, _MultiProcessingDataLoaderIter):
            self.loader._iterator._shutdown_workers()
        self.loader._iterator = None

    def state_dict(self) -> dict[str, int]:
        """Where a resumed run goes on."""
        return self.batch_sampler.state_dict(self.served) if isinstance(self.batch_sampler, EpochBatchSampler) else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where `state` left off."""
        if isinstance(self.batch_sampler, EpochBatchSampler) and state:
            self.batch_sampler.load_state_dict(state)
