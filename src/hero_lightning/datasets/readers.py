"""Label files as datasets ship them (JSON, MERTools' normal form, transcripts) and how their paths are found.

Data flow: root, candidate names -> path -> rows with their place (for messages) -> Samples.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hero_lightning.data.splits import SPLIT_NAMES
from hero_lightning.errors import DataError, cause
from hero_lightning.features.foreign.safe_pickle import load_features
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.types import Media, Sample

TYPOGRAPHY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "–": "-", "—": "-", "\xa0": " "})
PAGES = {"mercaption_plus": "ovmerd_plus", "simsv2": "sims"}
"""Page in docs/data of datasets that have none of their own."""
TRANSCRIPTS = ("transcription-engchi-polish.csv", "transcription_merge.csv", "subtitle_chieng.csv")
"""MERTools' transcripts: name, chinese, english."""
ABSENT = -10.0
"""MERTools' value of a missing valence."""


def first_existing(root: Path | str, names: Iterable[str]) -> Path | None:
    """The first of these files or folders below root that exists."""
    return next((path for name in names if (path := Path(root) / name).exists()), None)


def label_file(root: Path | str, names: Sequence[str], dataset: str) -> Path:
    """The first of these label files below root that exists. DataError where none does."""
    path = first_existing(root, names)
    if path is not None:
        return path
    problem = f"No label file of {dataset} was found." if Path(root).is_dir() else f"The {dataset} folder is missing."
    expected = f"{' or '.join(names)}, see docs/data/{PAGES.get(dataset, dataset)}.md"
    hint = "paths.data=FOLDER_THAT_CONTAINS_THE_DATASET, or dataset.root=FOLDER"
    raise DataError(problem, expected=expected, where=root, hint=hint)


def media_in(root: Path | str, folders: Iterable[str]) -> Callable[[str], Media | None]:
    """name -> its file, of any suffix (.avi beside .mp4), in the first of these folders that exists.

    A path that does not exist is returned all the same, so that it counts as missing; without a folder, None.
    """
    folder = first_existing(root, folders)
    if folder is None:
        return lambda name: None
    found = {path.stem: path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    usual = next(iter(Counter(path.suffix for path in found.values()).most_common(1)), (".mp4", 0))[0]
    return lambda name: Media(found.get(name, folder / f"{name}{usual}"))


class NormalRow(NamedTuple):
    """One clip of MERTools' normal form.

    Attributes:
        split: train, val, test, test1, ...; whole where the file has no splits.
        name: name of the clip and its files.
        emo: class name or number; a dummy 0 in sentiment datasets.
        val: valence or sentiment; None = missing.
        texts: language (chinese, english) -> what is said.
    """

    split: str
    name: str
    emo: str | int
    val: float | None
    texts: Mapping[str, str]


def read_normal_form(path: Path) -> list[NormalRow]:
    """Rows of a MERTools label file `{train,val,...}_dataset = {name: {emo, val}}`, with the transcripts beside it.

    Raises:
        DataError: an entry of another form. FeatureError: a file whose pickle contains code, or is damaged.
    """
    found = first_existing(path.parent, TRANSCRIPTS)
    transcripts = {row["name"]: row for _, row in read_csv(found, ("name",), "MERTools")} if found else {}
    rows = []
    for key, table in load_features(path).items():
        split = key.removesuffix("_dataset")
        split = SPLIT_NAMES.get(split, split)
        entries = table.items() if isinstance(table, dict) else [(key, table)]
        for name, label in entries:
            if not isinstance(label, dict) or "emo" not in label:
                expected, got = "{name: {emo, val}} for every *_dataset", f"{name}: {label!r}"[:100]
                raise DataError("The label file is not of MERTools' form.", expected=expected, got=got, where=path)
            value = float(label.get("val", ABSENT))
            texts = {k: clean(v) for k in ("chinese", "english") if (v := transcripts.get(str(name), {}).get(k))}
            rows.append(NormalRow(split, str(name), label["emo"], None if value == ABSENT else value, texts))
    return rows


def normal_samples(path: Path, order: Sequence[str]) -> Iterator[Sample]:
    """Samples of MERTools' normal form with the cut clips beside it; emotions are indices of `order`.

    Raises:
        DataError: another number.
    """
    video, sound = (media_in(path.parent, (f"sub{k}-tgt", f"sub{k}", k)) for k in ("video", "audio"))
    for row in read_normal_form(path):
        if not str(row.emo).isdecimal() or int(row.emo) >= len(order):
            expected, where = f"0 to {len(order) - 1}", f"{path}, {row.name}"
            raise DataError("An emotion's number is unknown.", expected=expected, got=row.emo, where=where)
        labels = {"emotion": order[int(row.emo)]}
        text = row.texts.get("english")
        yield Sample(row.name, row.split, video(row.name), sound(row.name), text=text, labels=labels)


def score_of(cell: str | None, place: str) -> float | None:
    """A cell's number; None where it is empty, nan or ABSENT. DataError where it is not a number."""
    try:
        value = float(cell or "nan") if (cell or "").strip().lower() not in ("", "none") else ABSENT
    except ValueError:
        raise DataError("A score is not a number.", expected="a number, or nothing", got=cell, where=place) from None
    return None if value == ABSENT or math.isnan(value) else value


def read_json(path: Path, form: str = "", kind: type = object, inner: type = object) -> Any:
    """The content of a JSON file.

    Args:
        form: the expected form, for messages.
        kind: type of the content, which then must not be empty.
        inner: type of every value in it.

    Raises:
        DataError: not UTF-8, not JSON (with line and column), or another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError("The file is not UTF-8.", got=cause(error), where=path, hint="save it as UTF-8") from error
    except json.JSONDecodeError as error:
        line = error.doc.split("\n")[error.lineno - 1].strip()
        problem, where = (
            f"The file is not valid JSON: {error.msg}.",
            f"{path}, line {error.lineno}, column {error.colno}",
        )
        expected, hint = "JSON", f"python -m json.tool {path}"
        if "#" in line or "//" in line:
            expected, hint = "JSON without comments", "delete the comment: JSON has none"
        raise DataError(problem, expected=expected, got=line[:100] or "nothing", where=where, hint=hint) from error
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    fits = isinstance(content, kind) and all(isinstance(v, inner) for v in values)
    if kind is not object and not (fits and values):
        raise DataError(f"{path.name} has another form.", expected=form, got=str(content)[:100], where=path)
    return content


def clean(text: str) -> str:
    """Text with plain quotes, dashes and spaces; cp1252 characters decoded as control characters are recovered."""
    text = re.sub("[\x80-\x9f]", lambda m: m[0].encode("latin-1").decode("cp1252", errors="ignore"), text)
    return " ".join(text.translate(TYPOGRAPHY).split())
