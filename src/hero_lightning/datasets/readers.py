"""Label tables as datasets ship them: csv, MERTools' normal form (npz of dicts), words; and where they lie.

Data flow: root, candidate names -> path -> rows with their place (for messages) -> a dataset' Samples.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hero_lightning.data.splits import SPLIT_NAMES
from hero_lightning.errors import DataError
from hero_lightning.features.foreign.safe_pickle import load_features
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.types import Media, Sample

TYPOGRAPHY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "–": "-", "—": "-", "\xa0": " "})
TRANSCRIPTS = ("transcription-engchi-polish.csv", "transcription_merge.csv", "subtitle_chieng.csv")
"""MERTools' files of words: name, chinese, english."""
ABSENT = -10.0
"""How MERTools writes a valence that is not there."""


def first_existing(root: Path | str, names: Iterable[str]) -> Path | None:
    """The first of these files or folders below root that is there."""
    return next((path for name in names if (path := Path(root) / name).exists()), None)


def label_file(root: Path | str, names: Sequence[str], dataset: str) -> Path:
    """The first of these label files below root. DataError where none is there."""
    path = first_existing(root, names)
    if path is None:
        raise DataError(
            f"No label file of {dataset} was found." if Path(root).is_dir() else f"The {dataset} folder is missing.",
            expected=" or ".join(names) + f", see docs/data/{dataset}.md",
            got="none of them",
            where=root,
            hint="paths.data=FOLDER_THAT_HOLDS_THE_DATASET, or dataset.root=FOLDER",
        )
    return path


def media_in(root: Path | str, folders: Iterable[str]) -> Callable[[str], Media | None]:
    """name -> its file in the first of these folders that is there, whatever its ending (.avi beside .mp4).

    A file that does not lie there is named all the same, so that it counts as missing; without a folder, None.
    """
    folder = first_existing(root, folders)
    if folder is None:
        return lambda name: None
    found = {path.stem: path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    usual = next(iter(Counter(path.suffix for path in found.values()).most_common(1)), (".mp4", 0))[0]
    return lambda name: Media(found.get(name, folder / f"{name}{usual}"))


class NormalRow(NamedTuple):
    """One clip of MERTools' normal form."""

    split: str
    """train, val, test, test1, ...; whole where the file does not split."""
    name: str
    """The clip's, also that of its files."""
    emo: str | int
    """Class name or number; a dummy 0 in sentiment datasets."""
    val: float | None
    """Valence or sentiment; None = not there."""
    words: Mapping[str, str]
    """Language (chinese, english) -> what is said."""


def read_normal_form(path: Path) -> list[NormalRow]:
    """Rows of a MERTools label file `{train,val,test,...}_dataset = {name: {emo, val}}`, with the transcripts beside it.

    Raises:
        DataError: an entry of another form. FeatureError: a file that wants to run code, or is damaged.
    """
    said: dict[str, dict[str, str]] = {}
    if found := first_existing(path.parent, TRANSCRIPTS):
        said = {row["name"]: row for _, row in read_csv(found, ("name",), "MERTools")}
    rows = []
    for key, table in load_features(path).items():
        split = key.removesuffix("_dataset")
        entries = table.items() if isinstance(table, dict) else [(key, table)]
        for name, label in entries:
            if not isinstance(label, dict) or "emo" not in label:
                raise DataError(
                    "The label file is not of MERTools' form.",
                    expected="{name: {emo, val}} for every *_dataset",
                    got=f"{name}: {label!r}"[:100],
                    where=path,
                )
            value = float(label.get("val", ABSENT))
            words = {k: clean(v) for k in ("chinese", "english") if (v := said.get(str(name), {}).get(k))}
            split_name = SPLIT_NAMES.get(split, split)
            rows.append(NormalRow(split_name, str(name), label["emo"], None if value == ABSENT else value, words))
    return rows


def normal_samples(path: Path, order: Sequence[str]) -> Iterator[Sample]:
    """Samples of MERTools' normal form with the cut clips beside it; emotions are numbers that mean `order`.

    Raises:
        DataError: another number.
    """
    video, sound = (media_in(path.parent, (f"sub{k}-tgt", f"sub{k}", k)) for k in ("video", "audio"))
    for row in read_normal_form(path):
        if not str(row.emo).isdecimal() or int(row.emo) >= len(order):
            expected, where = f"0 to {len(order) - 1}", f"{path}, {row.name}"
            raise DataError("An emotion's number is unknown.", expected=expected, got=row.emo, where=where)
        labels = {"emotion": order[int(row.emo)]}
        text = row.words.get("english")
        yield Sample(row.name, row.split, video(row.name), sound(row.name), text=text, labels=labels)


def score_of(cell: str | None, place: str) -> float | None:
    """A cell's number; None where it is blank, nan or ABSENT. DataError where it is no number."""
    try:
        value = float(cell or "nan") if (cell or "").strip().lower() not in ("", "none") else ABSENT
    except ValueError:
        raise DataError("A score is no number.", expected="a number, or nothing", got=cell, where=place) from None
    return None if value == ABSENT or math.isnan(value) else value


def clean(text: str) -> str:
    """Plain quotes, dashes and spaces; cp1252 characters that were read as control characters are recovered."""
    text = re.sub("[\x80-\x9f]", lambda m: m[0].encode("latin-1").decode("cp1252", errors="ignore"), text)
    return " ".join(text.translate(TYPOGRAPHY).split())
