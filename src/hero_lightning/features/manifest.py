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


NONE = type(None)
STORE = {"identity": dict, "dtype": str, "versions": {str: str}, "parts": [{"file": str, "ids": [str]}]}
"""Shape of the manifest of a Store; `steps` of a part that is not written yet is null."""
RECORD = {
    "ids": [str], "steps": [int], "stamps": [(str, NONE)], "reasons": [str],
    "failures": {str: {"stage": str, "error": str}}, "dim": (int, NONE), "rate": (int, float, NONE),
}  # fmt: skip
"""Shape of the record of a part, inside it and in the manifest."""


def mismatch(value: Any, shape: Any, at: str = "") -> str:
    """The first place at which JSON has another shape than wanted, or "".

    Args:
        value: parsed JSON.
        shape: a type; (shape, ...) = one of these; [shape] = a list of it; {str: shape} = an object with any keys;
            {key: shape, ...} = an object with at least these keys.
        at: place of `value` in the whole.
    """
    if isinstance(shape, tuple):
        found = [mismatch(value, one, at) for one in shape]
        return min(found, key=len) and max(found, key=len)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{at or 'the whole'} is no list"
        kinds = shape[0] if isinstance(shape[0], tuple) else (shape[0],)
        if all(isinstance(kind, type) for kind in kinds) and set(map(type, value)) <= set(kinds):
            return ""  # the usual case, without a call for every one of a million numbers
        return next((wrong for k, one in enumerate(value) if (wrong := mismatch(one, shape[0], f"{at}[{k}]"))), "")
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{at or 'the whole'} is no object"
        wanted = dict.fromkeys(value, shape[str]) if str in shape else shape
        if missing := wanted.keys() - value.keys():
            return f"{at or 'the whole'} lacks {min(missing)}"
        return next((wrong for k, one in wanted.items() if (wrong := mismatch(value[k], one, f"{at}.{k}"))), "")
    fits = isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
    return "" if fits else f"{at or 'the whole'} is {str(value)[:40]!r}, not {shape.__name__}"


def read_manifest(path: Path, shape: Any = dict) -> dict[str, Any]:
    """Content of a manifest.

    Args:
        path: the file.
        shape: what it must hold, see `mismatch`.

    Raises:
        FeatureError: it cannot be read, is not JSON, or has another shape.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        hint = "delete it and extract again"
        raise FeatureError(
            "A manifest is not JSON.", expected="JSON", got=cause(error), where=path, hint=hint
        ) from error
    if wrong := mismatch(content, shape):
        hint = "delete it and extract again"
        raise FeatureError("A manifest is damaged.", expected="what `extract` writes", got=wrong, where=path, hint=hint)
    return content


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
