"""Rules of the source tree: imports go downward, for every file; sizes of files and functions; names; citations."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hero_lightning

PACKAGE = Path(hero_lightning.__file__).parent
ROOT = Path(__file__).parents[1]
COMMANDS = {"train", "evaluate", "predict", "extract", "convert", "check", "report", "peaks", "compare"}
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
    "training": {"errors", "types", "media", "metrics", "tasks", "encoders", "features", "reasoning", "models"},
}
MAY_IMPORT["config"] = set(MAY_IMPORT)
MAY_IMPORT["evaluation"] = set(MAY_IMPORT) - {"config"}
MAY_IMPORT["reporting"] = set(MAY_IMPORT) - {"config"}
MAY_IMPORT["train"] = set(MAY_IMPORT)
MAY_IMPORT["api"] = set(MAY_IMPORT)  # and the other commands use the API
MAY_IMPORT |= {command: set(MAY_IMPORT) - {"train"} for command in sorted(COMMANDS - {"train"})}
FORBIDDEN = {"torchvision", "torchaudio", "timm", "pandas", "sklearn"}
EXCEPT = {"api": {"pandas"}}
"""Room -> what it alone may import."""
MAX_FILE, MAX_FUNCTION, MAX_ARGUMENTS = 400, 64, 10
BROAD_EXCEPT = {"src/hero_lightning/hub.py": 1}  # is the hub reachable? The HTTP library differs between versions of it
"""File, relative to the repository -> number of handlers of Exception that it may have."""
BANNED_NAMES = {"told", "said", "beside", "thinks", "asks", "has", "mend", "walled", "past"}
CITATION = re.compile(r"(?<![\w-])(?:spec|anchors)/[\w<.*/-]+|\b(?:design|layout)\.md")
DOCUMENT = re.compile(r"(?<![\w/])docs/[\w/]+\.md")
TEXT = {".py", ".md", ".yaml", ".toml", ".txt", ".json", ".csv", ".sh", ""}


def room(path: Path) -> str:
    """Package or module of a source file: hero_lightning/data/collate.py -> data."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {name: [path for path in FILES if room(path) == name] for name in MAY_IMPORT}
ROOMS |= {name: sorted((ROOT / name).rglob("*.py")) for name in ("tests", "benchmarks")}


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """Modules imported anywhere in a file, and whether only for type checkers."""
    tree = ast.parse(source)
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative import in line {node.lineno}"
            assert node.module
            names = [f"hero_lightning.{alias.name}" for alias in node.names]
            yield from ((n, id(node) in typing) for n in (names if node.module == "hero_lightning" else [node.module]))


def faults(source: str, in_package: bool = True, broad_except: int = 0) -> Iterator[str]:
    """Violations of the rules in a source file."""
    tree, lines = ast.parse(source), len(source.splitlines())
    if lines > MAX_FILE:
        yield f"{lines} lines"
    if in_package and (found := re.search(r"^\s*print\(|import \*|TODO|FIXME|NotImplementedError", source, re.M)):
        yield f"contains {found[0].strip()}"
    handlers = [n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)]
    caught = [
        {n.id for n in ast.walk(h.type) if isinstance(n, ast.Name)} if h.type else {"Exception"} for h in handlers
    ]
    if sum(bool(names & {"Exception", "BaseException"}) for names in caught) > broad_except:
        yield "catches Exception"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                yield f"{node.name} has {length} lines"
            arguments = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1  # without self
            if in_package and node.name == "__init__" and arguments > MAX_ARGUMENTS:
                yield f"line {node.lineno}: a constructor of {arguments} arguments"
        name = next((getattr(node, a) for a in ("id", "arg", "name", "attr") if hasattr(node, a)), None)
        if in_package and str(name).strip("_") in BANNED_NAMES:
            yield f"line {getattr(node, 'lineno', 0)}: name {name}"


def citations(text: str, documents: bool = True) -> list[str]:
    """Citations of files that are not in the repository; `documents` = also look for docs/*.md."""
    missing = [name for name in DOCUMENT.findall(text) if documents and not (ROOT / name).is_file()]
    return CITATION.findall(text) + missing


def test_only_commands_are_at_the_top() -> None:
    assert len(FILES) > 100
    assert {room(p) for p in FILES} == set(MAY_IMPORT)
    assert {p.stem for p in PACKAGE.glob("*.py")} == COMMANDS | {"__init__", "api", "types", "errors", "hub"}


def test_the_table_allows_downward_imports_only() -> None:
    rooms = list(MAY_IMPORT)
    for n, name in enumerate(rooms):
        assert MAY_IMPORT[name] <= set(rooms[:n]) - (COMMANDS - {"train"} if name == "api" else COMMANDS), name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    here, found = room(path), dict(imports(path.read_text()))
    rooms = {m.split(".")[1] if "." in m else "__init__" for m in found if m.split(".")[0] == "hero_lightning"}
    assert rooms - {here} <= MAY_IMPORT[here]
    others = {m.split(".")[0] for m, typing in found.items() if not typing}
    configured = here in COMMANDS | {"config", "api"}
    assert not others & ((FORBIDDEN if configured else FORBIDDEN | {"hydra", "omegaconf"}) - EXCEPT.get(here, set()))


def test_modules_do_not_import_each_other_in_a_cycle() -> None:
    names = {str(p.relative_to(PACKAGE.parent).with_suffix("")).replace("/", "."): p for p in FILES}
    graph = {
        name: {m for m, typing in imports(p.read_text()) if not typing and m in names} for name, p in names.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_help_imports_no_torch() -> None:
    code = "import sys, hero_lightning.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_source_files_follow_the_rules(name: str) -> None:
    assert ROOMS[name]
    found = {}
    for path in ROOMS[name]:
        file = str(path.relative_to(ROOT))
        found[file] = list(faults(path.read_text(), name not in ("tests", "benchmarks"), BROAD_EXCEPT.get(file, 0)))
    assert not {file: lines for file, lines in found.items() if lines}


@pytest.mark.parametrize("top", ["src", "tests", "benchmarks", "conf", "docs", "experiments", "."])
def test_citations_name_files_of_the_repository(top: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z", top], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [Path(p) for p in listed.split("\0") if p and p != "tests/test_imports.py" and Path(p).suffix in TEXT]
    paths = [p for p in paths if (ROOT / p).is_file() and (top != "." or len(p.parts) == 1)]
    assert paths
    found = {str(p): citations((ROOT / p).read_text(encoding="utf-8"), top != "tests") for p in paths}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("x = 1\n" * 401, "401 lines"),
        ("def f():\n" + "    x = 1\n" * 64, "f has 65 lines"),
        ("class A:\n    async def f(self):\n" + "        x = 1\n" * 64, "f has 65 lines"),
        ("print(1)", "contains print("),
        ("try:\n    x = 1\nexcept:\n    pass", "catches Exception"),
        (f"def __init__(self, {', '.join('abcdefghijk')}):\n    pass", "line 1: a constructor of 11 arguments"),
        ("try:\n    x = 1\nexcept (OSError, Exception) as error:\n    pass", "catches Exception"),
        ("said = 1", "line 1: name said"),
        ("def _mend(): pass", "line 1: name _mend"),
        ("f(told=1)", "line 1: name told"),
        ("def f(x, has): pass", "line 1: name has"),
        ("x.beside = 1", "line 1: name beside"),
    ],
)
def test_the_rules_find_a_violation(source: str, fault: str) -> None:
    assert fault in list(faults(source))


@pytest.mark.parametrize(
    "text", ["See `spec/x.md` 3.", "anchors/y.json", "design.md", "(layout.md 2)", "docs/no_such.md"]
)
def test_the_rules_find_a_citation(text: str) -> None:
    assert citations(text)
    assert not citations("docs/hero.md, inspec/x, the spec")
