"""Config -> objects. The only caller of Hydra's instantiate; below it no object sees a config.

Data flow: cfg.modality -> Modalities; cfg.dataset -> data module; its widths and classes + cfg.model -> EmotionModule;
cfg.trainer, cfg.logger, cfg.callbacks -> Trainer.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from hero_lightning.config.instantiate import factory, make, plain
from hero_lightning.errors import ConfigError, not_yet
from hero_lightning.types import MODALITIES

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from hero_lightning.data.datamodule import EmotionDataModule
    from hero_lightning.features import Modality
    from hero_lightning.models.base import FusionModel
    from hero_lightning.models.llm.reasoner import Reasoner
    from hero_lightning.tasks import Task
    from hero_lightning.training.losses import AuxiliaryLoss
    from hero_lightning.training.module import EmotionModule

log = logging.getLogger(__name__)

REBUILT = ("model", "llm", "reasoner", "modality", "dataset", "losses", "optimizer")
"""Parts of a stored config that objects are built from."""


def run_folder() -> Path:
    """Hydra's folder of this run."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def beside(command: str, *overrides: str) -> DictConfig:
    """Another configuration of this command: its own overrides of paths and options, and these, which win."""
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig

    given = [o for o in HydraConfig.get().overrides.task if re.split(r"[.=]", o)[0] == "paths"]
    return compose(command, [*given, *overrides])


def refuse_missing(cfg: DictConfig) -> None:
    """Says at once that the engine of a chosen option is not in this version, before any clip is looked at."""
    for node in cfg.values():
        if isinstance(node, DictConfig) and str(node.get("_target_", "")).endswith(".not_yet"):
            not_yet(node.what, node.here)


def stored_config(cfg: DictConfig) -> DictConfig:
    """The config with every interpolation resolved and without Hydra's own part: what a run is rebuilt from."""
    return OmegaConf.create(plain(cfg))


def load_run(where: str, paths: Mapping[str, Any]) -> tuple[DictConfig, Path, dict[str, Any]]:
    """A finished run as data: its resolved config, checkpoint path and checkpoint.

    Args:
        where: run folder or checkpoint file.
        paths: this machine's paths; they replace the run's.

    Raises:
        CheckpointError: no checkpoint, or a config that names anything but the admitted classes.
    """
    from hero_lightning.training import checkpoint

    path = checkpoint.find(where)
    state = checkpoint.load(path)
    found = plain(OmegaConf.create(state[checkpoint.FACTS]["config"]))
    checkpoint.check_config({k: found.get(k) for k in REBUILT}, path)
    return OmegaConf.create(found | {"paths": plain(paths)}), path, state


def modalities(cfg: DictConfig) -> dict[str, Modality]:
    """The modalities a config asks for, in canonical order. Encoders are not built yet."""
    asked = cfg.get("modalities")
    unknown = [s for s in asked or () if s not in MODALITIES]
    if unknown:
        raise ConfigError("Unknown modality.", expected=", ".join(MODALITIES), got=unknown[0], where="modalities")
    chosen = [
        s for s in MODALITIES if s in cfg.modality and "_target_" in cfg.modality[s] and s in (asked or MODALITIES)
    ]
    missing = [s for s in asked or () if s not in chosen]
    if missing or not chosen:
        raise ConfigError(
            "A modality is asked for that the config leaves out.",
            expected="one of " + ", ".join(chosen),
            got=missing or "no modality",
            where="modalities",
            hint=f"modality@modality.{missing[0] if missing else 'text'}={missing[0] if missing else 'text'}",
        )
    found = {name: _modality(cfg.modality[name], f"modality.{name}") for name in chosen}
    for name, modality in found.items():
        modality.remedy = extract_command(name)
    return found


def extract_command(modality: str) -> str:
    """What extracts a modality's features with the settings of this command line."""
    from hydra.core.hydra_config import HydraConfig

    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    kept = [
        shlex.quote(o)
        for o in given
        if re.match(r"\+*(dataset|modes?|modality|modality|detector|sampler|encoder|paths)\b", o)
    ]
    return " ".join(["python -m hero_lightning.extract", *kept, f"modalities=[{modality}]"])


def _modality(config: DictConfig, where: str) -> Modality:
    node = plain(config)
    given: dict[str, Any] = {}
    for part in ("encoder", "sampler", "source", "detector"):
        child = node.pop(part, None)
        if child and "_target_" in child:
            # An encoder stays a factory: its weights are read only if some clip is not stored.
            given[part] = (factory if part == "encoder" else make)(child, f"{where}.{part}")
    return make(node, where, **given)


def dataset(cfg: DictConfig, tasks: Mapping[str, Task] | None = None, **options: Any) -> EmotionDataModule:
    """The dataset, not looked at yet.

    Args:
        cfg: has modality, dataset, paths and seed.
        tasks: fitted ones (of a checkpoint) instead of the config's.
        options: constructor arguments that are not the config's.
    """
    if "_target_" not in cfg.dataset:
        raise ConfigError("No dataset is chosen.", expected="dataset=<name>", got="none", where="dataset")
    node = plain(cfg.dataset)
    own = {
        name: make({**child, "name": name}, f"dataset.tasks.{name}")
        for name, child in (node.pop("tasks", None) or {}).items()
        if child and "_target_" in child
    }
    given = {"modalities": modalities(cfg), "tasks": dict(tasks or own), "features_root": cfg.paths.features, **options}
    if parts := node.pop("datasets", None):  # a mix: each part is a dataset node, which may change modality for itself
        shared = {"paths": plain(cfg.paths), "seed": cfg.seed, "modalities": cfg.get("modalities")}
        changes = {name: child.pop("modality", None) or {} for name, child in parts.items()}
        merged = {n: OmegaConf.merge(cfg.modality, changes[n]) for n in parts}
        given["datasets"] = {
            n: dataset(OmegaConf.create({**shared, "modality": merged[n], "dataset": parts[n]})) for n in parts
        }
    return make(node, "dataset", seed=cfg.seed, **given)


def auxiliary_losses(cfg: DictConfig) -> dict[str, AuxiliaryLoss]:
    """The auxiliary losses with a weight above 0."""
    nodes = cfg.get("losses") or {}
    losses = {n: make(node, f"losses.{n}") for n, node in nodes.items() if node and "_target_" in node}
    return {name: loss for name, loss in losses.items() if loss.weight > 0}


def reasoner(cfg: DictConfig, main: Task, model: FusionModel) -> Reasoner | None:
    """The language model of a config that has one, not loaded yet.

    Args:
        cfg: perhaps has llm and reasoner.
        main: the Task that it answers for.
        model: the model whose context it reads.
    """
    node, llm = cfg.get("reasoner") or {}, cfg.get("llm") or {}
    if ("_target_" in node) != ("_target_" in llm):
        raise ConfigError(
            "`llm` and `model` do not fit.",
            expected="model=hero_cot with llm=<name>, or model=hero with llm=none",
            got="llm=none" if "_target_" in node else "an llm, and a model that does not read it",
            where="llm",
        )
    if "_target_" not in node:
        if node.get("decoder"):
            raise ConfigError(
                "An evidence decoder writes for a language model.",
                expected="model=hero_cot, or evidence_decoder=none",
                got="evidence_decoder without a language model",
                where="evidence_decoder",
            )
        return None
    if main.kind != "class":
        raise ConfigError(
            "A language model names one class.", expected="a class task first", got=main.kind, where="dataset.tasks"
        )
    head = make(llm, "llm", d=model.width)
    return make(node, "reasoner", llm=head, task=main.name, classes=main.classes)


def module(
    cfg: DictConfig,
    modalities: Mapping[str, Modality],
    tasks: Mapping[str, Task],
    dims: Mapping[str, int],
    prepare: Callable[[Reasoner], None],
    facts: Mapping[str, Any] | None = None,
) -> EmotionModule:
    """Encoders, model, heads and auxiliary losses.

    Args:
        cfg: has model, losses, optimizer, stage, seed; perhaps llm and reasoner.
        modalities: by name; the model reads those in `dims`.
        tasks: fitted Tasks.
        dims: modality -> feature width.
        prepare: completes the reasoner, if there is one (`Reasoner.prepare` or `restore`).
        facts: kept in checkpoints (`EmotionModule`).
    """
    from hero_lightning.training.augment import Augmentation
    from hero_lightning.training.module import EmotionModule

    losses = auxiliary_losses(cfg)
    heads = {head for loss in losses.values() for head in loss.requires}
    outputs = {name: task.outputs for name, task in tasks.items()}
    node = {k: v for k, v in plain(cfg.model).items() if v != {}}  # a group set to none leaves {} behind
    model: FusionModel = make(node, "model", dims=dict(dims), outputs=outputs, auxiliary_heads=heads)
    losses = {name: loss for name, loss in losses.items() if set(loss.requires) <= set(model.auxiliary_heads)}
    llm = reasoner(cfg, next(iter(tasks.values())), model)
    parts = {key: make(cfg[key], key) for key in ("modality_dropout", "mixup") if cfg.get(key)}
    unmixable = [
        *([] if llm is None else ["a language model, which answers one clip"]),
        *(f"{name}, whose labels hold for one clip" for name, task in tasks.items() if task.kind == "pair"),
        *(f"{name}, which makes labels for one clip" for name, loss in losses.items() if not loss.mixable),
    ]
    if "mixup" in parts and unmixable:
        expected = "tasks, auxiliary losses and a model whose losses can be mixed"
        problem, got = "Clips cannot be mixed.", unmixable[0]
        raise ConfigError(problem, expected=expected, got=got, where="mixup", hint="mixup=none")
    if llm is not None:
        prepare(llm)
    return EmotionModule(
        model=model,
        modalities={name: modalities[name] for name in dims},
        tasks=tasks,
        auxiliary_losses=losses,
        optimizer=make(cfg.optimizer, "optimizer"),
        reasoner=llm,
        train_prefixes=tuple(cfg.stage.train),
        augmentation=Augmentation(**parts),
        seed=cfg.seed,
        facts=facts,
    )


def trainer(cfg: DictConfig, folder: Path, **given: Any) -> pl.Trainer:
    """A Lightning Trainer; `precision: auto` becomes bf16-mixed where the device computes in it.

    Callbacks that the trainer's own switches (enable_progress_bar, enable_checkpointing) turn off are left out.
    """
    import torch
    from pytorch_lightning.callbacks import Checkpoint, ProgressBar
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    node = plain(cfg.trainer)
    if node.get("precision") == "auto":
        cuda = node["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        node["precision"] = "bf16-mixed" if cuda and torch.cuda.is_bf16_supported() else "32-true"
    callbacks = [make(n, f"callbacks.{k}") for k, n in (cfg.get("callbacks") or {}).items() if n and "_target_" in n]
    switches = {"enable_progress_bar": ProgressBar, "enable_checkpointing": Checkpoint}
    off = tuple(kind for key, kind in switches.items() if node.get(key) is False)
    callbacks = [c for c in callbacks if not isinstance(c, off)]
    loggers = [make(n, f"logger.{k}") for k, n in (cfg.get("logger") or {}).items() if n and "_target_" in n]
    try:
        return make(
            node, "trainer", default_root_dir=str(folder), callbacks=callbacks, logger=loggers or False, **given
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(
            "The trainer cannot be set up on this machine.",
            expected="an accelerator, device count, strategy and precision that fit it",
            got=str(error).splitlines()[0],
            where="trainer",
            hint="trainer=cpu, or trainer.accelerator=auto trainer.devices=1",
        ) from error


def wandb_logger(project: str, name: str, group: str | None, tags: Iterable[str], folder: str) -> Any:
    """W&B's logger, offline where no API key is known, so that a run never stops to ask for one."""
    import netrc

    from pytorch_lightning.loggers import WandbLogger

    known = "WANDB_API_KEY" in os.environ
    try:
        known = known or netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        known = known or False
    if not known and "WANDB_MODE" not in os.environ:
        log.info("no W&B key known: logging offline; `wandb sync` uploads later")
        os.environ["WANDB_MODE"] = "offline"
    return WandbLogger(project=project, name=name, group=group, tags=list(tags), save_dir=folder)
