"""How checkpoints are written: whole or not at all, the best one as weights alone; nothing of a file decides on paths.

Data flow: Trainer -> BestCheckpoint (which epoch, which file) -> AtomicCheckpointIO -> best.ckpt, last.ckpt.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from hero_lightning.errors import CheckpointError, cause
from hero_lightning.features.files import atomic

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, on the same disk, then renames: a kill or a full disk leaves the file before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes a checkpoint.

        Raises:
            CheckpointError: the operating system refuses it.
        """
        try:
            with atomic(Path(path)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
            first = error.__context__ if isinstance(error.__context__, OSError) else error
            hint = "make room, or choose another folder with paths.runs; earlier checkpoints are whole"
            raise CheckpointError(
                "A checkpoint cannot be written.", expected="a writable folder", got=cause(first), where=path, hint=hint
            ) from error


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint whose state has no paths.

    The state of a resumed run is the best score alone: the file that it belongs to lies in this run's own folder, also
    after the run was moved or copied, and a foreign checkpoint cannot name a file to delete.
    """

    def state_dict(self) -> dict[str, Any]:
        """The best score, and the name of its file."""
        return {"best_model_score": self.best_model_score, "file": Path(self.best_model_path).name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the best score, if its file is in the folder."""
        score, name = state_dict.get("best_model_score"), Path(str(state_dict.get("file", ""))).name
        path = Path(str(self.dirpath)) / name
        if score is None or self.monitor is None:
            return
        if not name or not path.is_file():
            log.warning("%s is not there: the best epoch is chosen anew from here on", path)
            return
        self.best_model_score = self.kth_value = score
        self.best_model_path = self.kth_best_model_path = str(path)
        self.best_k_models = {str(path): score}
