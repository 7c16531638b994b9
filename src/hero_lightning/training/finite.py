"""Stops training at the step where a number is no longer finite, before a checkpoint is written with it.

Data flow: loss terms, gradients, weights, predictions, score -> nothing, or a TrainingError that names what, where and
what to lower. Checkpoints of earlier epochs stay as they are.

Shapes: B rows of a batch, C outputs of a Task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from hero_lightning.errors import DataError, TrainingError
from hero_lightning.tasks import Task
from hero_lightning.types import Sample


def check_labels(task: Task, samples: Sequence[Sample], split: str) -> None:
    """Checks before the first step that a checkpoint can be selected.

    Raises:
        DataError: no sample of the split is labelled for the task.
    """
    if samples and all(s.labels.get(task.name) is None for s in samples):
        raise DataError(
            f"Split {split} has no label of task {task.name}, so no epoch can be better than another.",
            expected=f"labels of {task.name} in {split}; without a {split} split, one is taken from train",
            got=f"{len(samples)} samples without one",
            where=f"dataset.tasks.{task.name}",
        )


def check_loss(
    terms: Mapping[str, Tensor], logits: Iterable[Tensor], ids: Sequence[str], place: str, lr: float
) -> None:
    """Checks the loss of a step.

    Args:
        terms: loss terms by name, and their weighted sum under `loss`.
        logits: [B, C] of every Task, to find the clips.
        ids: B sample ids.
        place: epoch and step, for the message.
        lr: peak learning rate.

    Raises:
        TrainingError: the sum is NaN or infinite.
    """
    if bool(terms["loss"].isfinite()):
        return
    bad = [f"{n} = {float(v)}" for n, v in terms.items() if n != "loss" and not bool(v.isfinite())]
    rows = torch.stack([x.isfinite().flatten(1).all(dim=1) for x in logits]).all(dim=0).tolist()
    clips = [i for i, fine in zip(ids, rows, strict=True) if not fine] or list(ids)
    raise _diverged("The loss", ", ".join(bad) or "a sum of terms that is too large", place, clips, lr)


def check_gradients(named: Iterable[tuple[str, nn.Parameter]], ids: Sequence[str], place: str, lr: float) -> None:
    """Checks the gradients before the optimizer uses them; arguments as in `check_loss`.

    Raises:
        TrainingError: a gradient, or the norm of all, is NaN or infinite.
    """
    gradients = {name: p.grad for name, p in named if p.grad is not None}
    if not gradients or bool(nn.utils.get_total_norm(gradients.values()).isfinite()):
        return
    bad = [name for name, g in gradients.items() if not bool(g.isfinite().all())]
    raise _diverged("A gradient", bad[0] if bad else "a norm that is too large", place, ids, lr)


def check_weights(named: Iterable[tuple[str, Tensor]], place: str, lr: float) -> None:
    """Checks the weights before they are written.

    Raises:
        TrainingError: a weight is NaN or infinite.
    """
    weights = dict(named)
    sums = torch.stack([w.detach().abs().amax().float() for w in weights.values() if w.numel()] or [torch.zeros(())])
    if not bool(sums.isfinite().all()):
        bad = [name for name, w in weights.items() if not bool(w.isfinite().all())]
        raise _diverged("A weight", f"{bad[0]}, one of {len(bad)}", place, (), lr)


def check_predictions(predictions: Mapping[str, Tensor], ids: Sequence[str], place: str, lr: float) -> None:
    """Checks the predictions [B, C] of every Task; arguments as in `check_loss`.

    Raises:
        TrainingError: one is NaN or infinite.
    """
    for name, prediction in predictions.items():
        fine = prediction.isfinite().flatten(1).all(dim=1)
        if not bool(fine.all()):
            clips = [i for i, good in zip(ids, fine.tolist(), strict=True) if not good]
            raise _diverged("A prediction", f"task {name}", place, clips, lr)


def _diverged(what: str, got: str, place: str, clips: Sequence[str], lr: float, most: int = 8) -> TrainingError:
    """The error; its hint lowers the learning rate tenfold, at least to 0.001."""
    more = f" and {len(clips) - most} more" if len(clips) > most else ""
    return TrainingError(
        f"{what} is no finite number.",
        expected="finite numbers",
        got=got,
        where=place + (f"; clips {', '.join(clips[:most])}{more}" if clips else ""),
        hint=f"optimizer.lr={min(lr / 10, 1e-3):g}",
    )
