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

from hero_lightning.data.availability import Entry, Plan
from hero_lightning.data.sampling import Draw, EpochBatchSampler, EvalBatchSampler
from hero_lightning.errors import DataError
from hero_lightning.features.modality import Stream
from hero_lightning.features.read import NO_FACE, read_clip
from hero_lightning.features.source import Resolution
from hero_lightning.tasks import Target
from hero_lightning.types import Batch, Features, Label, Row, Sample, StreamBatch, measures_of


@dataclass(slots=True)
class Item:
    """What a draw yields: row numbers in the split and samples of one item, their rows by stream, and failures.

    A failure is a stream that could not be read though it looked sound at index time.
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
    """Reads the clips of one item; `items` are rows of the split, `resolutions` sample id -> stream -> Resolution."""

    def __init__(
        self,
        samples: Sequence[Sample],
        items: Sequence[tuple[int, ...]],
        streams: Mapping[str, Stream],
        resolutions: Mapping[str, Mapping[str, Resolution]],
        seed: int = 0,
    ) -> None:
        self.samples, self.items, self.streams, self.seed = samples, items, streams, seed
        self.resolutions = {s.id: resolutions[s.id] for s in samples}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, draw: Draw) -> Item:
        epoch, number = draw
        item = self.items[number]
        samples = [self.samples[i] for i in item]
        read = [self.read(s, epoch) for s in samples]
        return Item(item, samples, [rows for rows, _ in read], [f for _, failures in read for f in failures])

    def read(self, sample: Sample, epoch: int = 0) -> tuple[dict[str, Row], list[Entry]]:
        """One clip's rows of all streams, and what could not be read; never another clip's."""
        blank: dict[str, Row] = dict.fromkeys(self.streams)
        present = {n: r for n, r in self.resolutions[sample.id].items() if r.present and n in self.streams}
        try:
            rows = blank | self._rows(sample, present, epoch)
            gone = [name for name in present if rows[name] is None]
            return rows, [Entry(sample.id, sample.split, name, "absent", NO_FACE) for name in gone]
        except DataError:
            pass  # one stream failed: read them one by one to learn which
        failures: list[Entry] = []
        for name, resolution in present.items():
            try:
                blank |= self._rows(sample, {name: resolution}, epoch)
            except DataError as error:
                reason = f"{error.problem} {error.details['where'] or ''}".strip()
                failures.append(Entry(sample.id, sample.split, name, "failed", reason))
        return blank, failures

    def _rows(self, sample: Sample, present: Mapping[str, Resolution], epoch: int) -> dict[str, Row]:
        return read_clip({n: self.streams[n] for n in present}, present, sample, epoch, self.seed)


class Collate:
    """Joins items to a Batch: pads streams, codes labels by fitted Targets."""

    def __init__(self, streams: Mapping[str, Stream], targets: Mapping[str, Target]) -> None:
        self.streams, self.targets = streams, targets

    def __call__(self, items: list[Item]) -> Loaded:
        """N items of any number of samples -> a Batch of B rows."""
        samples = [s for item in items for s in item.samples]
        rows = [r for item in items for r in item.rows]
        ids = [s.id for s in samples]
        batch = MovableBatch(
            index=torch.tensor([i for item in items for i in item.index]),
            group=torch.tensor([g for g, item in enumerate(items) for _ in item.index]),
            order=torch.tensor([o for item in items for o in range(len(item.index))]),
            streams={name: stream.collate([r[name] for r in rows]) for name, stream in self.streams.items()},
            labels={
                name: target.collate([s.labels.get(target.name) for s in samples], ids)
                for name, target in self.targets.items()
            },
            samples=samples,
            measures=[measures_of(r) for r in rows],
        )
        return Loaded(batch, [f for item in items for f in item.failures])


def map_tensors(batch: Batch, function: Callable[[Tensor], Tensor]) -> MovableBatch:
    """The batch with every tensor replaced by function(tensor); everything else is shared."""

    def maybe(x: Tensor | None) -> Tensor | None:
        return None if x is None else function(x)

    streams = {}
    for name, s in batch.streams.items():
        ready = s.ready and Features(function(s.ready.x), function(s.ready.mask), maybe(s.ready.time))
        raw = None if s.raw is None else {key: function(x) for key, x in s.raw.items()}
        streams[name] = StreamBatch(s.size, ready, maybe(s.ready_rows), raw, maybe(s.raw_rows))
    labels = {name: Label(function(y.value), function(y.mask)) for name, y in batch.labels.items()}
    index, group, order = function(batch.index), function(batch.group), function(batch.order)
    return MovableBatch(index, group, order, streams, labels, batch.samples, batch.measures)


def to_device(batch: Batch, device: torch.device) -> MovableBatch:
    """The batch on a device; copies from pinned memory to a GPU do not wait."""
    return map_tensors(batch, lambda x: x.to(device, non_blocking=device.type == "cuda"))


class BatchLoader:
    """An iterable of Batches for Lightning: starts lazily, resumes inside an epoch, reports decode failures.

    Lightning asks for an iterator before it tells the epoch; here nothing is drawn until the first batch is wanted.

    Failures go to the plan; the policy `error` turns one into an error.
    """

    def __init__(
        self,
        dataset: ItemDataset,
        collate: Collate,
        sampler: EpochBatchSampler | EvalBatchSampler,
        num_workers: int,
        plan: Plan,
        policy: str,
    ) -> None:
        self.batch_sampler, self.plan, self.policy = sampler, plan, policy
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
                        f"Stream {first.stream} of {first.id} cannot be read.",
                        expected="a clip that can be read to its end, for dataset.coverage=error",
                        got=first.reason,
                        where=f"{first.id} ({first.split})",
                        mend="dataset.coverage=mask (train without the stream), or mend the file",
                    )
                self.plan.record(loaded.failures)
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
