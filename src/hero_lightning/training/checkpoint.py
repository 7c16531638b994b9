"""Checkpoints: finding, reading and checking them; the facts they hold with the weights.

Data flow: EmotionModule -> trainable weights + facts (classes, widths, identities) -> .ckpt -> checks -> weights.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hero_lightning.errors import CheckpointError, cause
from hero_lightning.features.files import check_zip

log = logging.getLogger(__name__)

FACTS = "hero_lightning"
"""Key of the facts inside a Lightning checkpoint."""
LM = "lm"
"""Folder of a run's small language model: its tokenizer, sizes and initial weights."""


def find(where: str | Path, prefer: str = "best") -> Path:
    """The checkpoint of a run folder (`best.ckpt`, else `last.ckpt`), or the file itself.

    Raises:
        CheckpointError: if there is none.
    """
    path = Path(where)
    if path.is_file():
        return path
    found = sorted((path / "checkpoints").glob(f"{prefer}*.ckpt")) or sorted((path / "checkpoints").glob("*.ckpt"))
    if not found:
        raise CheckpointError(
            "No checkpoint found.",
            expected="a run folder with checkpoints/*.ckpt, or a .ckpt file",
            got="a folder without one" if path.is_dir() else "nothing there",
            where=path,
            hint="run=runs/NAME/DATE of a finished `python -m hero_lightning.train`",
        )
    return found[-1]


def run_folder(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in."""
    return checkpoint.parent.parent


def copy_lm(where: str | Path | None, folder: Path) -> Path:
    """Folder of the language model of the run in `folder`; a copy of that of the run it starts from, if it has one.

    The weights depend on the token ids of that run.
    """
    source = None if where is None else run_folder(find(where)) / LM
    if source is not None and source.is_dir():
        shutil.copytree(source, folder / LM, dirs_exist_ok=True)
    return folder / LM


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; it may hold tensors and plain builtins only.

    Raises:
        CheckpointError: if the file is broken, holds other objects, or was not written by this package.
    """
    import pickle

    try:
        check_zip(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            "A checkpoint cannot be read.",
            expected="a file of tensors and plain builtins",
            got=cause(error),
            where=path,
            hint="use another checkpoint of the run, or train again",
        ) from error
    if not isinstance(state, dict) or FACTS not in state or "state_dict" not in state:
        raise CheckpointError(
            "A checkpoint is not one of hero_lightning.",
            expected=f"keys state_dict and {FACTS}",
            got=sorted(state)[:8] if isinstance(state, dict) else type(state).__name__,
            where=path,
        )
    return state


def trainable_state(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `state` that training can change: trainable parameters, and buffers outside frozen encoders."""
    named = dict(module.named_parameters(remove_duplicate=False))  # a tied matrix has two names and is stored once
    kept = {n for n, p in module.named_parameters() if p.requires_grad}
    frozen = named.keys() - kept
    still = {n.rsplit(".", 1)[0] for n in frozen} - {n.rsplit(".", 1)[0] for n in kept}
    return {k: v for k, v in state.items() if k in kept or (k not in frozen and k.rsplit(".", 1)[0] not in still)}


def restore(module: nn.Module, state: Mapping[str, torch.Tensor], where: Path) -> None:
    """Copies the weights of a run into its model; see `transfer` for those of another run.

    Args:
        module: what receives them.
        state: name -> tensor of a checkpoint.
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: other shapes, or missing trainable weights.
    """
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    wrong = [(k, tuple(own[k].shape), tuple(v.shape)) for k, v in state.items() if k in own and own[k].shape != v.shape]
    if wrong:
        name, expected, got = wrong[0]
        raise CheckpointError(
            f"{len(wrong)} weights of the checkpoint have another shape than the model's.",
            expected=f"{name} {expected}",
            got=f"{name} {got}",
            where=where,
            hint="use the size, modalities and dataset of the run that wrote it",
        )
    missing = [n for n, p in module.named_parameters() if p.requires_grad and n not in state]
    if missing:
        raise CheckpointError(
            f"{len(missing)} trainable weights are not in the checkpoint.",
            expected=missing[:3],
            got="not there",
            where=where,
            hint="use the modalities and auxiliary losses of the run that wrote it",
        )
    module.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def check_facts(saved: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Refuses a checkpoint whose feature widths or identities are not those of the data at hand.

    Args:
        saved: facts of the checkpoint.
        now: facts of the model just built.
        where: the checkpoint.

    Raises:
        CheckpointError: names modality, expected and found.
    """
    for modality, width in saved["dims"].items():
        found = now["dims"].get(modality)
        if found is not None and found != width:
            raise CheckpointError(
                f"Features of modality {modality} have another width than those the checkpoint was trained on.",
                expected=width,
                got=found,
                where=f"{where}, modality.{modality}",
                hint="read the features of the same encoder",
            )
    for modality, part, before, after in changed_modalities(saved, now):
        raise CheckpointError(
            f"Features of modality {modality} differ in `{part}` from those the checkpoint was trained on.",
            expected=before,
            got=after,
            where=f"{where}, modality.{modality}",
            hint=f"set modality.{modality} as in the run's config.yaml",
        )
    for task, state in saved["tasks"].items():
        classes = state["settings"].get("classes")
        found = now["tasks"].get(task, {}).get("settings", {}).get("classes")
        if classes and found and list(classes) != list(found):
            raise CheckpointError(
                f"Task {task} has other classes than the checkpoint.",
                expected=list(classes),
                got=list(found),
                where=where,
                hint="label_map='{theirs: ours}', or train on this dataset",
            )


def changed_modalities(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Modality, part of its identity, and that part before and now, where two models' facts differ in a modality."""
    for modality, identity in saved["identities"].items():
        found = now["identities"].get(modality)
        part = None if found is None else _differs(identity, found)
        if found is not None and part is not None:
            yield modality, part, identity.get(part), found.get(part)


def _differs(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first part in which two feature identities differ, dataset and folder aside."""

    def kept(identity: Mapping[str, Any]) -> dict[str, Any]:
        plain = {k: v for k, v in identity.items() if k != "dataset"}
        return plain | {"source": {k: v for k, v in plain.get("source", {}).items() if k != "root"}}

    a, b = kept(saved), kept(now)
    return next((k for k in {**a, **b} if a.get(k) != b.get(k)), None)
