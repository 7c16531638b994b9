"""What the manifests beside stored features say: read, compared, and written whole or not at all.

Data flow: manifest.json -> parsed -> told (in which settings two identities differ); bytes -> put -> file.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hero_lightning.errors import FeatureError

PACKAGES = ("hero-lightning", "torch", "transformers", "av")


def parsed(path: Path) -> dict[str, Any]:
    """A manifest's content; FeatureError where it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        hint = "delete it and extract again"
        raise FeatureError("A manifest cannot be read.", expected="JSON", got=error, where=path, hint=hint) from error
    return found if isinstance(found, dict) else {}


def put(path: Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all, even when the power fails.

    Raises:
        FeatureError: the disk is full or forbids it; nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        hint = "make room, then start the same command again: what is finished is kept"
        raise FeatureError("Features cannot be written.", got=error, where=path, hint=hint) from error


def versions() -> dict[str, str]:
    """Versions of the packages that decide features, of those installed."""
    out = {}
    for package in PACKAGES:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def told(wanted: Mapping[str, Any], stored: Mapping[str, Any], side: int) -> str:
    """The settings in which two identities differ, with the values of one of them (0 wanted, 1 stored)."""
    both = _flat(wanted), _flat(stored)
    keys = [k for k in dict.fromkeys([*both[0], *both[1]]) if both[0].get(k) != both[1].get(k)]
    return ", ".join(f"{k}={both[side].get(k)}" for k in keys)
