"""Transfer: the weights of another run by what they mean, not by their shape (`init_from`).

Data flow: checkpoint (weights + names along their axes) -> pieces by name -> the pieces of the new model with the same
name and shape -> a table of what was carried over, what starts fresh and what was left behind.

A classifier's rows belong to classes, an imputation slot to a modality: such axes have names. A module declares those
of its parameters in `named_axes`; rows of task heads are named here, by the classes of the task.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hero_lightning.errors import CheckpointError
from hero_lightning.training import checkpoint

if TYPE_CHECKING:
    from hero_lightning.training.module import EmotionModule

log = logging.getLogger(__name__)

Axes = dict[str, dict[int, list[str]]]
"""Parameter -> axis -> names of its equal blocks; axis -1 = one block for all names together."""
AXES = "axes"
"""Their key among the facts of a checkpoint."""


def named_axes(module: EmotionModule) -> Axes:
    """The named axes of every parameter and buffer of a module that has some."""
    found: Axes = {}
    for path, part in module.named_modules():
        declared = getattr(part, "named_axes", None)
        for name, axes in (declared() if declared else {}).items():
            found[f"{path}.{name}"] = {axis: list(names) for axis, names in axes.items()}
    for path, part in module.model.named_modules(prefix="model"):
        task = next((module.tasks[p] for p in path.split(".")[1:] if p in module.tasks), None)
        if task is not None and isinstance(part, nn.Linear) and part.out_features == task.outputs:
            names = list(task.classes) if len(task.classes) == task.outputs else [str(i) for i in range(task.outputs)]
            for name, _ in part.named_parameters():
                found.setdefault(f"{path}.{name}", {})[0] = names
    return found


def pieces(name: str, tensor: Tensor, axes: Mapping[int, list[str]]) -> Iterator[tuple[str, str, Tensor]]:
    """Key, label and view of every block of a tensor; without named axes the tensor itself, label ''."""
    blocks: list[tuple[tuple[str, ...], Tensor]] = [((), tensor)]
    for axis, names in sorted(axes.items()):
        if axis < 0:
            blocks = [((*labels, "+".join(names)), block) for labels, block in blocks]
        else:
            blocks = [
                ((*labels, name), part)
                for labels, block in blocks
                for name, part in zip(names, block.tensor_split(len(names), axis), strict=True)
            ]
    for labels, block in blocks:
        label = " of ".join(labels)
        yield f"{name}[{label}]" if label else name, label, block


@dataclass
class Part:
    """Labels of the blocks, or names of the tensors, of a part of the model; `numbers` counts what was carried over."""

    carried: dict[str, None] = field(default_factory=dict)
    fresh: dict[str, None] = field(default_factory=dict)
    left: dict[str, None] = field(default_factory=dict)
    numbers: int = 0


def initialise(module: EmotionModule, where: str | Path) -> dict[str, Part]:
    """Copies into a module every piece of a checkpoint that has a counterpart of the same name and shape; logs a table.

    Args:
        module: the new model.
        where: run folder or checkpoint.

    Returns:
        Part of the model -> what was carried over, what starts fresh, what of the checkpoint was left behind.

    Raises:
        CheckpointError: no checkpoint, one without names, or nothing in common.
    """
    path = checkpoint.find(where)
    state = checkpoint.load(path)
    facts, weights = state[checkpoint.FACTS], state["state_dict"]
    if AXES not in facts:
        problem, hint = "The checkpoint does not name its classes and modalities.", "train that run again"
        expected = "a run of this version of hero_lightning"
        raise CheckpointError(problem, expected=expected, got="an older one", where=path, hint=hint)
    parts = carry(module, weights, facts[AXES])
    # single numbers, such as the bias of a confidence, fit any model
    if sum(part.numbers for part in parts.values()) <= 0.001 * sum(p.numel() for p in module.parameters()):
        raise CheckpointError(
            "Nothing of the checkpoint fits the model.",
            expected=f"the model and size of that run: {facts['dims']}",
            got=dict(module.model.dims),
            where=path,
            hint="use its `model` and `size`, and at least one of its modalities with the same encoder",
        )
    for change in checkpoint.changed_modalities(facts, module.facts):
        log.warning("init_from: modality %s had another %s: %s, now %s", *change)
    log.info("init_from %s\n%s", path, table(parts))
    return parts


@torch.no_grad()
def carry(module: EmotionModule, weights: Mapping[str, Tensor], axes: Axes) -> dict[str, Part]:
    """Copies the common pieces and tells what happened, by part of the model; see `initialise`."""
    theirs = {
        key: (name, label, block)
        for name, tensor in weights.items()
        for key, label, block in pieces(name, tensor, axes.get(name, {}))
    }
    own_axes, learns = named_axes(module), {n for n, p in module.named_parameters() if p.requires_grad}
    parts: dict[str, Part] = {}
    used: set[str] = set()
    common: dict[str, str] = {}
    for key in theirs:
        common.setdefault(_common(key), key)
    for name, tensor in module.state_dict().items():
        for key, label, block in pieces(name, tensor, own_axes.get(name, {})):
            source = key if key in theirs else common.get(_common(key), "")
            found = theirs.get(source)
            part = parts.setdefault(part_of(name), Part())
            if found is not None and found[2].shape == block.shape:
                block.copy_(found[2])
                part.carried[label or name] = None
                part.numbers += block.numel()
                used.add(source)
            elif name in learns:
                part.fresh[label or name] = None
    for key, (name, label, _) in theirs.items():
        if key not in used:
            parts.setdefault(part_of(name), Part()).left[label or name] = None
    return parts


def _common(key: str) -> str:
    """A key without the datasets that a mix puts before its tasks: heads.meld/emotion -> heads.emotion."""
    name, bracket, label = key.partition("[")
    return ".".join(step.rsplit("/", 1)[-1] for step in name.split(".")) + bracket + label


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to: model.experts.audio, model.heads.emotion, encoders.text."""
    steps = name.split(".")[:-1]
    deep = steps[:2] in (["model", group] for group in ("experts", "heads", "unimodal_heads", "alone"))
    return ".".join(steps[: 3 if deep else 2]) or name


def table(parts: Mapping[str, Part]) -> str:
    """One line for the parts that were carried over whole, then one for each other part."""
    whole = [name for name, p in parts.items() if p.carried and not (p.fresh or p.left)]
    lines = [f"  whole: {', '.join(whole)}"] if whole else []
    for name, part in parts.items():
        columns = (("carried over", part.carried), ("fresh", part.fresh), ("left behind", part.left))
        if name not in whole and (part.fresh or part.left):
            lines.append(f"  {name}: " + "; ".join(f"{title} {_few(name, n)}" for title, n in columns if n))
    return "\n".join(lines)


def _few(part: str, names: Mapping[str, None], most: int = 8) -> str:
    """The first names, without the part that they share."""
    short = [name.removeprefix(f"{part}.") for name in names]
    return ", ".join(short[:most]) + (f" and {len(short) - most} more" if len(short) > most else "")
