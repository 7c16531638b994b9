"""Loads feature files without executing code in them: pickles may hold numpy arrays and builtins only."""

from __future__ import annotations

import pickle
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from hero_lightning.errors import FeatureError, cause

SUFFIXES = (".npy", ".npz", ".safetensors")
PARSING = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, ImportError, SyntaxError)
CONTAINER = (tokenize.TokenError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error)
DAMAGE = (OSError, EOFError, MemoryError, *PARSING, *CONTAINER)
"""Errors raised for damaged pickles, headers and archives (found by fuzzing)."""


def _encode(text: str, codec: str) -> bytes:
    """Replaces codecs.encode, which old pickles use for bytes: latin1 only."""
    if codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {codec}")
    return text.encode("latin1")


def _admitted() -> dict[tuple[str, str], Any]:
    from numpy._core import multiarray, numeric  # home of the functions in numpy's pickles

    out: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
    for package in ("numpy.core", "numpy._core"):
        out[f"{package}.multiarray", "_reconstruct"] = multiarray._reconstruct
        out[f"{package}.multiarray", "scalar"] = multiarray.scalar
        out[f"{package}.numeric", "_frombuffer"] = numeric._frombuffer  # type: ignore[attr-defined]
    plain = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex, bool)
    return out | {("builtins", t.__name__): t for t in plain} | {("_codecs", "encode"): _encode}


class _Unpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and builtins; any other callable is a FeatureError that names it."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file, encoding="latin1")  # needed for arrays pickled by Python 2, harmless for others
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        found = _admitted().get((module, name))
        if found is None:
            raise FeatureError(
                "The file wants to run code; it was not loaded.",
                expected="numpy arrays and builtins",
                got=f"{module}.{name}",
                where=self.path,
                hint="write the features again with numpy.save({key: array}) from a source you trust",
            )
        return found


def _array(file: IO[bytes], path: Path) -> Any:
    """Content of a .npy file: an array, or the object it pickles."""
    major, _ = np.lib.format.read_magic(file)
    reader = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}.get(major)
    start = file.tell()
    if reader is not None and reader(file)[2].hasobject:
        return _Unpickler(file, path).load()
    file.seek(start - np.lib.format.MAGIC_LEN)
    return np.lib.format.read_array(file, allow_pickle=False)


def load_features(path: Path, offset: int = 0) -> dict[str, Any]:
    """Dict of arrays and strings in a file; no code in the file is executed.

    Args:
        path: .npy (pickled dict), .npz, .safetensors (strings in its metadata) or a pickled dict (.pkl).
        offset: byte at which an .npy starts inside a larger file.

    Raises:
        FeatureError: the file is missing, truncated or no dict, or refers to a callable that is not admitted.
    """
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        if path.suffix in (".pkl", ".pickle"):
            with path.open("rb") as file:
                out: Any = _Unpickler(file, path).load()
        elif path.suffix == ".npz":
            out = {}
            with zipfile.ZipFile(path) as members:
                for name in members.namelist():
                    with members.open(name) as member:
                        out[name.removesuffix(".npy")] = _array(member, path)
        else:
            with path.open("rb") as file:
                file.seek(offset)
                out = _array(file, path)
    except DAMAGE as error:
        raise FeatureError(
            "The feature file cannot be read.",
            expected="a dict of arrays in .npy, .npz or .safetensors",
            got=cause(error),
            where=path,
            hint="replace the file, or missing=mask to go on without it",
        ) from error
    found = out.item() if isinstance(out, np.ndarray) and out.shape == () else out
    if not isinstance(found, dict):
        raise FeatureError(
            "The feature file holds no dict.",
            expected="{key: array}",
            got=f"{type(found).__name__} {getattr(found, 'shape', '')}".strip(),
            where=path,
        )
    return {str(k): v.item() if isinstance(v, np.ndarray) and v.shape == () else v for k, v in found.items()}


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {**(file.metadata() or {}), **{k: file.get_tensor(k).float().numpy() for k in file.keys()}}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error
