"""Manifests of stored features: reading, and the comparison of two feature identities.

Data flow: manifest.json -> read_manifest -> diff (settings in which two identities differ).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hero_lightning.errors import FeatureError, cause

PACKAGES = ("hero-lightning", "torch", "transformers", "av")


def read_manifest(path: Path) -> dict[str, Any]:
    """Content of a manifest, {} if it is JSON but not an object.

    Raises:
        FeatureError: it is not JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        hint = "delete it and extract again"
        raise FeatureError(
            "A manifest is not JSON.", expected="JSON", got=cause(error), where=path, hint=hint
        ) from error
    return content if isinstance(content, dict) else {}


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide features."""
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


def diff(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, str]:
    """Settings in which two identities differ ("encoder.size=64, ..."), with their wanted and their found values."""
    a, b = _flat(wanted), _flat(found)
    keys = [k for k in a | b if a.get(k) != b.get(k)]
    return ", ".join(f"{k}={a.get(k)}" for k in keys), ", ".join(f"{k}={b.get(k)}" for k in keys)
