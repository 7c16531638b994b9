"""Reads HERO's feature-only layout: one file per clip with a dict of arrays, through a loader that runs nothing.

Data flow: <root>/<id>.npy (pickled dict) | .npz | .safetensors -> restricted loader -> array -> [T, D] -> Ready.

Shapes: T steps, F frames, P patches, D feature width.
"""

from __future__ import annotations

import logging
import pickle
import struct
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from hero_lightning.data.types import Ready, Sample
from hero_lightning.errors import ConfigError, FeatureError
from hero_lightning.streams.source import Resolution

log = logging.getLogger(__name__)

HERO_KEYS = {"frame": "clip", "motion": "video_mae", "audio": "hubert", "au": "au", "text": "bert"}
"""HERO's key of each stream."""
SUFFIXES = (".npy", ".npz", ".safetensors")
Finding = tuple[int, int] | str
"""(T, D) of a feature, (0, 0) where it is absent, or why it is broken."""
PATCH_RULES = ("cls", "mean", "flatten")
PARSING = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, ImportError, SyntaxError)
CONTAINER = (tokenize.TokenError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error)
DAMAGE = (OSError, EOFError, MemoryError, *PARSING, *CONTAINER)
"""What a damaged pickle, header or archive was seen to raise."""


def _encode(text: str, codec: str) -> bytes:
    """Stands in for codecs.encode, by which old pickles spell bytes: latin1 only."""
    if codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {codec}")
    return text.encode("latin1")


def _admitted() -> dict[tuple[str, str], Any]:
    from numpy._core import multiarray, numeric  # where numpy itself pickles from

    out: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
    for package in ("numpy.core", "numpy._core"):
        out[f"{package}.multiarray", "_reconstruct"] = multiarray._reconstruct
        out[f"{package}.multiarray", "scalar"] = multiarray.scalar
        out[f"{package}.numeric", "_frombuffer"] = numeric._frombuffer  # type: ignore[attr-defined]
    plain = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex, bool)
    return out | {("builtins", t.__name__): t for t in plain} | {("_codecs", "encode"): _encode}


class _Unpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and plain builtins; refuses every other callable by name."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file, encoding="latin1")  # arrays that Python 2 pickled need it; others do not mind
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        found = _admitted().get((module, name))
        if found is None:
            raise FeatureError(
                "The file wants to run code; it was not loaded.",
                expected="numpy arrays and plain builtins",
                got=f"{module}.{name}",
                where=self.path,
                mend="write the features anew with numpy.save({key: array}) from a source you trust",
            )
        return found


def _array(file: IO[bytes], path: Path) -> Any:
    """One .npy stream -> array, or what a pickled one holds."""
    major, _ = np.lib.format.read_magic(file)
    reader = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}.get(major)
    start = file.tell()
    if reader is not None and reader(file)[2].hasobject:
        return _Unpickler(file, path).load()
    file.seek(start - np.lib.format.MAGIC_LEN)
    return np.lib.format.read_array(file, allow_pickle=False)


def load_features(path: Path, offset: int = 0) -> dict[str, Any]:
    """One clip's dict of arrays and strings; nothing in the file is executed.

    Args:
        path: .npy (pickled dict), .npz, .safetensors (strings in its metadata) or a bare pickle of a dict.
        offset: byte at which an .npy starts inside a larger file.

    Raises:
        FeatureError: missing, truncated, of another form, or with a foreign callable.
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
            got=f"{type(error).__name__}: {error}",
            where=path,
            mend="replace the file, or coverage=mask to go on without it",
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


def write_npydict(path: Path, features: Mapping[str, Any]) -> None:
    """Writes one clip's dict in HERO's layout (.npy, pickled dict), under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.save(file, np.array(dict(features), dtype=object), allow_pickle=True)
    temporary.replace(path)


@lru_cache(maxsize=2)
def _loaded(path: Path, changed: int) -> dict[str, Any]:
    """The last files read: all streams of a clip come out of one load. `changed`: the file's mtime."""
    return load_features(path)


@cache
def _findings(path: Path, changed: int, patch_reduce: str) -> dict[str, Finding] | str:
    """Every key of a file, looked at once; or why the file cannot be read."""
    found: dict[str, Finding] = {}
    try:
        content = load_features(path)
    except FeatureError as error:
        return f"{error.problem} {error.details['got']}: {path}"
    for key, value in content.items():
        try:
            array = sequence(value, key, patch_reduce, path)
            found[key] = (0, 0) if array is None else (array.shape[0], array.shape[1])
        except FeatureError as error:
            found[key] = f"{error.problem} {error.details['got']}: {path}"
    return found


def sequence(value: Any, key: str, patch_reduce: str, path: Path) -> np.ndarray | None:
    """One key's value as [T, D]; None where the clip has no such stream (missing, empty, all zeros).

    Args:
        value: what the file holds.
        key: its name, for messages.
        patch_reduce: what [F, P, D] becomes, see NpyDict.
        path: the file, for messages.

    Raises:
        FeatureError: not floats, NaN or Inf, or another rank.
    """

    def broken(problem: str, got: object) -> FeatureError:
        mend = "replace the file, or coverage=mask to go on without it"
        return FeatureError(f"Feature {key} {problem}", expected="floats [T, D]", got=got, where=path, mend=mend)

    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return None
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise broken("is not an array of floats.", getattr(value, "dtype", type(value).__name__))
    if not np.isfinite(value).all():
        raise broken("holds NaN or Inf.", "NaN or Inf")
    if not value.any():
        return None  # HERO's extractor writes zeros for what a clip does not have
    if value.ndim in (1, 2):
        return np.atleast_2d(value)  # [D] -> [1, D]
    if value.ndim != 3:
        raise broken("has another rank than 1, 2 or 3.", f"shape {value.shape}")
    if value.shape[0] == 1:
        return value[0]  # [1, T, D]
    if patch_reduce == "cls":
        return value[:, 0]  # [F, P, D] -> [F, D]
    return value.mean(axis=1) if patch_reduce == "mean" else value.reshape(-1, value.shape[2])


class ArraySource(ABC):
    """Stored arrays looked up by clip. A FeatureSource whose subclass says where a clip's array is.

    Args:
        key: the feature's name, for messages.
        patch_reduce: what [F, P, D] becomes: cls (first patch), mean over patches, or flatten to [F * P, D].
        probe_count: how many readable clips must agree about the width.
    """

    def __init__(self, key: str, patch_reduce: str = "cls", probe_count: int = 8) -> None:
        if patch_reduce not in PATCH_RULES:
            raise ConfigError(
                "Unknown rule for patch features.",
                expected=", ".join(PATCH_RULES),
                got=patch_reduce,
                where="source.patch_reduce",
            )
        self.key, self.patch_reduce, self.probe_count = key, patch_reduce, probe_count
        self._width: int | None = None

    @abstractmethod
    def path(self, sample: Sample) -> Path:
        """The file that holds, or should hold, the clip's array."""

    @abstractmethod
    def found(self, sample: Sample) -> Finding | None:
        """(T, D), or why the feature is broken, or None where there is no file; (0, 0) = no such stream."""

    @abstractmethod
    def value(self, sample: Sample) -> Any:
        """The clip's array as stored; None where there is none. FeatureError where it cannot be read."""

    def content(self, sample: Sample) -> dict[str, Any]:
        """Everything that lies with the array: `<key>_time` and `<key>_measures`, as `convert` writes them."""
        return {}

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """See FeatureSource."""

    @abstractmethod
    def describe(self, sample: Sample) -> str:
        """See FeatureSource."""

    def status(self, sample: Sample) -> Resolution:
        """See FeatureSource."""
        found = self.found(sample)
        if found is None or found == (0, 0):
            return Resolution("absent", "no feature file" if found is None else f"no {self.key}")
        if isinstance(found, str):
            return Resolution("broken", found)
        if self._width is not None and found[1] != self._width:
            return Resolution("broken", f"width {found[1]}, expected {self._width}: {self.describe(sample)}")
        return Resolution("preextracted", "features")

    def has(self, sample: Sample) -> bool:
        """See FeatureSource."""
        return self.status(sample).mode == "preextracted"

    def length(self, sample: Sample) -> int | None:
        """See FeatureSource."""
        found = self.found(sample)
        return (found[0] or None) if isinstance(found, tuple) else None

    def read(self, sample: Sample) -> Ready:
        """See FeatureSource; always float32."""
        path = self.path(sample)
        array = sequence(self.value(sample), self.key, self.patch_reduce, path)
        if array is None:
            raise FeatureError(
                f"Sample {sample.id} has no feature {self.key}.",
                expected="an array that is not all zeros",
                got=self.status(sample).reason,
                where=path,
                mend="coverage=mask to go on without it",
            )
        if self._width is not None and array.shape[1] != self._width:
            raise self._other_width(array.shape[1], sample)
        beside = self.content(sample)
        clock = beside.get(f"{self.key}_time")
        timed = isinstance(clock, np.ndarray) and clock.shape == (array.shape[0],)
        return Ready(
            torch.from_numpy(np.array(array, dtype=np.float32)),
            torch.tensor(clock, dtype=torch.float32) if timed else None,
            dict(beside.get(f"{self.key}_measures", {})),
        )

    def _other_width(self, width: int, sample: Sample) -> FeatureError:
        return FeatureError(
            f"Feature {self.key} has another width than the others.",
            expected=self._width,
            got=width,
            where=self.describe(sample),
            mend="extract these files anew with the encoder of the others; widths are never padded or cut",
        )

    def width(self) -> int | None:
        """See FeatureSource; None before `probe` found a readable file."""
        return self._width

    def probe(self, samples: Iterable[Sample]) -> None:
        """See FeatureSource."""
        agreed = 0
        for sample in samples:
            found = self.found(sample)
            if not isinstance(found, tuple) or found == (0, 0):
                continue
            self._width = self._width or found[1]
            if found[1] != self._width:
                raise self._other_width(found[1], sample)
            agreed += 1
            if agreed == self.probe_count:
                return


class NpyDict(ArraySource):
    """One key of HERO's feature-only layout. A FeatureSource.

    Args:
        root: folder of <id>.npy files; a sample's files["features"] goes before it.
        key: entry of the dict: clip, video_mae, hubert, bert, au.
        patch_reduce, probe_count: see ArraySource.
    """

    def __init__(self, root: Path | str, key: str, patch_reduce: str = "cls", probe_count: int = 8) -> None:
        super().__init__(key, patch_reduce, probe_count)
        self.root = Path(root)

    def path(self, sample: Sample) -> Path:
        """The clip's feature file; the .npy name where none exists."""
        if "features" in sample.files:
            return sample.files["features"]
        names = [self.root / f"{sample.id}{suffix}" for suffix in SUFFIXES]
        return next((p for p in names if p.is_file()), names[0])

    def found(self, sample: Sample) -> Finding | None:
        """See ArraySource."""
        path = self.path(sample)
        if not path.is_file():
            return None
        found = _findings(path, path.stat().st_mtime_ns, self.patch_reduce)
        return found if isinstance(found, str) else found.get(self.key, (0, 0))

    def content(self, sample: Sample) -> dict[str, Any]:
        """See ArraySource."""
        path = self.path(sample)
        return _loaded(path, path.stat().st_mtime_ns) if path.is_file() else {}

    def value(self, sample: Sample) -> Any:
        """See ArraySource."""
        return self.content(sample).get(self.key)

    def transcript(self, sample: Sample) -> str | None:
        """The clip's transcript where its file holds one; a broken or missing file has none."""
        try:
            path = self.path(sample)
            said = _loaded(path, path.stat().st_mtime_ns).get("transcript")
        except (FeatureError, FileNotFoundError):
            return None
        return said if isinstance(said, str) and said.strip() else None

    def identity(self) -> dict[str, Any]:
        """See FeatureSource."""
        return {"class": "NpyDict", "root": self.root.name, "key": self.key, "patch_reduce": self.patch_reduce}

    def describe(self, sample: Sample) -> str:
        """See FeatureSource."""
        return f"{self.path(sample)} [{self.key}]"
