"""What a command can do: the text of `--help`, and which key, group or option a misspelt one was meant to be.

Data flow: conf/<command>.yaml and the files of its groups -> text; command line -> unknown names -> the closest ones.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

NESTED = ("mode", "sampler", "encoder", "detector")
"""Groups of one modality: encoder@modality.text.encoder=minilm."""


def options(group: str, folders: Sequence[Path]) -> list[str]:
    """The options of a config group: its files in all folders."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def groups(command: str, folders: Sequence[Path]) -> dict[str, str]:
    """Group of the command, as typed with its package -> the option that stands in its defaults list."""
    text = (folders[0] / f"{command}.yaml").read_text(encoding="utf-8")
    block = re.search(r"^defaults:\n((?:  - .*\n)*)", text, re.M)
    entries = re.findall(r"^  - (?:optional )?([\w@./]+): \[?(\w+)", block[1] if block else "", re.M)
    return {key.removesuffix("@_global_"): option for key, option in entries}


def own_options(command: str, folders: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """Top-level option of conf/<command>.yaml -> (default, sentence in its comment)."""
    text = (folders[0] / f"{command}.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^(\w+):[ ]*([^#\n]*?)(?:[ ]+#[ ]*(.*))?$", text, re.M)
    return {key: (value, sentence) for key, value, sentence in found if key not in ("defaults", "hydra", "choices")}


def help_text(command: str, purpose: str, folders: Sequence[Path]) -> str:
    """The text of --help, 80 columns wide: own options with a sentence each, then the groups with their options."""
    lines = [f"hero {command} [OPTION=VALUE ...]    {purpose}", "", "Options"]
    for key, (value, sentence) in own_options(command, folders).items():
        shown = f"{key}={value}" if value and value != "???" else key
        lines += _entry(shown, sentence + (" (required)" if value == "???" else ""))
    lines += ["", "Groups: GROUP=CHOICE, the default first"]
    chosen = groups(command, folders)
    for key, default in chosen.items():
        group = key.partition("@")[0]
        lines += _entry(f"{key}={default}", " ".join(o for o in options(group, folders) if o != default))
    for group in NESTED if "modality" in chosen else ():
        package = "modality.NAME" if group == "mode" else f"modality.NAME.{group}"
        lines += _entry(f"{group}@{package}=", " ".join(options(group, folders)))
    again = f"hero {command} --cfg job  prints every setting; --hydra-help, Hydra's own flags; -m, a sweep."
    return "\n".join([*lines, "", again, ""])


def _entry(name: str, text: str) -> list[str]:
    head = f"  {name}"
    wrapped = textwrap.wrap(text, 80 - 28, break_on_hyphens=False) or [""]
    first = [f"{head:<28}{wrapped[0]}"] if len(head) < 27 else [head, " " * 28 + wrapped[0]]
    return [line.rstrip() for line in [*first, *(" " * 28 + w for w in wrapped[1:])]]


def suggestions(command: str, arguments: Sequence[str], config: Any, folders: Sequence[Path]) -> Iterator[str]:
    """What each misspelt argument was meant to be, as typed; for a command line that Hydra has refused.

    Args:
        command: train, ...
        arguments: of the command line.
        config: the command's config without any of them.
        folders: conf, experiments.
    """
    named = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    known = list(_keys(config))
    chosen = list(groups(command, folders))
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            continue
        key, _, value = argument.partition("=")
        bare = key.lstrip("+~")
        group, at, _ = bare.partition("@")
        if group in named and (at or bare in chosen):
            if value not in (choices := options(group, folders)) and re.fullmatch(r"\w+", value):
                close = get_close_matches(value, choices, 1)
                yield from (f"{key}={c}" for c in close)
        elif bare not in known and not key.startswith("+"):
            close = get_close_matches(bare, [*known, *chosen], 1, 0.6) or _same_end(bare, known)
            yield from (f"{c}={value}" for c in close)


def _same_end(key: str, known: Sequence[str]) -> list[str]:
    """The only known key that ends like this one: lr -> optimizer.lr."""
    last = key.rpartition(".")[2]
    found = [k for k in known if k.rpartition(".")[2] == last]
    return found if len(found) == 1 else []


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of a config."""
    from omegaconf import DictConfig

    for key in node:
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from _keys(child, f"{prefix}{key}.")
