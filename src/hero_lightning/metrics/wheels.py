"""Emotion wheels: the cluster of an emotion word, by the official rule of OV-MER and by a corrected rule.

Data flow: format, synonym and wheel tables of a folder -> word number -> cluster number [rule, wheel, level, word].

Shapes: V word forms, W wheels (officially five), 2 levels (inner sectors, their parts), 2 rules.

Source: OV-MER and AffectGPT (Lian et al. 2025), tables format.csv (base word, its forms), synonym.xlsx (wheel word, its
synonyms, eight runs side by side) and wheel1..5.xlsx (level1, level2, level3; an empty cell repeats the one above).
Official rule (M3): a form maps to base words, and these to wheel words; the alphabetically first of them that is on the
wheel determines the cluster. At level 2 a sector name belongs to its alphabetically first part. Words that map to
nothing are dropped.
Corrected rule: if the form itself, or else one of its base words, is on the wheel, that determines the cluster. Words
that map to nothing, `neutral` among them, are clusters of their own (by the alphabetically first base word).
"""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from hero_lightning.errors import DataError, cause

POSITIVE = frozenset(("happy", "joyful", "joy", "peaceful", "powerful", "genius"))
NEGATIVE = frozenset(("mad", "angry", "anger", "sad", "scared", "fearful", "fear", "disgust", "disgusted", "bad"))
"""Inner sectors by polarity; `surprised` is in neither."""
SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
MAX_SHEET_BYTES = 64 << 20
"""Limit of an unpacked sheet; the official ones have 0.2 MB."""
MAX_PARTS = 62
"""Bits of a cluster set in an int64; the official wheels have at most 48 parts."""


class Wheels:
    """The format, synonym and wheel tables of a folder, each as .xlsx or .csv.

    Attributes:
        forms: word form -> its number, V of them.
        lemma: [V] number of the form's alphabetically first base word: its own cluster if it has no sector.
        clusters: [2 rules, W, 2 levels, V] cluster number; -1 = no sector.
        sectors: per wheel, names of the inner sectors by cluster number of level 1.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        bases: dict[str, set[str]] = {}
        for base, forms in self._rows("format", 2):
            for form in _split(forms):
                bases.setdefault(form, set()).add(clean(base))
        wheel_words: dict[str, set[str]] = {}  # of every base word
        for row in self._rows("synonym", 2):
            for word, synonyms in zip(map(clean, row[::2]), [*row[1::2], ""], strict=False):
                for base in (word, *_split(synonyms)) if word else ():
                    wheel_words.setdefault(base, set()).add(word)
        count = len({p.stem for p in self.folder.iterdir() if re.fullmatch(r"wheel\d+\.(xlsx|csv)", p.name)})
        layouts = [self._wheel(f"wheel{n}") for n in range(1, max(count, 1) + 1)]
        self.forms = {form: n for n, form in enumerate(sorted(bases))}
        self.lemma = np.array([self.forms.get(min(bases[f]), n) for f, n in self.forms.items()], dtype=np.int64)
        candidates = {f: sorted({w for b in bases[f] for w in wheel_words.get(b, ())}) for f in self.forms}
        self.sectors = [sorted({inner for inner, _ in places.values()}) for places in layouts]
        self.clusters = np.full((2, len(layouts), 2, len(self.forms)), -1, dtype=np.int64)
        for w, places in enumerate(layouts):
            numbers = [{name: n for n, name in enumerate(sorted({p[k] for p in places.values()}))} for k in (0, 1)]
            if len(numbers[1]) > MAX_PARTS:
                got = f"{len(numbers[1])} in wheel{w + 1}"
                raise DataError("A wheel has too many parts.", expected=f"<= {MAX_PARTS}", got=got, where=self.folder)
            for form, v in self.forms.items():
                official = next((c for c in candidates[form] if c in places), None)
                corrected = next((c for c in (form, *sorted(bases[form])) if c in places), official)
                for rule, decisive in enumerate((official, corrected)):
                    if decisive is not None:
                        self.clusters[rule, w, :, v] = [numbers[k][places[decisive][k]] for k in (0, 1)]

    def polarity(self, labels: Iterable[str]) -> int:
        """Majority vote of the labels' inner sectors on all wheels: 1 positive, -1 negative, 0 tie or no sector."""
        votes = 0
        for v in (self.forms[word] for word in map(clean, labels) if word in self.forms):
            for names, cluster in zip(self.sectors, self.clusters[0, :, 0, v].tolist(), strict=True):
                votes += (names[cluster] in POSITIVE) - (names[cluster] in NEGATIVE) if cluster >= 0 else 0
        return int(np.sign(votes))

    def _wheel(self, name: str) -> dict[str, tuple[str, str]]:
        """Word -> inner sector and part. Of a word listed twice the last entry counts."""
        inner, part = "", ""
        rows = []
        for row in self._rows(name, 3):
            inner, part = clean(row[0]) or inner, clean(row[1]) or part
            rows.append((inner, part, clean(row[2])))
        parts = {inner: min(p for i, p, _ in rows if i == inner) for inner, _, _ in rows}
        # Sectors first, so that a word that is both a sector and a part or leaf counts as the latter.
        places = {inner: (inner, part) for inner, part in parts.items()}
        return places | {word: (inner, part) for inner, part, leaf in rows for word in (part, leaf) if word}

    def _rows(self, name: str, width: int) -> list[list[str]]:
        """Rows of a table without its header, padded to `width` cells."""
        path = next((p for s in (".xlsx", ".csv") if (p := self.folder / f"{name}{s}").is_file()), None)
        if path is None:
            expected = "the tables of MERTools: format, synonym, wheel1 .. wheel5, each .xlsx or .csv"
            got = ", ".join(sorted(p.name for p in self.folder.glob("*"))) or "nothing"
            problem = f"The emotion wheel table {name} is missing."
            raise DataError(problem, expected=expected, got=got, where=self.folder, hint="wheels=FOLDER")
        return [row + [""] * (width - len(row)) for row in read_table(path)[1:] if any(row)]


def read_table(path: Path) -> list[list[str]]:
    """Cells of a .csv file, or of the first sheet of an .xlsx workbook without its formulas and formats.

    Raises:
        DataError: the file is damaged, or the sheet is larger than `MAX_SHEET_BYTES`.
    """
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                return list(csv.reader(file))
        parts = {}
        with zipfile.ZipFile(path) as archive:
            for name in {"xl/sharedStrings.xml", "xl/worksheets/sheet1.xml"} & set(archive.namelist()):
                if (size := archive.getinfo(name).file_size) > MAX_SHEET_BYTES:
                    expected = f"<= {MAX_SHEET_BYTES} bytes"
                    raise DataError("The workbook is too large.", expected=expected, got=size, where=path)
                parts[name] = ElementTree.fromstring(archive.read(name))
        shared = parts.get("xl/sharedStrings.xml", ElementTree.Element("none"))
        strings = ["".join(t.text or "" for t in item.iter(f"{SHEET}t")) for item in shared]
        return [_cells(row, strings) for row in parts["xl/worksheets/sheet1.xml"].iter(f"{SHEET}row")]
    except (zipfile.BadZipFile, zlib.error, ElementTree.ParseError, csv.Error, LookupError, ValueError) as error:
        raise DataError("The table cannot be read.", got=cause(error), where=path) from error


def _cells(row: ElementTree.Element, strings: Sequence[str]) -> list[str]:
    """Texts of a row; empty cells are not stored, so the column is taken from the reference, e.g. AB7."""
    cells: dict[int, str] = {}
    for cell in row.iter(f"{SHEET}c"):
        column = 0
        for letter in cell.attrib["r"].rstrip("0123456789"):
            column = 26 * column + ord(letter) - 64
        value = "".join(t.text or "" for t in cell.iter() if t.tag in (f"{SHEET}v", f"{SHEET}t"))
        cells[column - 1] = strings[int(value)] if cell.get("t") == "s" else value
    return [cells.get(n, "") for n in range(max(cells, default=-1) + 1)]


def clean(word: str) -> str:
    """Label in lower case with single spaces."""
    return " ".join(word.lower().split())


def _split(words: str) -> list[str]:
    return [w for w in map(clean, words.split(",")) if w]
