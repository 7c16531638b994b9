"""ResourceMonitor: what a training run costs, for every logger.

Data flow: training batches, clock, memory counters, optimizer -> values at every logging step.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any, cast

import pytorch_lightning as pl
import torch

from hero_lightning.training.module import EmotionModule
from hero_lightning.types import Batch


class ResourceMonitor(pl.Callback):
    """Logs every Trainer.log_every_n_steps steps, of all devices together where it is a rate:

    - resources/samples_per_second since the last logging step of the epoch;
    - resources/memory_gib: peak memory on the GPU of rank 0, without a GPU that of its process;
    - lr/default, lr/<prefix>: the present learning rate, and those of `optimizer.rates`.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock: validation does not count."""
        self._samples, self._start, self._step = 0, time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Counts the batch, and logs where the loggers write."""
        self._samples += len(batch)
        accumulating = trainer.global_step == self._step
        if accumulating or trainer.global_step % max(1, trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        now, optimizer = time.perf_counter(), cast(EmotionModule, pl_module).optimizer
        names = {optimizer.lr: "default"} | {rate: prefix for prefix, rate in optimizer.rates.items()}
        rates = {f"lr/{names[g['initial_lr']]}": g["lr"] for o in trainer.optimizers for g in o.param_groups}
        values = {
            "resources/samples_per_second": self._samples * trainer.world_size / (now - self._start),
            "resources/memory_gib": _peak_memory(pl_module.device),
        }
        pl_module.log_dict(values | rates, batch_size=len(batch))
        self._samples, self._start, self._step = 0, now, trainer.global_step


def _peak_memory(device: torch.device) -> float:
    """GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
