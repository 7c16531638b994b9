"""Loads feature files without executing code in them: pickles may hold numpy arrays and builtins only."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from hero_lightning.errors import FeatureError, cause
from hero_lightning.features.foreign.unpickler import Unpickler
from hero_lightning.media import npy
from hero_lightning.media.limits import limit, raised

SUFFIXES = (".npy", ".npz", ".safetensors")
PARSING = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError)
CONTAINER = (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error)
DAMAGE = (OSError, EOFError, MemoryError, *PARSING, *CONTAINER)
"""Errors raised for damaged pickles, headers and archives (found by fuzzing)."""
FREE = 2**24
"""Bytes to which any archive may grow: small ones of zeros are packed well."""


def load_array(path: Path) -> np.ndarray:
    """Array of numbers or strings in a .npy file.

    Raises:
        FeatureError: the file is missing or damaged, or holds objects.
    """
    try:
        return npy.load_array(path)
    except DAMAGE as error:
        problem, expected = "The feature file cannot be read.", "an array of numbers in .npy"
        hint = "replace the file, or missing=mask to go on without it"
        raise FeatureError(problem, expected=expected, got=cause(error), where=path, hint=hint) from error


def _content(file: IO[bytes], path: Path, size: int) -> Any:
    """Content of a .npy: an array, or the object it pickles. `size`: bytes from the file's position to its end."""
    start = file.tell()
    header = npy.read_header(file)
    left = size - (file.tell() - start)
    return Unpickler(file, path, left).load() if header.dtype.hasobject else npy.read_data(file, header, left)


def _members(path: Path) -> dict[str, Any]:
    """Content of a .npz. FeatureError if it would grow beyond the limit."""
    out: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        members, size = archive.infolist(), path.stat().st_size
        grown = sum(member.file_size for member in members)
        if grown > max(limit("growth") * size, FREE):
            raise FeatureError(
                "The archive is much larger when it is decompressed.",
                expected=f"at most {limit('growth'):g} times its {size} bytes",
                got=f"{grown} bytes",
                where=path,
                hint=f"replace the file, or {raised('growth')} if it is yours",
            )
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"compression {member.compress_type} of {member.filename}")
            with archive.open(member) as file:
                out[member.filename.removesuffix(".npy")] = _content(file, path, member.file_size)
    return out


def load_features(path: Path, offset: int = 0) -> dict[str, Any]:
    """Dict of arrays and strings in a file; no code in the file is executed.

    Args:
        path: .npy (pickled dict), .npz, .safetensors (strings in its metadata) or a pickled dict (.pkl).
        offset: byte at which an .npy starts inside a larger file.

    Raises:
        FeatureError: the file is missing, truncated or no dict, or refers to a callable that is not admitted.
    """
    try:
        out = _loaded(path, offset)
        found = out.item() if isinstance(out, np.ndarray) and out.shape == () else out
        if isinstance(found, dict):
            return {str(k): v.item() if isinstance(v, np.ndarray) and v.shape == () else v for k, v in found.items()}
    except DAMAGE as error:
        raise FeatureError(
            "The feature file cannot be read.",
            expected="a dict of arrays in .npy, .npz or .safetensors",
            got=cause(error),
            where=path,
            hint="replace the file, or missing=mask to go on without it",
        ) from error
    raise FeatureError(
        "The feature file holds no dict.",
        expected="{key: array}",
        got=f"{type(found).__name__} {getattr(found, 'shape', '')}".strip(),
        where=path,
    )


def _loaded(path: Path, offset: int) -> Any:
    if not path.is_file():
        raise OSError("no regular file" if path.exists() else "no such file")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".npz":
        return _members(path)
    with path.open("rb") as file:
        size = path.stat().st_size
        if path.suffix in (".pkl", ".pickle"):
            return Unpickler(file, path, size).load()
        file.seek(offset)
        return _content(file, path, size - offset)


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {**(file.metadata() or {}), **{k: file.get_tensor(k).float().numpy() for k in file.keys()}}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error
