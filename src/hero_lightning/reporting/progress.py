"""What a training run says on the console: a line per epoch without a terminal, a line at its end."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

log = logging.getLogger(__name__)


class EpochLines(pl.Callback):
    """A line per epoch where no progress bar is shown: loss, score, best score, time taken and time left."""

    def __init__(self) -> None:
        self.started, self.first, self.shown = 0.0, 0, False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self.started, self.first = time.monotonic(), trainer.current_epoch
        self.shown = trainer.progress_bar_callback is None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the line; validation of the epoch is over."""
        if not (self.shown and trainer.is_global_zero):
            return
        done, metrics = trainer.current_epoch + 1, trainer.callback_metrics
        each = (time.monotonic() - self.started) / (done - self.first)
        parts = [f"{name} {float(metrics[name]):.4f}" for name in ("train/loss", "val/score") if name in metrics]
        best = getattr(trainer.checkpoint_callback, "best_model_score", None)
        if best is not None:  # the checkpoint of this epoch may follow
            parts.append(f"best {max(float(best), float(metrics.get('val/score', best))):.4f}")
        total = max(trainer.max_epochs or 0, 0)
        number, left = (f"{done}/{total}", f", {span((total - done) * each)} left") if total else (str(done), "")
        log.info("epoch %s: %s; %s each%s", number, ", ".join(parts), span(each), left)


def span(seconds: float) -> str:
    """Seconds in words: 12 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def ending(trainer: pl.Trainer, folder: Path, best: dict[str, Any] | None) -> str:
    """One line: why the run stopped, its best epoch, where its files lie, the next command.

    Args:
        trainer: after `fit`.
        folder: of the run.
        best: content of the best checkpoint; None without one.
    """
    stop = next((c for c in trainer.callbacks if isinstance(c, EarlyStopping) and c.stopped_epoch), None)  # type: ignore[attr-defined]
    done = trainer.current_epoch
    if stop is not None:
        why = f"stopped after epoch {stop.stopped_epoch + 1}: no better {stop.monitor} for {stop.patience} epochs"
    elif trainer.max_epochs and done >= trainer.max_epochs > 0:
        why = f"all {done} epochs done"
    else:
        why = f"stopped after epoch {done}"
    score = getattr(trainer.checkpoint_callback, "best_model_score", None)
    where = "" if best is None or score is None else f"; best epoch {best['epoch'] + 1} (val/score {float(score):.4f})"
    return f"{why}{where}; files in {folder}; next: python -m hero_lightning.report run={folder}"
