"""The gate that every stored config passes before anything is built from it: a run may come from anybody.

Data flow: YAML text of a checkpoint -> without anchors -> plain dict -> names, strings and keys of the whole tree
-> classes of the package, each of the kind of its place -> the same dict, without what is never built from it.

Checked first are texts alone; modules are imported only when the whole tree has passed.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hero_lightning.errors import CheckpointError, cause

PLACES = {
    "model": "hero_lightning.models.base.FusionModel",
    "model.fusion": "hero_lightning.models.hero.fusion.Fusion",
    "llm": "hero_lightning.models.llm.head.LLMHead",
    "llm.small": "hero_lightning.models.llm.small_lm.SmallLM",
    "llm.lora": "hero_lightning.hub.Lora",
    "reasoner": "hero_lightning.models.llm.reasoner.Reasoner",
    "reasoner.loss": "hero_lightning.models.llm.reasoner.GenerationLoss",
    "reasoner.generation": "hero_lightning.models.llm.reasoner.Generation",
    "reasoner.decoder": "hero_lightning.models.llm.evidence_decoder.EvidenceDecoder",
    "reasoner.evidence": "hero_lightning.reasoning.evidence.TemplateWriter",
    "reasoner.evidence.phrasing": "hero_lightning.reasoning.evidence.Phrasing",
    "reasoner.prompt": "hero_lightning.reasoning.prompts.PromptBuilder",
    "reasoner.answer": "hero_lightning.reasoning.answer_targets.AnswerWriter",
    "modality.*": "hero_lightning.features.modality.Modality",
    "modality.*.encoder": "hero_lightning.encoders.base.Encoder",
    "modality.*.encoder.lora": "hero_lightning.hub.Lora",
    "modality.*.sampler": "hero_lightning.media.frame_samplers.FrameSampler",
    "modality.*.detector": "hero_lightning.media.face.FaceCropper",
    "modality.*.source": "hero_lightning.features.foreign.array_source.ArraySource",
    "dataset": "hero_lightning.data.datamodule.EmotionDataModule",
    "dataset.tasks.*": "hero_lightning.tasks.base.Task",
    "losses.*": "hero_lightning.training.losses.AuxiliaryLoss",
    "losses.*.caption_encoder": "hero_lightning.encoders.base.Encoder",
    "losses.*.caption_encoder.lora": "hero_lightning.hub.Lora",
    "optimizer": "hero_lightning.training.optimizers.AdamWWithCosine",
    "modality_dropout": "hero_lightning.training.augment.ModalityDropout",
    "mixup": "hero_lightning.training.augment.Mixup",
    "callbacks.record": "hero_lightning.reporting.callback.ResultsWriter",
}
"""Place in a stored config, * = any name -> the class that may stand there, or a class derived from it."""
PARTIAL = ("model", "fusion", "_partial_")
"""Where a class may be completed later: the model gives it its shapes."""
UNREAD = ("trainer", "logger", "paths")
"""Parts of a stored config that are never used: this machine and command line have their own."""
OUTSIDE = re.compile(r"\s*(?:[/~\\]|[a-z]:[/\\]|(?:pipe|file|data):|[a-z][\w+.-]*://)", re.IGNORECASE)
"""Beginnings of absolute paths and URLs."""

Step = tuple[tuple[str, ...], Any]
"""Keys from the root to a node, and the node."""


def read(text: Any, where: Path | str, paths: Collection[Any] = (), trust: Sequence[str] = ()) -> dict[str, Any]:
    """The stored config of a run, from which objects may be built.

    Args:
        text: YAML.
        where: the checkpoint, for messages.
        paths: folders of this machine; files below them may be named.
        trust: what the user vouches for besides: packages whose classes may be named (my_package), folders (/data) and
            URLs (https://host/shards).

    Returns:
        Its parts as plain containers without `UNREAD`, and of the callbacks only `record`.

    Raises:
        CheckpointError: no YAML mapping; or it names anything that `PLACES`, `paths` and `trust` do not admit.
    """
    config = {k: v for k, v in _parsed(text, where).items() if k not in UNREAD}
    config["callbacks"] = {k: v for k, v in (config.get("callbacks") or {}).items() if k == "record"}
    tree, packages = list(_walk(config)), [name for name in trust if re.fullmatch(r"[\w.]*\w", name)]
    folders = [*paths, *(name for name in trust if name not in packages)]
    named = [(keys, node["_target_"]) for keys, node in tree if isinstance(node, Mapping) and "_target_" in node]
    for keys, name in named:
        _check_name(keys, name, where, packages)
    for keys, node in tree:
        _check_text(keys, node, where)
    _check_files({keys: node for keys, node in tree if isinstance(node, str)}, where, folders)
    for keys, name in named:
        _check_class(keys, name, where)
    return config


def _parsed(text: Any, where: Path | str) -> dict[str, Any]:
    try:
        # A few anchors expand to any size; configs written by this package have none.
        plain = isinstance(text, str) and not any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(text))
        out: Any = OmegaConf.to_container(OmegaConf.create(text)) if plain else None
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
        raise CheckpointError("The stored config cannot be read.", got=cause(error), where=where) from error
    if not isinstance(out, dict) or not isinstance(out.get("callbacks") or {}, dict):
        problem, expected = "The stored config cannot be read.", "a mapping in YAML without anchors"
        raise CheckpointError(problem, expected=expected, got=repr(text)[:80], where=where)
    return {str(k): v for k, v in out.items()}


def _walk(node: Any, keys: tuple[str, ...] = ()) -> Iterator[Step]:
    yield keys, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield from _walk(value, (*keys, str(key)))


def _refuse(keys: tuple[str, ...], expected: str, got: Any, where: Path | str, hint: str | None = None) -> NoReturn:
    raise CheckpointError(
        "A stored config names something that a run is never rebuilt from.",
        expected=expected,
        got=f"{'.'.join(keys)}: {got}",
        where=where,
        hint=hint,
    )


def _check_text(keys: tuple[str, ...], node: Any, where: Path | str) -> None:
    """Keys of Hydra and interpolations."""
    key = keys[-1] if keys else ""
    if key != "_target_" and re.fullmatch(r"_\w+_", key) and keys != PARTIAL:
        _refuse(keys, "_target_ as the only key of Hydra", node, where)
    if key == "trust_remote_code" and node:
        _refuse(keys, "false", node, where)
    if isinstance(node, str) and "${" in node:
        _refuse(keys, "values without interpolations", node, where)


def _check_files(texts: Mapping[tuple[str, ...], str], where: Path | str, folders: Sequence[Any]) -> None:
    """Files and URLs outside `folders`."""
    outside = {
        keys: text
        for keys, text in texts.items()
        if (OUTSIDE.match(text) or ".." in re.split(r"[/\\]", text) or "urls" in keys)
        and not any(_lies_in(text, str(folder)) for folder in folders)
    }
    if outside:
        names = dict.fromkeys(outside.values())
        highest = [n for n in names if not any(_lies_in(n, other) for other in names if other != n)]
        plain = all(re.fullmatch(r"[\w./:+-]+", n) for n in highest)
        keys = next(iter(outside))
        raise CheckpointError(
            "A stored config names files that are not below this machine's paths.",
            expected="relative paths, or some below paths.data, paths.features, paths.runs or trust",
            got=f"{'.'.join(keys)}: {outside[keys]}" + (f", and {len(outside) - 1} more" if len(outside) > 1 else ""),
            where=where,
            hint=f"if you know them: trust=[{','.join(highest)}]" if plain else None,
        )


def _lies_in(name: str, folder: str) -> bool:
    """Whether a path is `folder` or below it, links followed; or a URL begins with `folder`."""
    if "://" in folder:
        return name == folder or name.startswith(folder.rstrip("/") + "/")
    url = re.match(r"\s*\w[\w+.-]+:|.*[{|]", name)
    return not url and Path(name).expanduser().resolve().is_relative_to(Path(folder).expanduser().resolve())


def _base(keys: tuple[str, ...]) -> str | None:
    """The class of a place."""
    while keys[:2] == ("dataset", "datasets") and len(keys) > 2:  # a mix; its parts may change `modality`
        keys = keys[3:] if keys[3:4] == ("modality",) else ("dataset", *keys[3:])
    for place, base in PLACES.items():
        steps = place.split(".")
        if len(steps) == len(keys) and all(a in ("*", b) for a, b in zip(steps, keys, strict=True)):
            return base
    return None


def _check_name(keys: tuple[str, ...], name: Any, where: Path | str, packages: Sequence[str]) -> None:
    """That a class of the package stands where there is a class at all, or one of a trusted package."""
    base, package = _base(keys), str(name).partition(".")[0]
    dotted = isinstance(name, str) and re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", name)
    expected = f"a class derived from {base}" if base else "a mapping without _target_"
    if not dotted or package in sys.stdlib_module_names:
        _refuse(keys, expected, name, where)
    trusted = any(name.startswith(f"{p}.") for p in packages)
    if not trusted and (base is None or package != "hero_lightning"):
        own = base is not None and package != "hero_lightning"
        _refuse(
            keys, expected, name, where, f"if you know that package and this run: trust=[{package}]" if own else None
        )


def _check_class(keys: tuple[str, ...], name: str, where: Path | str) -> None:
    """That Hydra finds under the name a class defined under that very name, of the kind of its place."""
    base, (module, _, own) = _base(keys), name.rpartition(".")
    expected = f"a class derived from {base or 'any'}"
    try:
        importlib.import_module(module)  # a class inside another object is none of ours
        found = get_object(name)
    except (ImportError, ValueError) as error:
        _refuse(keys, expected, f"{name} ({cause(error)})", where)
    home = getattr(found, "__module__", None) or ""
    own_name = getattr(found, "__qualname__", None) == own and (home == module or home.startswith(f"{module}."))
    if not (own_name and isinstance(found, type) and issubclass(found, get_object(base) if base else object)):
        _refuse(keys, expected, name, where)
