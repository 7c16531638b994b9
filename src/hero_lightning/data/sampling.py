"""The items of every batch, process and epoch, as a function of (seed, epoch) only.

Data flow: number of items (+ classes, lengths) -> order of the epoch -> global batches -> this rank's batches of draws.

Legend: W ranks, b batch size of one rank, G = W * b global batch size, C classes. The global random state is not used,
so the order does not depend on the number of workers. Batch k of one process with batch size G is the union of the
batches k of W ranks with batch size b.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from hero_lightning.errors import ConfigError

Draw = tuple[int, int]
"""Epoch and item; workers learn the epoch from it."""
Strata = tuple[list[int] | None, list[float] | None]
"""Class of every item and ratio of every class (None = equal), for sampling in given shares."""
MEGA = 16
"""Global batches sorted by length together: enough to save most padding, few enough to keep batches varied."""
BLUR = 0.1
"""Lengths are randomly increased by up to 10 %, so that batches differ between epochs."""
ORDER, CLASS, BUCKET = range(3)
"""Random streams of one seed."""


class EpochBatchSampler(Sampler[list[Draw]]):
    """Shuffled training batches of one rank.

    All ranks get equally many batches of equal size; a remainder of fewer than W items is left out, a different one in
    every epoch. One process leaves nothing out.

    Args:
        count: number of items.
        batch_size: b, items of one rank's batch.
        seed: of the run.
        classes: class of every item, -1 = none; if given, every class is drawn equally often and items without one
            never. Frequent classes take several epochs, rare ones repeat.
        ratios: class -> how often it is drawn, relative to the others; None = equally often.
        lengths: cost of every item; if given, items of similar length share a batch.
        rank, world: this process and W.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int = 0,
        classes: Sequence[int] | None = None,
        ratios: Sequence[float] | None = None,
        lengths: Sequence[int] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.seed, self.rank, self.world, self.global_batch = seed, rank, world, batch_size * world
        self.lengths = None if lengths is None else np.asarray(lengths, dtype=np.float64)
        codes = np.asarray([] if classes is None else classes)
        present = [int(c) for c in np.unique(codes[codes >= 0])]
        self.members: list[NDArray[np.int64]] = [np.flatnonzero(codes == c) for c in present]
        parts, drawn = [1.0 if ratios is None else ratios[c] for c in present], int((codes >= 0).sum())
        self.shares = [max(1, int(drawn * part / sum(parts))) for part in parts]
        self.size = sum(self.shares) if classes is not None else count
        self.epoch = self.start = 0
        if self.size < world:
            where, hint = "dataset" if classes is None else "dataset.balance", "trainer.devices=1, or more data"
            problem, expected = "There are fewer training items than processes.", f"at least {world} items"
            raise ConfigError(problem, expected=expected, got=self.size, where=where, hint=hint)

    @property
    def sampler(self) -> EpochBatchSampler:
        """Lightning sets the epoch of `loader.batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass; a start in the middle applies to its own epoch only."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's items in order, the same on every rank: [size]."""
        drawn = [self._turn(c, epoch) for c in range(len(self.members))]
        return self._rng(ORDER, epoch).permutation(np.concatenate(drawn) if drawn else np.arange(self.size))

    def batches(self, epoch: int) -> list[list[int]]:
        """This rank's batches of items."""
        order = self.order(epoch)
        full = len(order) // self.global_batch * self.global_batch
        body, tail = self._bucketed(order[:full], epoch), order[full:]
        rows = [*body.reshape(-1, self.global_batch), tail[: len(tail) - len(tail) % self.world]]
        return [row[self.rank :: self.world].tolist() for row in rows if len(row)]

    def __len__(self) -> int:
        full, tail = divmod(self.size, self.global_batch)
        return full + (tail >= self.world)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, start, self.start = self.epoch, self.start, 0
        for batch in self.batches(epoch)[start:]:
            yield [(epoch, item) for item in batch]

    def state_dict(self, batches_done: int) -> dict[str, int]:
        """The position of a resumed run, after `batches_done` batches of this epoch."""
        return {"epoch": self.epoch, "drawn": batches_done * self.global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Starts the next pass at the position in `state`."""
        self.epoch, self.start = state["epoch"], state["drawn"] // self.global_batch

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])

    def _turn(self, c: int, epoch: int) -> NDArray[np.int64]:
        """The epoch's share of class c: a slice of the endless sequence of permutations of its members."""
        members = self.members[c]
        start, share = epoch * self.shares[c], self.shares[c]
        first, last = start // len(members), (start + share - 1) // len(members)
        row = np.concatenate([self._rng(CLASS, c, r).permutation(members) for r in range(first, last + 1)])
        return row[start - first * len(members) :][:share]

    def _bucketed(self, body: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Sorts runs of MEGA global batches by length, then shuffles the global batches; as it is without lengths."""
        if self.lengths is None:
            return body
        rng = self._rng(BUCKET, epoch)
        cost = self.lengths[body] * (1 + BLUR * rng.random(len(body)))
        runs = range(0, len(body), MEGA * self.global_batch)
        cuts = [slice(start, start + MEGA * self.global_batch) for start in runs]
        rows = [body[cut][np.argsort(cost[cut], kind="stable")] for cut in cuts]
        return rng.permutation(np.concatenate(rows or [body]).reshape(-1, self.global_batch)).reshape(-1)


class EvalBatchSampler(Sampler[list[Draw]]):
    """Every item in order; the last batch is padded by repetition so that all ranks have equally many rows.

    Metrics are keyed by the sample's index, so a repeated one counts once. Arguments as in EpochBatchSampler.
    """

    def __init__(self, count: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        self.count, self.batch_size, self.rank, self.world = count, batch_size, rank, world

    def __len__(self) -> int:
        return -(-self.count // (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[Draw]]:
        step = self.batch_size * self.world
        for start in range(0, self.count, step):
            items = list(range(start, min(start + step, self.count)))
            items += items[-1:] * (-len(items) % self.world)
            yield [(0, item) for item in items[self.rank :: self.world]]
