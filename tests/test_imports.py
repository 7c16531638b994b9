"""Imports point one way; only the builder and the commands know Hydra; nothing heavy at import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hero_lightning

PACKAGE = Path(hero_lightning.__file__).parent
COMMANDS = {"train", "evaluate", "predict", "extract", "convert", "coverage", "report", "peaks", "compare"}
# room -> rooms it may import (besides itself)
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "data.types": set(),
    "hub": {"errors"},
    "media": {"errors", "data.types", "hub"},
    "metrics": {"errors", "data.types"},
    "targets": {"errors", "data.types", "metrics"},
    "encoders": {"errors", "data.types", "hub", "media"},
    "streams": {"errors", "data.types", "media", "encoders"},
    "data": {"errors", "data.types", "media", "targets", "metrics", "encoders", "streams"},
    "reasoning": {"errors", "data.types"},
    "model": {"errors", "data.types", "reasoning"},
    "objectives": {"errors", "data.types", "model"},
}
LATE = {
    "module",
    "comparison",
    "optimizers",
    "checkpoint",
    "probe",
    "plots",
    "runfolder",
    "callbacks",
    "build",
    "launch",
    "prediction_file",
    "score_file",
    "unibench",
    "cli",
} | COMMANDS
FILES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """`hero_lightning.data.types` -> data.types; else the first part below the package."""
    parts = module.removeprefix("hero_lightning").lstrip(".").split(".")
    return "data.types" if parts[:2] == ["data", "types"] else parts[0]


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
    return room("hero_lightning." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def test_every_room_is_known() -> None:
    assert len(FILES) > 60
    assert {own_room(p) for p in FILES} - {"__init__"} <= set(ALLOWED) | LATE


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here, found = own_room(path), imports(path)
    if here in ALLOWED:
        rooms = {room(m) for m in found if m.startswith("hero_lightning.")}
        assert rooms - {here} <= ALLOWED[here]
    if here not in COMMANDS | {"build", "cli"}:
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
