"""Emotion wheels: which sector a word for a feeling belongs to, by the official rule and by the corrected one.

Data flow: format, synonym and wheel tables of a folder -> word number -> cluster number [rule, wheel, level, word].

Shapes: V word forms, W wheels (five official ones), 2 levels (inner sectors, their parts), 2 rules.

Source: OV-MER / AffectGPT (Lian et al. 2025), tables format.csv (base word, its forms), synonym.xlsx (wheel word, its
synonyms, eight runs side by side) and wheel1..5.xlsx (level1, level2, level3; an empty cell repeats the one above).
Official rule (M3): of all wheel words that a form reaches (form -> base words -> wheel words) the alphabetically first
that stands on the wheel decides; at level 2 a sector stands for its alphabetically first part; a word that reaches
nothing is dropped. Corrected rule: a form that itself, or else one base of which, stands on the wheel keeps that place;
a word that reaches nothing, `neutral` among them, is a cluster of its own (its alphabetically first base), so every
label counts.
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

from hero_lightning.errors import DataError

POSITIVE = frozenset(("happy", "joyful", "joy", "peaceful", "powerful", "genius"))
NEGATIVE = frozenset(("mad", "angry", "anger", "sad", "scared", "fearful", "fear", "disgust", "disgusted", "bad"))
"""Inner sectors by polarity; `surprised` has none."""
SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
MOST = 64 << 20
"""Bytes of an unpacked sheet; the official ones have 0.2 MB."""
MOST_PARTS = 62
"""Clusters of a clip are counted as bits; the official wheels have at most 48."""
TREE = "format.csv, synonym.xlsx or .csv, wheel1.xlsx or .csv and so on"


class Wheels:
    """The format, synonym and wheel tables of a folder, each as .xlsx or .csv.

    Attributes:
        forms: word form -> its number, V of them.
        lemma: [V] number of a form's alphabetically first base: its own cluster where it has no sector.
        clusters: [2 rules, W, 2 levels, V] cluster number; -1 = no sector.
        sectors: per wheel the names of the inner sectors, place = cluster number at level 1.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        bases: dict[str, set[str]] = {}
        for base, forms in self._rows("format", 2):
            for form in _split(forms):
                bases.setdefault(form, set()).add(clean(base))
        reach: dict[str, set[str]] = {}  # base -> wheel words
        for row in self._rows("synonym", 2):
            for word, synonyms in zip(row[::2], [*row[1::2], ""], strict=False):
                for base in (clean(word), *_split(synonyms)) if clean(word) else ():
                    reach.setdefault(base, set()).add(clean(word))
        count = len({p.stem for p in self.folder.iterdir() if re.fullmatch(r"wheel\d+\.(xlsx|csv)", p.name)})
        layouts = [self._wheel(f"wheel{n}") for n in range(1, count + 1)] or [self._wheel("wheel1")]
        self.forms = {form: n for n, form in enumerate(sorted(bases))}
        self.lemma = np.array([self.forms.get(min(bases[f]), n) for f, n in self.forms.items()], dtype=np.int64)
        candidates = {f: sorted({w for b in bases[f] for w in reach.get(b, ())}) for f in self.forms}
        self.sectors = [sorted({inner for inner, _ in places.values()}) for places in layouts]
        self.clusters = np.full((2, len(layouts), 2, len(self.forms)), -1, dtype=np.int64)
        for w, places in enumerate(layouts):
            numbers = [{name: n for n, name in enumerate(sorted({p[k] for p in places.values()}))} for k in (0, 1)]
            if len(numbers[1]) > MOST_PARTS:
                got = f"{len(numbers[1])} in wheel{w + 1}"
                raise DataError("A wheel has too many parts.", expected=f"<= {MOST_PARTS}", got=got, where=self.folder)
            for form, v in self.forms.items():
                found = next((c for c in candidates[form] if c in places), None)
                own = next((c for c in (form, *sorted(bases[form])) if c in places), found)
                for rule, stand in enumerate((found, own)):
                    if stand is not None:
                        self.clusters[rule, w, :, v] = [numbers[k][places[stand][k]] for k in (0, 1)]

    def polarity(self, labels: Iterable[str]) -> int:
        """Vote of the labels' inner sectors on all wheels: 1 positive, -1 negative, 0 even or none."""
        votes = 0
        for v in (self.forms[word] for word in map(clean, labels) if word in self.forms):
            for names, place in zip(self.sectors, self.clusters[0, :, 0, v].tolist(), strict=True):
                votes += (names[place] in POSITIVE) - (names[place] in NEGATIVE) if place >= 0 else 0
        return int(np.sign(votes))

    def _wheel(self, name: str) -> dict[str, tuple[str, str]]:
        """Word -> inner sector and part; a word at two places keeps the last, a sector its first part."""
        inner, part = "", ""
        rows = []
        for row in self._rows(name, 3):
            inner, part = clean(row[0]) or inner, clean(row[1]) or part
            rows.append((inner, part, clean(row[2])))
        parts = {inner: min(p for i, p, _ in rows if i == inner) for inner, _, _ in rows}
        # sectors first: a word that is both keeps its narrower place
        places = {inner: (inner, part) for inner, part in parts.items()}
        return places | {word: (inner, part) for inner, part, leaf in rows for word in (part, leaf) if word}

    def _rows(self, name: str, width: int) -> list[list[str]]:
        """Rows of a table below its head, filled up to `width` cells."""
        path = next((p for s in (".xlsx", ".csv") if (p := self.folder / f"{name}{s}").is_file()), None)
        if path is None:
            raise DataError(
                f"The emotion wheel table {name} is missing.",
                expected=TREE,
                got=", ".join(sorted(p.name for p in self.folder.glob("*"))) or "nothing",
                where=self.folder,
                hint="wheels=FOLDER with the tables of the MERTools / AffectGPT release",
            )
        rows = read_xlsx(path) if path.suffix == ".xlsx" else _read_csv(path)
        return [row + [""] * (width - len(row)) for row in rows[1:] if any(row)]


def read_xlsx(path: Path) -> list[list[str]]:
    """Cells of a workbook's first sheet as text; formulas and formats are not looked at.

    Raises:
        DataError: no such workbook, or one that is damaged or unreasonably large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {}
            for name in ("xl/sharedStrings.xml", "xl/worksheets/sheet1.xml"):
                if name not in archive.namelist():
                    continue
                if archive.getinfo(name).file_size > MOST:
                    raise DataError("The workbook is too large.", expected=f"<= {MOST} bytes", got=name, where=path)
                parts[name] = ElementTree.fromstring(archive.read(name))
        shared = parts.get("xl/sharedStrings.xml", ElementTree.Element("none"))
        strings = ["".join(t.text or "" for t in item.iter(f"{SHEET}t")) for item in shared]
        return [_cells(row, strings) for row in parts["xl/worksheets/sheet1.xml"].iter(f"{SHEET}row")]
    except (zipfile.BadZipFile, zlib.error, ElementTree.ParseError, LookupError, ValueError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise DataError("The workbook cannot be read.", expected="an .xlsx file", got=got, where=path) from error


def _cells(row: ElementTree.Element, strings: Sequence[str]) -> list[str]:
    cells: dict[int, str] = {}
    for cell in row.iter(f"{SHEET}c"):
        letters = re.match("[A-Z]+", cell.attrib["r"])
        assert letters is not None
        column = 0
        for letter in letters[0]:
            column = 26 * column + ord(letter) - 64
        value = "".join(t.text or "" for t in cell.iter() if t.tag in (f"{SHEET}v", f"{SHEET}t"))
        cells[column - 1] = strings[int(value)] if cell.get("t") == "s" else value
    return [cells.get(n, "") for n in range(max(cells, default=-1) + 1)]


def _read_csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def clean(word: str) -> str:
    """A label in lower case with single spaces."""
    return " ".join(word.lower().split())


def _split(words: str) -> list[str]:
    return [w for w in map(clean, words.split(",")) if w]
