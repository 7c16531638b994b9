"""Documentation: every printed command composes, every link and every named file exists.

Data flow: README, docs/, comments of conf/ -> commands, links -> Hydra, the file system.
"""

from __future__ import annotations

import copy
import functools
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hero_lightning.config.cli import CONF

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "experiments" / "RESULTS.md"]
CONFIGS = sorted([*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "experiments").rglob("*.yaml")])
COMMAND = re.compile(r"python3? (-m )?(hero_lightning|benchmarks|docs)[./]\w")
# Options that docs/extending.md tells to write.
GUIDE = {
    "dataset=calls": "dataset=table",
    "encoder=zero_crossings": "encoder=logmel",
    "baseline=mean_pool": "baseline=late",
    "loss@losses.confidence_penalty=confidence_penalty": "loss@losses.confidence_penalty=entropy",
}
# Placeholders that would not compose; the others (RUN, DIR, FILE, ...) are values like any other.
PLACEHOLDERS = {
    "$DATA": "data",
    "$MODELS": "models",
    "dataset=NAME": "dataset=demo",
    "dataset=mine": "dataset=table",
    **GUIDE,
}
NAMED = re.compile(
    r"(?<![\w/<>.])((?:docs|conf|experiments|benchmarks|tests|src)/[\w/.]+\.(?:md|py|yaml|json|svg|png))"
)
# Files of the reader's own that a guide tells to write.
TO_WRITE = {
    "conf/dataset/mine.yaml", "conf/local/mine.yaml", "experiments/baseline/mean_pool.yaml",
    "src/hero_lightning/models/baselines/mean_pool.py",
    *("src/hero_lightning/datasets/calls.py", "conf/dataset/calls.yaml", "tests/datasets/test_calls.py"),
    *("src/hero_lightning/encoders/zero_crossings.py", "conf/encoder/zero_crossings.yaml"),
    *("src/hero_lightning/training/confidence_penalty.py", "conf/loss/confidence_penalty.yaml"),
    "tests/encoders/test_zero_crossings.py",
}  # fmt: skip
# Keys that no config group changes.
ROOT_KEYS = {"paths.data", "seed", "modalities", "run", "video", "out", "init_from", "probes", "id", "split", "name"}


def fill(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text


def commands_of_page(text: str) -> list[str]:
    """The commands in code blocks and inline code. Continued lines are joined, shell variables of a block filled in."""
    found = []
    for block in re.findall(r"^```.*?\n(.*?)^```", text, flags=re.M | re.S):
        names = dict(PLACEHOLDERS)
        for line in block.replace("\\\n", " ").splitlines():
            line = fill(line, names)
            if assigned := re.fullmatch(r"([A-Z]+)=(.+)", line):
                (value,) = shlex.split(assigned[2])
                names |= {f'"${assigned[1]}"': shlex.quote(value), f"${assigned[1]}": value}
            elif command := COMMAND.search(line):
                found.append(line[command.start() :])
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found += [fill(code, PLACEHOLDERS) for code in re.findall(r"`([^`]+)`", prose) if COMMAND.match(code)]
    return [" ".join(command.split()) for command in found]


def commands_of_config(text: str) -> list[str]:
    """The commands in comment lines; what stands behind two spaces in parentheses is a remark."""
    lines = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    return [fill(re.split(r"\s{2,}[(#]", line)[0], PLACEHOLDERS) for line in lines if COMMAND.match(line)]


COMMANDS: dict[str, str] = {}
"""Command -> the file that prints it."""
for file in PAGES:
    COMMANDS |= dict.fromkeys(commands_of_page(file.read_text()), str(file.relative_to(ROOT)))
for file in CONFIGS:
    COMMANDS |= dict.fromkeys(commands_of_config(file.read_text()), str(file.relative_to(ROOT)))


@functools.cache
def composed(name: str, choices: tuple[str, ...] = ()) -> DictConfig:
    """A primary config with options of groups chosen."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        return compose(name, list(choices), return_hydra_config=True)


def first_job(override: Override) -> str:
    """The override as the first job of a sweep has it."""
    if not override.is_sweep_override():
        return str(override.input_line)
    if isinstance(interval := override.value(), IntervalSweep):
        return f"{override.get_key_element()}={interval.start}"
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def choice_exists(choice: Override, cfg: DictConfig) -> bool:
    """Whether the group stands in the defaults list of `cfg` and has that option."""
    file = f"*/{choice.key_or_group}/{choice.value()}.yaml"
    return choice.get_key_element() in cfg.hydra.runtime.choices and any(ROOT.glob(file))


def check(name: str, words: list[str]) -> None:
    """Composes a command, with as few calls of Hydra as that takes.

    tests/config/test_config.py composes every option of every group. So a command that only chooses options of groups
    in the defaults list, and sets values that no group changes, needs no composition of its own.
    """
    parser = OverridesParser.create()
    overrides = parser.parse_overrides([word for word in words if word != "-m"])
    if "-m" in words:
        overrides = parser.parse_overrides([first_job(override) for override in overrides])
    assert not any(override.is_sweep_override() for override in overrides), "a sweep needs -m"
    choices = [o for o in overrides if any(ROOT.glob(f"*/{o.key_or_group}/"))]
    values = [o for o in overrides if o not in choices]
    if all(choice_exists(o, composed(name)) for o in choices) and all(o.key_or_group in ROOT_KEYS for o in values):
        choices = []
    cfg = copy.deepcopy(composed(name, tuple(str(o.input_line) for o in choices)))
    for value in values:  # as Hydra applies them
        if value.is_delete():
            assert OmegaConf.select(cfg, value.key_or_group) is not None
        else:
            add = value.is_add() or value.is_force_add()
            OmegaConf.update(cfg, value.key_or_group, value.value(), merge=True, force_add=add)


@pytest.mark.parametrize("command", COMMANDS, ids=[re.sub(r"^python3? (-m )?", "", c)[:100] for c in COMMANDS])
def test_command_composes(command: str) -> None:
    _, *words = shlex.split(command, comments=True)
    module = words[1] if words[0] == "-m" else words[0].removesuffix(".py").replace("/", ".")
    source = ROOT / "src" if module.startswith("hero_lightning") else ROOT
    assert (source / f"{module.replace('.', '/')}.py").exists(), COMMANDS[command]
    if module.startswith("hero_lightning"):
        check(module.rpartition(".")[2], words[2:])


def test_what_composes_and_what_does_not() -> None:
    check("train", ["dataset=meld", "modalities=[text]", "+callbacks.extra=1", "~probes"])
    for wrong in ("dataset=nothing", "mode@modality.voice=auto", "optimizer.lrr=1", "seed=0,1", "~losses.nothing"):
        for words in ([wrong], ["modes=realtime", wrong]):
            with pytest.raises((HydraException, OmegaConfBaseException, AssertionError)):
                check("train", words)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_links_and_named_files_exist(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?:|mailto:", target):
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            if not linked.exists() or (anchor and anchor not in anchors(linked)):
                broken.append(target)
    broken += [name for name in NAMED.findall(page.read_text()) if not (ROOT / name).exists() and name not in TO_WRITE]
    assert not broken


def test_code_and_configs_name_files_that_exist() -> None:
    files = [*CONFIGS, *sorted((ROOT / "src").rglob("*.py"))]
    named = {(str(f.relative_to(ROOT)), name) for f in files for name in NAMED.findall(f.read_text())}
    assert named
    assert not [pair for pair in sorted(named) if not (ROOT / pair[1]).exists() and pair[1] not in TO_WRITE]
