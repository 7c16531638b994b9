"""Imports point one way, for every file; only `config` and the commands know Hydra; nothing heavy at import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hero_lightning

PACKAGE = Path(hero_lightning.__file__).parent
COMMANDS = {"train", "evaluate", "predict", "extract", "convert", "check", "peaks", "compare"}
# package or module -> what it may import besides itself; lowest first
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "types": {"errors"},
    "hub": {"errors"},
    "media": {"errors", "types", "hub"},
    "metrics": {"errors", "types", "hub"},
    "tasks": {"errors", "types", "metrics"},
    "encoders": {"errors", "types", "hub", "media"},
    "features": {"errors", "types", "media", "encoders"},
    "data": {"errors", "types", "media", "metrics", "tasks", "encoders", "features"},
    "datasets": {"errors", "types", "media", "metrics", "tasks", "encoders", "features", "data"},
    "reasoning": {"errors", "types"},
    "models": {"errors", "types", "hub", "reasoning"},
    "training": {"errors", "types", "metrics", "tasks", "features", "reasoning", "models"},
}
MAY_IMPORT["config"] = set(MAY_IMPORT)
MAY_IMPORT["evaluation"] = set(MAY_IMPORT) - {"config"}
MAY_IMPORT["reporting"] = set(MAY_IMPORT) - {"config"}
MAY_IMPORT |= {command: set(MAY_IMPORT) for command in COMMANDS}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """`hero_lightning.data.collate` -> data; the package itself -> __init__."""
    return module.removeprefix("hero_lightning").lstrip(".").split(".")[0] or "__init__"


def imports(path: Path) -> set[str]:
    """Modules a file imports anywhere, except under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {f"{node.module}.{a.name}" for a in node.names} if node.module == "hero_lightning" else {node.module}
            )
    return found


def own_room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_only_commands_stand_at_the_top() -> None:
    assert len(FILES) > 100
    assert {own_room(p) for p in FILES} == set(MAY_IMPORT)
    assert {p.stem for p in PACKAGE.glob("*.py")} == COMMANDS | {"__init__", "types", "errors", "hub"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here, found = own_room(path), imports(path)
    rooms = {room(m) for m in found if m.split(".")[0] == "hero_lightning"}
    assert rooms - {here} <= MAY_IMPORT[here]
    if here not in COMMANDS | {"config"}:
        assert not {m for m in found if m.split(".")[0] in ("hydra", "omegaconf")}
    assert not {m for m in found if m.split(".")[0] in ("torchvision", "torchaudio", "timm", "pandas", "sklearn")}


def test_help_imports_no_torch() -> None:
    code = "import sys, hero_lightning.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sources_keep_the_house_rules() -> None:
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        assert not re.search(r"^\s*print\(|import \*|TODO|FIXME|NotImplementedError", text, re.M), path
