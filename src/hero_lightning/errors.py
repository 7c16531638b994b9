"""Errors for the user: what was expected, what was found, where, and a hint; and the checks that raise them.

Data flow: raised anywhere in the package -> caught by the command line (`hero_lightning.config.cli`), which prints the
message without a traceback unless HYDRA_FULL_ERROR=1.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from numbers import Real


class HeroError(Exception):
    """A problem that the user can fix.

    Args:
        problem: one sentence that says what is wrong.
        expected: what would have been valid.
        got: what was found instead.
        where: file, sample id or config key.
        hint: the command or edit that fixes it, exactly as it is typed.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: object = None,
        got: object = None,
        where: object = None,
        hint: object = None,
    ) -> None:
        self.problem = problem
        self.details = {"expected": expected, "got": got, "where": where, "hint": hint}
        lines = [f"  {k + ':':<10}{v}" for k, v in self.details.items() if v is not None]
        super().__init__("\n".join([problem, *lines]))

    def __reduce__(self) -> tuple:
        # Worker processes pickle their errors; the default would lose the keyword arguments.
        return _rebuild, (type(self), self.problem, self.details)


def _rebuild(kind: type[HeroError], problem: str, details: dict) -> HeroError:
    return kind(problem, **details)


class ConfigError(HeroError):
    """An option is unknown, has an invalid value, or contradicts another one."""


class DataError(HeroError):
    """A dataset, label file or sample is missing, broken or contradictory."""


class MediaError(DataError):
    """A video, audio or AU file cannot be read or lacks the requested content."""


class FeatureError(DataError):
    """A stored feature is missing, broken, of another width or made by another encoder."""


class CheckpointError(HeroError):
    """A checkpoint is missing, unsafe, or does not fit the data or model."""


class TrainingError(HeroError):
    """Training cannot go on: a loss, gradient, weight, prediction or score is no finite number."""


def one_of(where: str, value: object, known: Iterable[object], error: type[HeroError] = ConfigError) -> None:
    """Checks that a value is one of the known ones; `where` is its config key.

    Raises:
        ConfigError (or `error`): it is not.
    """
    known = list(known)
    if value not in known:
        raise error(f"Unknown {where}.", expected=", ".join(map(str, known)), got=value, where=where)


def in_range(where: str, value: float, interval: str, error: type[HeroError] = ConfigError) -> None:
    """Checks that a number lies in an interval.

    Args:
        where: config key.
        value: the number; NaN lies in no interval.
        interval: in mathematical notation: "[0, 1)" contains 0 but not 1; "[1, inf)" has no upper end.

    Raises:
        ConfigError (or `error`): it does not.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    fits = isinstance(value, Real)
    fits = fits and (value >= low if interval[0] == "[" else value > low)
    fits = fits and (value <= high if interval[-1] == "]" else value < high)
    if not fits:
        raise error(f"{where} is out of range.", expected=f"a number in {interval}", got=value, where=where)


REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT}
"""What an operating system says of files and disks: full, too large, read-only, forbidden, broken, gone."""


def system_fault(error: BaseException) -> HeroError | None:
    """Our error for a file that the system refuses or a loader worker that died, ours as it is; None for others."""
    if isinstance(error, HeroError):
        return error
    if isinstance(error, OSError) and error.errno in REFUSALS:
        problem, hint = (
            "The operating system refuses a file.",
            "make room or make it writable, then the same command again",
        )
        return DataError(problem, got=cause(error), where=error.filename or "", hint=hint)
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):
        hint = (
            "dataset.num_workers=0, fewer workers, or smaller batches: the system often ends one when memory runs out"
        )
        return DataError("A loader worker has died.", got=cause(error), where="dataset.num_workers", hint=hint)
    return None


def cause(error: BaseException) -> str:
    """Type and first line of an error, to be shown inside one of ours."""
    # torch says what it has refused after advice to run it all the same
    text = str(error).rpartition("WeightsUnpickler error:")[2]
    lines = [x.strip() for x in text.splitlines() if x.strip() and not x.startswith("Weights only load failed")]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
