"""Limits on what one file of a dataset may take: the config node `limits`, which reaches all processes as environment.

Data flow: limits.NAME=VALUE --set_limits--> HERO_LIMIT_NAME --limit--> check before memory is taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from hero_lightning.errors import in_range, one_of

LIMITS = {"seconds": 14_400.0, "pixels": 36e6, "memory_gb": 4.0, "growth": 100.0}
"""Name -> value outside of the commands; their own, with the meaning of each, are in conf/limits/default.yaml."""


def set_limits(values: Mapping[str, float]) -> None:
    """Sets limits for this process and those it starts. ConfigError for one that is not a positive number."""
    for name, value in values.items():
        one_of("limit", name, LIMITS)
        in_range(f"limits.{name}", value, "(0, inf]")
        os.environ[f"HERO_LIMIT_{name.upper()}"] = str(value)


def limit(name: str) -> float:
    """The present value of a limit."""
    return float(os.environ.get(f"HERO_LIMIT_{name.upper()}", LIMITS[name]))


def raised(name: str) -> str:
    """The override that doubles a limit, for hints."""
    return f"limits.{name}={2 * limit(name):g}"
