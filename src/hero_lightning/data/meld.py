"""MELD (declare-lab): utterances of Friends dialogues, official csv files and clips.

Data flow: {train,dev,test}_sent_emo.csv -> rows -> Samples; clips diaX_uttY.mp4 of the split's folder where they lie.

    root/ or root/MELD.Raw/   train_sent_emo.csv dev_sent_emo.csv test_sent_emo.csv
                              train_splits/ dev_splits_complete/ output_repeated_splits_test/   diaX_uttY.mp4
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hero_lightning.data.datamodule import CorpusDataModule
from hero_lightning.data.splits import check_unique
from hero_lightning.data.types import Media, Sample
from hero_lightning.errors import DataError

log = logging.getLogger(__name__)

PARTS = {
    "train": ("train_sent_emo.csv", "train_splits"),
    "val": ("dev_sent_emo.csv", "dev_splits_complete"),
    "test": ("test_sent_emo.csv", "output_repeated_splits_test"),
}
"""Our split -> label file and clip folder."""
PLACES = (
    "",
    "MELD.Raw",
    "MELD",
    "MELD-RAW/MELD.Raw",
    "data/MELD",
    "train",
    "dev",
    "test",
    "MELD.Raw/train",
    "MELD.Raw/dev",
    "MELD.Raw/test",
)
"""Where below root the archives are unpacked in practice."""
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
TYPOGRAPHY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "–": "-", "—": "-", "\xa0": " "})


@dataclass(kw_only=True, eq=False, repr=False)
class MeldDataModule(CorpusDataModule):
    """MELD from its official files; any of the three parts may be missing, and so may all clips.

    Ids are train_dia0_utt0, val_..., test_...: the official numbers start anew in each part. Without the test csv
    `test_from=dev` scores on the dev part and takes validation dialogues from train.
    """

    name = "meld"
    class_orders: ClassVar[Mapping[str, Sequence[str]]] = {
        "emotion": ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"),
        "sentiment": ("neutral", "positive", "negative"),
    }
    official_counts: ClassVar[Mapping[str, int]] = {"train": 9989, "val": 1109, "test": 2610}
    known_broken: ClassVar[frozenset[str]] = frozenset(
        {"train_dia125_utt3", "val_dia110_utt7", "test_dia38_utt4", "test_dia220_utt0"}
    )

    def samples(self) -> list[Sample]:
        """Rows of the csv files found, with their clips where those lie in the official folders."""
        found = [(split, path) for split, (name, _) in PARTS.items() if (path := self._find(name)) is not None]
        if not found:
            raise DataError(
                "No MELD label file was found." if Path(self.root).is_dir() else "The MELD folder is missing.",
                expected="train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv in it or in its MELD.Raw/, beside "
                + ", ".join(f"{folder}/diaX_uttY.mp4" for _, folder in PARTS.values()),
                got="none of them",
                where=self.root,
                mend="paths.data=FOLDER_THAT_HOLDS_MELD, or dataset.root=FOLDER",
            )
        samples: list[Sample] = []
        places: list[str] = []
        for split, path in found:
            folder = self._find(PARTS[split][1])
            log.info("%s: %s, clips: %s", split, path, folder or "none")
            for line, row in read_rows(path):
                samples.append(_sample(split, row, folder, f"{path}, line {line}"))
                places.append(f"{path}, line {line}")
        check_unique(zip((s.id for s in samples), places, strict=True))
        return samples

    def _find(self, name: str) -> Path | None:
        """The file or folder of this name at one of the places where MELD is unpacked."""
        candidates = (Path(self.root) / place / name for place in PLACES)
        return next((p for p in candidates if p.exists()), None)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of every row of a label file. DataError where it is empty or lacks a column."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")  # copies that a spreadsheet program saved
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            "The MELD label file is empty." if not raw.strip() else "The MELD label file lacks a column.",
            expected=", ".join(COLUMNS),
            got=", ".join(reader.fieldnames or ()) or "nothing",
            where=path,
            mend="fetch the official file again",
        )
    empty = True
    for row in reader:
        empty = False
        if any(row[c] is None for c in COLUMNS):
            raise DataError(
                "A MELD row is cut off.",
                expected=f"{len(reader.fieldnames or ())} cells",
                where=f"{path}, line {reader.line_num}",
            )
        yield reader.line_num, row
    if empty:
        raise DataError(
            "The MELD label file has no rows.", expected="one per utterance", where=path, mend="fetch it again"
        )


def clean(text: str) -> str:
    """Plain quotes, dashes and spaces; cp1252 characters that were read as control characters are recovered."""
    text = re.sub("[\x80-\x9f]", lambda m: m[0].encode("latin-1").decode("cp1252", errors="ignore"), text)
    return " ".join(text.translate(TYPOGRAPHY).split())


def _sample(split: str, row: Mapping[str, str], folder: Path | None, place: str) -> Sample:
    numbers = row["Dialogue_ID"].strip(), row["Utterance_ID"].strip()
    if not all(n.isdecimal() for n in numbers):
        raise DataError(
            "A MELD row has no number of dialogue and utterance.", expected="integers", got=numbers, where=place
        )
    dialogue, utterance = map(int, numbers)
    return Sample(
        id=f"{split}_dia{dialogue}_utt{utterance}",
        split=split,
        # By its exact name: the test archive also holds final_videos_test* duplicates and macOS ._* files. A clip that
        # does not lie there is named all the same, so that it is counted as missing.
        video=Media(folder / f"dia{dialogue}_utt{utterance}.mp4") if folder else None,
        text=clean(row["Utterance"]) or None,
        speaker=clean(row["Speaker"]) or None,
        dialogue=f"{split}_dia{dialogue}",
        turn=utterance,
        labels={key.lower(): row[key].strip().lower() for key in ("Emotion", "Sentiment") if row[key].strip()},
    )
