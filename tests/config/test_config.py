"""Every option of every group composes and fits the constructor it names; every command of the README composes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from hero_lightning.config import gate
from hero_lightning.config.cli import CONF
from hero_lightning.config.instantiate import arguments

GROUPS = {
    "dataset": 21, "model": 3, "size": 3, "modes": 5, "mode": 3, "modality": 8, "sampler": 7, "encoder": 27,
    "backbone": 4, "fusion": 4, "llm": 8, "modality_dropout": 2, "loss": 12, "stage": 1, "optimizer": 1,
    "trainer": 5, "logger": 5, "callbacks": 2, "paths": 1, "launcher": 4, "sweeper": 2,
    "debug": 3, "local": 1, "protocol": 3,
    "evidence_decoder": 3, "dataset_defaults": 1, "detector": 4, "asr": 2, "mixup": 2, "command": 1, "limits": 1,
}  # fmt: skip
EXPERIMENTS = {"ablation": 4, "baseline": 11}
PRIMARY = ("train", "evaluate", "predict", "extract", "convert", "check", "report", "peaks", "compare")
# groups whose options are composed one by one: those of another command, and baselines, which replace the model
ALONE = {"asr": "predict", "protocol": "compare", "baseline": "train"}
# where a group sits, if not under its own name
PLACE = {"mode": "mode@modality.frame", "modality": "modality@modality.frame", "fusion": "fusion@model.fusion"}
PLACE |= {"sampler": "sampler@modality.frame.sampler", "loss": "loss@losses.sync"}
PLACE |= {"detector": "detector@modality.face.detector"}


def composed(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        return compose(name, overrides=list(overrides), return_hydra_config=True)


def options(group: str) -> list[str]:
    folder = Path(CONF) / group
    folder = folder if folder.is_dir() else Path(CONF).parent / "experiments" / group
    return sorted(p.stem for p in folder.glob("*.yaml"))


ALL = [(g, o) for g in (*GROUPS, *EXPERIMENTS) for o in options(g)]


def nodes(cfg: Any, where: str = "") -> Iterator[tuple[str, dict]]:
    """Every mapping with a `_target_` and its place."""
    if isinstance(cfg, dict):
        if "_target_" in cfg:
            yield where, cfg
        for key, value in cfg.items():
            yield from nodes(value, f"{where}.{key}" if where else str(key))


def place(group: str, option: str) -> str:
    if group == "encoder":
        text = (Path(CONF) / "encoder" / f"{option}.yaml").read_text()
        modality = re.search(r"modality\.(\w+)\.encoder", text)
        return f"encoder@modality.{modality.group(1) if modality else 'frame'}.encoder"
    if group == "modality" and option not in ("none", "all"):
        return f"modality@modality.{option}"
    return PLACE.get(group, group)


@pytest.mark.parametrize(("group", "count"), [*GROUPS.items(), *EXPERIMENTS.items()])
def test_every_group_was_seen(group: str, count: int) -> None:
    assert len(options(group)) == count, options(group)


def test_no_group_is_forgotten() -> None:
    assert {p.name for p in Path(CONF).iterdir() if p.is_dir()} == set(GROUPS)
    assert {p.stem for p in Path(CONF).glob("*.yaml")} == set(PRIMARY)


OF_TRAIN = [g for g in (*GROUPS, *EXPERIMENTS) if g not in ALONE]
ROUNDS = max(len(options(g)) for g in OF_TRAIN)
"""Every round takes one option of every group, so that all are seen in as many composes as the largest group has."""


def in_round(number: int) -> dict[str, str]:
    """Group -> its option of this round."""
    chosen = {g: [o for o in options(g) if (g, o) != ("modality", "all")] for g in OF_TRAIN}
    return {g: found[number % len(found)] for g, found in chosen.items()}


def test_rounds_see_every_option() -> None:
    seen = {(g, o) for n in range(ROUNDS) for g, o in in_round(n).items()} | {("modality", "all")}
    assert seen == {(g, o) for g, o in ALL if g in OF_TRAIN}


def binds(cfg: DictConfig) -> None:
    """Every node's keys are arguments of the class it names."""
    plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"]), resolve=False)
    for where, node in nodes(plain):
        known = arguments(get_object(node["_target_"]))
        given = {k for k, v in node.items() if not k.startswith("_") and v != {}}  # {}: a group set to none
        if not any(p.kind is p.VAR_KEYWORD for p in known):
            assert given <= {p.name for p in known}, (where, given - {p.name for p in known})


@pytest.mark.parametrize("number", range(ROUNDS))
def test_options_bind(number: int) -> None:
    overrides = [f"{place(g, o)}={o}" for g, o in in_round(number).items()]
    cfg = composed(*overrides, "paths.data=data", "hydra.runtime.output_dir=out")
    binds(cfg)
    stored = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"]))
    gate.read(stored.replace("${", "$ {"), "a run trained with these options")


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, o in ALL if g in ALONE])
def test_options_composed_alone_bind(group: str, option: str) -> None:
    binds(composed(f"{group}={option}", name=ALONE[group]))


@pytest.mark.parametrize("name", PRIMARY)
def test_every_primary_opens_with_its_command(name: str) -> None:
    assert (Path(CONF) / f"{name}.yaml").read_text().startswith(f"# python -m hero_lightning.{name}")
    assert composed(name=name) is not None


@pytest.mark.parametrize(("group", "option"), ALL)
def test_every_file_opens_with_a_command(group: str, option: str) -> None:
    root = Path(CONF) if group in GROUPS else Path(CONF).parent / "experiments"
    head = (root / group / f"{option}.yaml").read_text().splitlines()[:2]
    if (group, option) != ("local", "default"):
        assert any(line.startswith("# python -m hero_lightning.") for line in head), head


def test_command_line_wins_over_modes() -> None:
    cfg = composed("dataset=mer2023", "modes=hybrid", "mode@modality.audio=auto")
    assert [cfg.modality[s].mode for s in ("frame", "face", "audio")] == ["preextracted", "realtime", "auto"]
    assert cfg.modality.frame.sampler._target_.endswith("EmotionPeak")


def test_debug_ablation_and_command_line_override_the_primary() -> None:
    cfg = composed("debug=fast", "ablation=fusion")
    assert (cfg.probes, cfg.name) == (False, "ablation-fusion")
    cfg = composed("debug=fast", "ablation=fusion", "probes=true", "name=mine")
    assert (cfg.probes, cfg.name) == (True, "mine")


def test_a_modality_set_to_none_has_no_task() -> None:
    assert "_target_" not in composed("modality@modality.audio=none").modality.audio


def test_a_dataset_may_choose_modalities_and_the_command_line_wins() -> None:
    assert composed("dataset=folder").modality.text.mode == "preextracted"
    assert composed("dataset=folder", "mode@modality.text=auto").modality.text.mode == "auto"


def test_a_sweep_needs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra resolves the folder of a sweep before it says which options were chosen."""
    cfg = composed("dataset=meld")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    assert Path(cfg.hydra.sweep.dir).parent.name == "meld-hero"
