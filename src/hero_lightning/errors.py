"""Errors a user can act on: what was expected, what came, where, and what mends it.

Data flow: raised anywhere in the package -> caught once at the edge of a command (`hero_lightning.config.cli`), which
shows the message without a traceback unless HYDRA_FULL_ERROR=1.
"""

from __future__ import annotations

from typing import NoReturn


class HeroError(Exception):
    """A problem the user can mend.

    Args:
        problem: one sentence that says what is wrong.
        expected: what would have been right.
        got: what was found instead.
        where: file, sample id or config key.
        mend: the command or edit that cures it.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: object = None,
        got: object = None,
        where: object = None,
        mend: object = None,
    ) -> None:
        self.problem = problem
        self.details = {"expected": expected, "got": got, "where": where, "mend": mend}
        lines = [f"  {k + ':':<10}{v}" for k, v in self.details.items() if v is not None]
        super().__init__("\n".join([problem, *lines]))

    def __reduce__(self) -> tuple:
        # Worker processes send their errors through pickle; the default would lose the keyword arguments.
        return _rebuild, (type(self), self.problem, self.details)


def _rebuild(kind: type[HeroError], problem: str, details: dict) -> HeroError:
    return kind(problem, **details)


class ConfigError(HeroError):
    """A setting is unknown, of the wrong value, or does not fit another one."""


class DataError(HeroError):
    """A corpus, label file or sample is missing, broken or contradictory."""


class MediaError(DataError):
    """A video, audio or AU file cannot be read or lacks what was asked of it."""


class FeatureError(DataError):
    """A stored feature is missing, broken, of another width or of another identity."""


class CheckpointError(HeroError):
    """A checkpoint is missing, unsafe, or does not fit the data or model at hand."""


def not_yet(what: str, here: str, **_: object) -> NoReturn:
    """Says that an option composes but its engine is not in this version.

    Args:
        what: the option, as typed on the command line.
        here: what can be used instead today.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"{what} is configured but its engine is not in this version.", mend=f"use {here}")
