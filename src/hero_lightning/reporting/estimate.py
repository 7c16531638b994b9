"""TimeEstimate: how long a training run will take, after its first steps.

Data flow: clock of the first batches -> time left -> one line in the log; with the option that shortens a long run.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import pytorch_lightning as pl

from hero_lightning.errors import in_range

log = logging.getLogger(__name__)


class TimeEstimate(pl.Callback):
    """Logs the estimate once; validation and the test come on top.

    Args:
        batches: batches that are timed, after a first one that warms up.
        minutes: a longer run is told how to become this short.
    """

    def __init__(self, batches: int = 8, minutes: float = 30.0) -> None:
        in_range("callbacks.estimate.batches", batches, "[1, inf)")
        in_range("callbacks.estimate.minutes", minutes, "(0, inf)")
        self.batches, self.minutes = batches, minutes
        self._seen, self._start = 0, 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock after the first batch, and logs the estimate after the last of those timed."""
        self._seen += 1
        if self._seen == 1:
            self._start = time.perf_counter()
        elif self._seen == 1 + self.batches and trainer.is_global_zero:
            seconds = (time.perf_counter() - self._start) / self.batches
            steps = (trainer.estimated_stepping_batches - trainer.global_step) * trainer.accumulate_grad_batches
            if math.isfinite(steps):
                log.info(self.line(seconds, int(steps), int(trainer.num_training_batches), len(batch)))

    def line(self, seconds: float, left: int, epoch: int, clips: int) -> str:
        """The estimate.

        Args:
            seconds: per batch.
            left: batches left in the run.
            epoch: batches of an epoch.
            clips: per batch.
        """
        total, most = seconds * left, 60 * self.minutes
        out = f"training takes about {duration(total)} (validation not counted): {left} batches of {seconds:.2g} s"
        if total <= most:
            return out
        epochs = int(most / (seconds * epoch))
        limit = "" if epochs else f" dataset.limit={max(1, int(most / seconds)) * clips}"
        return f"{out}; for {duration(most)}: trainer.max_epochs={max(1, epochs)}{limit}"


def duration(seconds: float) -> str:
    """In the unit that fits: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
