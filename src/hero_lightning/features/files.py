"""Writes files atomically, and tables as csv.

Data flow: bytes -> temporary file in the same folder -> fsync -> rename; dataclasses or rows -> csv.
"""

from __future__ import annotations

import csv
import os
import platform
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import IO, Any

from hero_lightning.errors import DataError, cause


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` when the block ends without an error, complete even after a power failure.

    The folder is created. The temporary file is `.<name>.<host>.<pid>`; an error removes it, a kill leaves it behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all.

    Raises:
        DataError: the operating system refuses it, e.g. the disk is full; no partial file is left.
    """
    try:
        with atomic(path) as file:
            file.write(content)
    except OSError as error:
        hint = "make it writable, then run the same command again: finished files are kept"
        raise DataError("The file cannot be written.", got=cause(error), where=path, hint=hint) from error


def write_csv(path: Path, header: type[Any] | Sequence[str], rows: Iterable[Any], append: bool = False) -> None:
    """Writes a table as csv (UTF-8, comma separated).

    Args:
        path: an existing file is replaced.
        header: column names, or the dataclass whose instances the rows are.
        rows: sequences of cells, or dataclass instances.
        append: add the rows to an existing file instead.
    """
    if isinstance(header, type):
        header, rows = [f.name for f in fields(header)], map(astuple, rows)
    with path.open("a" if append else "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows if append else [header, *rows])


def check_zip(path: Path) -> None:
    """Compares every record of a zip (a checkpoint of torch, which does not do so) with its checksum.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no zip, or a record is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise ValueError(cause(error)) from error
    if damaged is not None:
        raise ValueError(f"record {damaged} differs from its checksum")
