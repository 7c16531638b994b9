"""Config -> objects. The only caller of Hydra's instantiate; below it no object sees a config.

Data flow: cfg.modality -> Modalities; cfg.dataset -> data module; its widths and classes + cfg.model -> EmotionModule;
cfg.trainer, cfg.logger, cfg.callbacks -> Trainer.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from hero_lightning.config import gate
from hero_lightning.config.instantiate import factory, make, plain
from hero_lightning.errors import ConfigError, cause, one_of
from hero_lightning.types import MODALITIES

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import Tensor

    from hero_lightning.data.datamodule import EmotionDataModule
    from hero_lightning.features import Modality
    from hero_lightning.models.base import FusionModel
    from hero_lightning.models.llm.reasoner import Reasoner
    from hero_lightning.tasks import Task
    from hero_lightning.training.losses import AuxiliaryLoss
    from hero_lightning.training.module import EmotionModule

log = logging.getLogger(__name__)


def run_folder() -> Path:
    """Hydra's folder of this run."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def compose_again(command: str, *overrides: str) -> DictConfig:
    """The config of a command with the overrides of `paths` on this command line, then `overrides`."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    given = [o for o in HydraConfig.get().overrides.task if re.split(r"[.=]", o)[0] == "paths"]
    return hydra.compose(command, [*given, *overrides])


def stored_config(cfg: DictConfig) -> DictConfig:
    """The config with every interpolation resolved and without Hydra's own part, from which a run is rebuilt."""
    return OmegaConf.create(plain(cfg))


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, from which its model is built again.

    Attributes:
        config: its config with this machine's paths (see `gate.read`); may be changed before objects are built from it.
        path: checkpoint file.
        facts: what the checkpoint holds beside weights: config, dims, identities, tasks, dataset, reasoner.
        weights: name -> tensor.
    """

    config: DictConfig
    path: Path
    facts: dict[str, Any]
    weights: dict[str, Tensor]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.path.parent.parent

    def tasks(self) -> dict[str, Task]:
        """The fitted Tasks of the run, new objects at every call."""
        from hero_lightning.tasks import Task

        return {name: Task.from_state(state) for name, state in self.facts["tasks"].items()}

    def module(self, modalities: Mapping[str, Modality], tasks: Mapping[str, Task], **options: Any) -> EmotionModule:
        """The run's model with its weights; arguments as in `module`.

        Raises:
            CheckpointError: weights of other shapes, or missing ones.
        """
        from hero_lightning.training import checkpoint

        def prepare(reasoner: Reasoner) -> None:
            reasoner.restore(self.facts["reasoner"], self.folder / checkpoint.LM)

        out = module(self.config, modalities, tasks, self.facts["dims"], prepare, **options)
        checkpoint.restore(out, self.weights, self.path)
        return out


def restore(where: str, paths: Mapping[str, Any], trust: Sequence[str] = ()) -> FinishedRun:
    """Reads a finished run.

    Args:
        where: run folder or checkpoint file.
        paths: this machine's paths; they replace the run's.
        trust: packages, folders and URLs that its config may name; see `gate.read`.

    Raises:
        CheckpointError: no checkpoint, or a config that names what is not admitted.
    """
    from hero_lightning.training import checkpoint

    path = checkpoint.find(where)
    state = checkpoint.load(path)
    facts = state[checkpoint.FACTS]
    config = gate.read(facts.get("config"), path, plain(paths).values(), trust)
    return FinishedRun(OmegaConf.create(config | {"paths": plain(paths)}), path, facts, state["state_dict"])


def compute_features(stored: DictConfig) -> None:
    """Sets every modality with an encoder to compute its features: what is stored belongs to clips of the dataset."""
    with open_dict(stored):
        for node in stored.modality.values():
            if node.get("mode") != "realtime" and "_target_" in (node.get("encoder") or {}):
                node.mode, node.source, node.fallback = "auto", None, False


MOVED = re.compile(r"\+{0,2}((?:modality\.\w+\.encoder|llm)\.name)=(.+)", re.DOTALL)
"""Options of `predict` and `evaluate` that change the run's own config: folders that have moved since."""


def moved() -> list[str]:
    """The options of this command line that name a moved folder of the run."""
    from hydra.core.hydra_config import HydraConfig

    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [option for option in given if MOVED.fullmatch(option)]


def change(config: DictConfig, options: Sequence[str]) -> None:
    """Changes the config of a finished run.

    Args:
        config: of the run.
        options: as on the command line; what `MOVED` admits.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for option in options:
        found = MOVED.fullmatch(option)
        key = found[1] if found else option.partition("=")[0]
        if found is None or OmegaConf.select(config, key) is None:
            expected = "modality.<name>.encoder.name=FOLDER or llm.name=FOLDER of a part that the run has"
            raise ConfigError("The run has no such option.", expected=expected, got=option, where=key)
        OmegaConf.update(config, key, OverridesParser.create().parse_override(option).value())


def modalities(cfg: DictConfig) -> dict[str, Modality]:
    """The modalities a config asks for, in canonical order. Encoders are not built yet."""
    asked = cfg.get("modalities")
    for name in asked or ():
        one_of("modalities", name, MODALITIES)
    chosen = [
        s for s in MODALITIES if s in cfg.modality and "_target_" in cfg.modality[s] and s in (asked or MODALITIES)
    ]
    missing = [s for s in asked or () if s not in chosen]
    if missing or not chosen:
        raise ConfigError(
            "The config has no such modality.",
            expected="one of " + ", ".join(chosen),
            got=missing or "no modality",
            where="modalities",
            hint=f"modality@modality.{missing[0] if missing else 'text'}={missing[0] if missing else 'text'}",
        )
    return {name: _modality(name, cfg.modality[name]) for name in chosen}


def extract_command(modality: str) -> str:
    """The command that extracts a modality's features with the settings of this command line."""
    from hydra.core.hydra_config import HydraConfig

    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    kept = [
        shlex.quote(o) for o in given if re.match(r"\+*(dataset|modes?|modality|detector|sampler|encoder|paths)\b", o)
    ]
    return " ".join(["python -m hero_lightning.extract", *kept, f"modalities=[{modality}]"])


def _modality(name: str, config: DictConfig) -> Modality:
    node, where = plain(config), f"modality.{name}"
    given: dict[str, Any] = {"remedy": extract_command(name)}
    for part in ("encoder", "sampler", "source", "detector"):
        child = node.pop(part, None)
        if child and "_target_" in child:
            # An encoder stays a factory: its weights are read only if some clip is not stored.
            given[part] = (factory if part == "encoder" else make)(child, f"{where}.{part}")
    return make(node, where, **given)


def tasks(cfg: DictConfig) -> dict[str, Task]:
    """The Tasks of cfg.dataset, not fitted."""
    nodes = plain(cfg.dataset).get("tasks") or {}
    return {
        name: make({**node, "name": name}, f"dataset.tasks.{name}")
        for name, node in nodes.items()
        if node and "_target_" in node
    }


def dataset(cfg: DictConfig, **options: Any) -> EmotionDataModule:
    """The data module of a config, not indexed yet.

    Args:
        cfg: has modality, dataset, paths and seed.
        options: constructor arguments that replace those of the config, e.g. fitted `tasks` of a checkpoint.
    """
    if "_target_" not in cfg.dataset:
        raise ConfigError("No dataset is chosen.", expected="dataset=<name>", got="none", where="dataset")
    node = {k: v for k, v in plain(cfg.dataset).items() if k != "tasks"}
    given = {"modalities": modalities(cfg), "tasks": tasks(cfg), "features_root": cfg.paths.features, **options}
    if parts := node.pop("datasets", None):  # a mix: each part is a dataset node with changes to `modality` of its own
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
        cfg: perhaps has llm, reasoner and backbone.
        main: the Task that it answers for.
        model: the model whose context it reads.
    """
    node, llm = cfg.get("reasoner") or {}, cfg.get("llm") or {}
    if cfg.get("backbone") and "_target_" not in node:  # it sets a language model for the models that read one
        llm = {}
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
    **options: Any,
) -> EmotionModule:
    """Encoders, model, heads and auxiliary losses.

    Args:
        cfg: has model, losses, optimizer, stage, seed; perhaps llm and reasoner.
        modalities: by name; the model reads those in `dims`.
        tasks: fitted Tasks.
        dims: modality -> feature width.
        prepare: completes the reasoner, if there is one (`Reasoner.prepare` or `restore`).
        options: further constructor arguments of EmotionModule.
    """
    import torch

    from hero_lightning.training.augment import Augmentation
    from hero_lightning.training.module import EmotionModule

    losses = auxiliary_losses(cfg)
    heads = {head for loss in losses.values() for head in loss.requires}
    outputs = {name: task.outputs for name, task in tasks.items()}
    node = {k: v for k, v in plain(cfg.model).items() if v != {}}  # a group set to none leaves {} behind
    # Filling the feature store draws random numbers: a run that fills it and one that finds it full start alike.
    torch.manual_seed(cfg.seed)
    model: FusionModel = make(node, "model", dims=dict(dims), outputs=outputs, auxiliary_heads=heads)
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
    losses = {name: loss for name, loss in losses.items() if loss.build(model, llm)}
    out = EmotionModule(
        model=model,
        modalities={name: modalities[name] for name in dims},
        tasks=tasks,
        auxiliary_losses=losses,
        optimizer=make(cfg.optimizer, "optimizer"),
        reasoner=llm,
        augmentation=Augmentation(**parts),
        seed=cfg.seed,
        **options,
    )
    for name, parameter in out.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name.startswith((*cfg.stage.train, "auxiliary_losses")))
    return out


def trainer(cfg: DictConfig, folder: Path, trackers: Sequence[Any] | None = None) -> pl.Trainer:
    """A Lightning Trainer; `precision: auto` becomes bf16-mixed where the device computes in it.

    Callbacks that the trainer's own switches (enable_progress_bar, enable_checkpointing) turn off are left out; without
    a terminal there is no progress bar.

    Args:
        cfg: has trainer, perhaps logger and callbacks.
        folder: run folder.
        trackers: loggers in the place of the config's.
    """
    import torch
    from pytorch_lightning.callbacks import Checkpoint, ProgressBar
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from hero_lightning.training.checkpointing import AtomicCheckpointIO

    node = plain(cfg.trainer)
    if node.get("precision") == "auto":
        cuda = node["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        node["precision"] = "bf16-mixed" if cuda and torch.cuda.is_bf16_supported() else "32-true"
    own = str(node.get("strategy", "")).startswith(("fsdp", "deepspeed"))  # these write folders of their own
    callbacks = [make(n, f"callbacks.{k}") for k, n in (cfg.get("callbacks") or {}).items() if n and "_target_" in n]
    switches = {"enable_progress_bar": ProgressBar, "enable_checkpointing": Checkpoint}
    node["enable_progress_bar"] = bool(node.get("enable_progress_bar", True)) and sys.stdout.isatty()
    off = tuple(kind for key, kind in switches.items() if node.get(key) is False)
    callbacks = [c for c in callbacks if not isinstance(c, off)]
    trackers = loggers(cfg) if trackers is None else trackers
    try:
        return make(
            node, "trainer", default_root_dir=str(folder), callbacks=callbacks, logger=list(trackers) or False,
            plugins=None if own else [AtomicCheckpointIO()],
        )  # fmt: skip
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(
            "The trainer cannot be set up.",
            expected="an accelerator, device count, strategy and precision of this machine",
            got=cause(error),
            where="trainer",
            hint="trainer=cpu, or trainer.accelerator=auto trainer.devices=1",
        ) from error


def bare(cfg: DictConfig) -> DictConfig:
    """The config of a trainer without callbacks and progress bar, for passes inside a run."""
    return OmegaConf.create({"trainer": {**plain(cfg.trainer), "enable_progress_bar": False}})


def loggers(cfg: DictConfig) -> list[Any]:
    """The loggers of a config, in its order."""
    found = []
    for name, node in (cfg.get("logger") or {}).items():
        if node and "_target_" in node:
            try:
                found.append(make(node, f"logger.{name}"))
            except ModuleNotFoundError as error:
                problem, hint = "A logger's package is not installed.", f"pip install 'hero-lightning[{name}]'"
                raise ConfigError(problem, got=cause(error), where=f"logger.{name}", hint=hint) from error
    return found
