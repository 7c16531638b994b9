"""Published feature files: one npy per clip, MMSA pickles, npz matrices keyed by name, csv tables.

Data flow: Sample --rename--> name --file or table--> array [D] | [T, D] -> StoredFeatures.

Shapes: N clips, T steps, D feature width.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hero_lightning.errors import ConfigError, DataError, FeatureError, cause, one_of
from hero_lightning.features.foreign.array_source import ArraySource, Finding, sequence
from hero_lightning.features.foreign.safe_pickle import load_array, load_features
from hero_lightning.types import Sample, file_name

log = logging.getLogger(__name__)

LEVELS = {"utterance": "-UTT", "frame": "-FRA"}
"""Suffixes of MERTools' feature folders: one vector per clip, one vector per frame."""


class NamedSource(ArraySource):
    """Arrays stored under names that may differ from our ids. A FeatureSource.

    Args:
        path: the folder or file.
        key: see ArraySource.
        rename: regular expression -> replacement, applied to a sample's id in order, e.g. {"^03-": "01-"}.
        patch_reduce: see ArraySource.
    """

    def __init__(
        self, path: Path | str, key: str, rename: Mapping[str, str] | None = None, patch_reduce: str = "cls"
    ) -> None:
        super().__init__(key, patch_reduce)
        self.at = Path(path)
        self._seen: dict[str, Finding] = {}
        try:
            self.rename = [(re.compile(pattern), new) for pattern, new in (rename or {}).items()]
        except re.error as error:
            problem, expected = "rename is not a regular expression.", "{pattern: replacement}"
            raise ConfigError(problem, expected=expected, got=cause(error), where="source.rename") from error

    def name(self, sample: Sample) -> str:
        """The clip's name in this source."""
        out = sample.id
        for pattern, new in self.rename:
            out = pattern.sub(new, out)
        return out

    def found(self, sample: Sample) -> Finding | None:
        """Every clip is checked once."""
        path, name = self.path(sample), self.name(sample)
        if path.is_file() and name not in self._seen:
            try:
                array = sequence(self.value(sample), self.key, self.patch_reduce, path)
                self._seen[name] = (0, 0) if array is None else (array.shape[0], array.shape[1])
            except FeatureError as error:
                self._seen[name] = f"{error.problem} {error.details['got']}: {self.describe(sample)}"
        return self._seen.get(name)

    def identity(self) -> dict[str, Any]:
        own = {"rename": {p.pattern: new for p, new in self.rename}, "patch_reduce": self.patch_reduce}
        return {"class": type(self).__name__, "path": self.at.name, "key": self.key, **own}

    def describe(self, sample: Sample) -> str:
        return f"{self.path(sample)} [{self.key}, {self.name(sample)}]"


class NpyFolder(NamedSource):
    """One `<name>.npy` per clip, as written by MERTools: [D] (utterance level) or [T, D] (frame level).

    Args:
        root: the folder.
        level: utterance or frame adds MERTools' suffix -UTT or -FRA if root lacks it; None = root unchanged.
        rename, patch_reduce: see NamedSource.
    """

    def __init__(
        self,
        root: Path | str,
        level: Literal["utterance", "frame"] | None = None,
        rename: Mapping[str, str] | None = None,
        patch_reduce: str = "cls",
    ) -> None:
        one_of("source.level", level, (None, *LEVELS))
        folder, suffix = Path(root), LEVELS.get(level or "", "")
        folder = folder if folder.name.endswith(suffix) else folder.with_name(folder.name + suffix)
        super().__init__(folder, folder.name, rename, patch_reduce)

    def path(self, sample: Sample) -> Path:
        return self.at / f"{file_name(self.name(sample))}.npy"

    def value(self, sample: Sample) -> Any:
        path = self.path(sample)
        return load_array(path) if path.is_file() else None


class TableSource(NamedSource):
    """Arrays of many clips in one file, read once per process.

    Attributes:
        within: pattern whose match in a name is its group, e.g. "..$" for the actors of RAVDESS; features are then
            standardised to mean 0 and standard deviation 1 within each group. This is transductive: it uses all clips
            of a test speaker, but no labels.
    """

    _rows: dict[str, Any] | None = None
    within: re.Pattern[str] | None = None

    @abstractmethod
    def pairs(self) -> Iterable[tuple[str, Any]]:
        """Name and array of every clip in the file."""

    def rows(self) -> dict[str, Any]:
        """Name -> array. FeatureError if the file cannot be read or has a name twice."""
        if self._rows is None:
            rows: dict[str, Any] = {}
            for name, array in self.pairs():
                if name in rows:
                    raise self._wrong(f"The table has {name!r} twice.", "one row per clip", name)
                rows[name] = array
            self._rows = rows if self.within is None else self._standardised(rows, self.within)
        return self._rows

    def _standardised(self, rows: Mapping[str, Any], within: re.Pattern[str]) -> dict[str, Any]:
        groups: dict[str, list[str]] = {}
        for name in rows:
            if (match := within.search(name)) is None:
                raise self._wrong("A name belongs to no group.", f"a match of {within.pattern!r}", name)
            groups.setdefault(match[0], []).append(name)
        out: dict[str, Any] = {}
        for names in groups.values():
            steps = np.concatenate([np.atleast_2d(rows[n]) for n in names])
            mean, spread = steps.mean(axis=0), steps.std(axis=0)
            out |= {n: (rows[n] - mean) / np.where(spread > 1e-6, spread, 1) for n in names}
        return out

    def identity(self) -> dict[str, Any]:
        return super().identity() | ({"within": self.within.pattern} if self.within else {})

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_rows": None}  # a worker that is not forked reads the file itself

    def path(self, sample: Sample) -> Path:
        return self.at

    def found(self, sample: Sample) -> Finding | None:
        """FeatureError if the whole table cannot be read."""
        return super().found(sample) if self.at.is_file() and self.rows() is not None else None

    def value(self, sample: Sample) -> Any:
        return self.rows().get(self.name(sample)) if self.at.is_file() else None

    def _wrong(self, problem: str, expected: object, got: object) -> FeatureError:
        return FeatureError(problem, expected=expected, got=got, where=self.at, hint="check the source's settings")

    def _zipped(self, content: Any, ids: str) -> Iterable[tuple[str, Any]]:
        """Rows of content[key] with their names content[ids]."""
        missing = [k for k in (ids, self.key) if not isinstance(content, Mapping) or k not in content]
        if missing or len(content[ids]) != len(content[self.key]):
            got = list(content) if isinstance(content, Mapping) else type(content).__name__
            problem = "The table lacks a key, or names and rows differ in number."
            raise self._wrong(problem, f"{ids} and {self.key}, of equal length", got)
        return zip(map(str, content[ids]), content[self.key], strict=True)


class NpzTable(TableSource):
    """A matrix [N, D] or [N, T, D] and the names of its rows; or a dict name -> array under one key.

    Args:
        path: .npz, .npy or .pkl.
        key: the matrix, or the dict.
        ids: the names; None = `key` holds a dict.
        rename: see NamedSource.
        within: see TableSource.
    """

    def __init__(
        self,
        path: Path | str,
        key: str,
        ids: str | None = "names",
        rename: Mapping[str, str] | None = None,
        within: str | None = None,
    ) -> None:
        super().__init__(path, key, rename)
        self.ids, self.within = ids, re.compile(within) if within else None

    def pairs(self) -> Iterable[tuple[str, Any]]:
        content = load_features(self.at)
        if self.ids is not None:
            return self._zipped(content, self.ids)
        if not isinstance(content.get(self.key), dict):
            raise self._wrong(f"{self.key!r} is not a dict.", "ids=KEY of the names", list(content))
        return ((str(name), array) for name, array in content[self.key].items())


class MmsaPickle(TableSource):
    """Features of MMSA (Yu et al.): {train, valid, test} -> {id, text, audio, vision, ..._lengths}.

    Ids `video$_$clip` become `video_clip`. Padding is removed by `<key>_lengths`, for text by the mask in `text_bert`,
    else by leading and trailing rows of zeros.

    Args:
        path: e.g. unaligned_50.pkl; may hold arrays and builtins only.
        key: text, audio or vision.
        fill: replaces NaN and Inf, counted in the log (CMU-MOSEI's audio holds -inf; MMSA uses 0); None = such a clip
            counts as broken.
        rename: see NamedSource.
    """

    def __init__(
        self, path: Path | str, key: str, fill: float | None = None, rename: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(path, key, rename)
        self.fill = fill

    def pairs(self) -> Iterator[tuple[str, Any]]:
        filled = 0
        for part in load_features(self.at).values():
            pairs = self._zipped(part, "id")
            lengths = part.get(f"{self.key}_lengths")
            if lengths is None and self.key == "text" and "text_bert" in part:
                lengths = part["text_bert"][:, 1].sum(axis=1)  # [N, 3, T]: ids, mask, type
            for n, (name, array) in enumerate(pairs):
                if array.ndim == 2:
                    nonzero = np.flatnonzero(array.any(axis=1))
                    real = slice(nonzero[0], nonzero[-1] + 1) if len(nonzero) else slice(0)
                    array = array[: int(lengths[n])] if lengths is not None else array[real]
                if self.fill is not None and not (finite := np.isfinite(array)).all():
                    filled += int((~finite).sum())
                    array = np.where(finite, array, array.dtype.type(self.fill))
                yield name.replace("$_$", "_"), array
        if filled:
            log.warning("%s: %d numbers of %s were not finite and are now %g", self.at, filled, self.key, self.fill)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "fill": self.fill}


class CsvTable(TableSource):
    """Numeric columns of a csv; several rows of one name are its time steps, in the file's order.

    Args:
        path: comma, semicolon or tab separated, UTF-8, with a header.
        columns: names or shell patterns in the order of the features, e.g. ["AU*_r"].
        ids: column of the names.
        rename: see NamedSource.
    """

    def __init__(
        self, path: Path | str, columns: Sequence[str], ids: str = "name", rename: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(path, ",".join(columns), rename)
        self.columns, self.ids = list(columns), ids
        if not columns:
            raise ConfigError("No column is given.", expected='e.g. ["AU*_r"]', got="[]", where="source.columns")

    def pairs(self) -> Iterable[tuple[str, Any]]:
        """An empty cell is NaN: such a clip counts as broken."""
        steps: dict[str, list[list[float]]] = {}
        for place, cells in read_csv(self.at, [self.ids]):
            if not steps:
                wanted = {p: [c for c in cells if fnmatchcase(c.strip(), p)] for p in self.columns}
                if missing := [p for p, found in wanted.items() if not found]:
                    raise self._wrong("The table lacks a column.", ", ".join(missing), ", ".join(cells))
            try:
                row = [float(cells[c].strip() or "nan") for found in wanted.values() for c in found]
            except ValueError as error:
                raise self._wrong(f"A cell of {place} is not a number.", "numbers", cause(error)) from error
            steps.setdefault(cells[self.ids].strip(), []).append(row)
        return ((name, np.array(rows, dtype=np.float32)) for name, rows in steps.items())


def read_csv(path: Path, needed: Sequence[str] = (), dataset: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Place ("file, line n") and cells of every row; the separator is the header's most frequent of , ; and tab.

    Args:
        path: UTF-8, with or without BOM.
        needed: required columns.
        dataset: name of the dataset if it is an official file: then a file that is not UTF-8 is read as cp1252, and
            only the cells of required columns are checked.

    Raises:
        DataError: the file is not UTF-8 or no csv, lacks a column or rows, or a row has another number of cells.
    """
    name, place = f"{dataset} label file" if dataset else "table", ""
    if not path.is_file():
        got = "a device, pipe or folder" if path.exists() else "nothing there"
        raise DataError(f"The {name} is missing.", expected="a csv file", got=got, where=path)
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not dataset:
            raise DataError("The table is not UTF-8.", got=cause(error), where=path, hint="save it as UTF-8") from error
        text = raw.decode("cp1252", errors="replace")
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    try:
        columns = list(reader.fieldnames or ())
        if not set(needed) <= set(columns):
            problem = f"The {name} lacks a column." if text.strip() else f"The {name} is empty."
            raise DataError(problem, expected=", ".join(needed), got=", ".join(columns) or "nothing", where=path)
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if any(row[c] is None for c in (needed if dataset else columns)) or (None in row and not dataset):
                problem, expected = f"A row of the {name} has another number of cells.", f"{len(columns)} cells"
                raise DataError(problem, expected=expected, got=row, where=place)
            yield place, row
    except csv.Error as error:
        got, where = cause(error), f"{path}, line {reader.line_num}"
        raise DataError(f"The {name} cannot be parsed.", expected="csv", got=got, where=where) from error
    if not place:
        raise DataError(f"The {name} has no rows.", expected="one per clip", where=path)
