"""MELD (declare-lab): utterances of Friends dialogues, official csv files and clips.

Data flow: {train,dev,test}_sent_emo.csv -> rows -> Samples; clips diaX_uttY.mp4 of the split's folder where they lie.

    root/ or root/MELD.Raw/   train_sent_emo.csv dev_sent_emo.csv test_sent_emo.csv
                              train_splits/ dev_splits_complete/ output_repeated_splits_test/   diaX_uttY.mp4
    or MERTools' form         label.npz transcription-engchi-polish.csv subvideo/train_dia0_utt0.mp4 subaudio/
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.data.splits import check_unique
from hero_lightning.datasets.readers import clean, first_existing, label_file, normal_samples
from hero_lightning.errors import DataError
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.types import Media, Sample

log = logging.getLogger(__name__)

PARTS = {
    "train": ("train_sent_emo.csv", "train_splits"),
    "val": ("dev_sent_emo.csv", "dev_splits_complete"),
    "test": ("test_sent_emo.csv", "output_repeated_splits_test"),
}
"""Our split -> label file and clip folder."""
PLACES = (
    *("", "MELD.Raw", "MELD", "MELD-RAW/MELD.Raw", "data/MELD", "train", "dev", "test"),
    *("MELD.Raw/train", "MELD.Raw/dev", "MELD.Raw/test"),
)
"""Folders below root into which the archives are commonly unpacked."""
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
NORMAL_ORDER = ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")
"""Order of MERTools' class numbers 0..6."""


@dataclass(kw_only=True, eq=False, repr=False)
class MeldDataModule(EmotionDataModule):
    """MELD from its official files; any of the three parts and all clips may be missing.

    Ids are train_dia0_utt0, val_..., test_..., because the official numbers restart in each part. Without the test csv,
    `test_from=dev` tests on the dev part and takes validation dialogues from train.
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
        """Rows of the csv files found, with their clips if the official folders exist."""
        found = [(split, path) for split, (name, _) in PARTS.items() if (path := self._find(name)) is not None]
        if not found:
            return self._normal(label_file(self.root, [*(name for name, _ in PARTS.values()), "label.npz"], self.name))
        samples: dict[str, Sample] = {}
        for split, path in found:
            folder = self._find(PARTS[split][1])
            log.info("%s: %s, clips: %s", split, path, folder or "none")
            samples |= {place: _sample(split, row, folder, place) for place, row in read_csv(path, COLUMNS, "MELD")}
        check_unique((s.id, place) for place, s in samples.items())
        return list(samples.values())

    def _normal(self, path: Path) -> list[Sample]:
        """MERTools' form: the same ids, no speakers, no sentiment."""
        samples = []
        for s in normal_samples(path, NORMAL_ORDER):
            dialogue, _, utterance = s.id.rpartition("_utt")
            samples.append(replace(s, dialogue=dialogue, turn=int(utterance) if utterance.isdecimal() else None))
        return samples

    def _find(self, name: str) -> Path | None:
        """The file or folder of this name in one of PLACES."""
        return first_existing(self.root, (str(Path(place, name)) for place in PLACES))


def _sample(split: str, row: Mapping[str, str], folder: Path | None, place: str) -> Sample:
    numbers = row["Dialogue_ID"].strip(), row["Utterance_ID"].strip()
    if not all(n.isdecimal() for n in numbers):
        raise DataError("Dialogue_ID or Utterance_ID is not a number.", expected="integers", got=numbers, where=place)
    dialogue, utterance = map(int, numbers)
    return Sample(
        id=f"{split}_dia{dialogue}_utt{utterance}",
        split=split,
        # The exact name: the test archive also has final_videos_test* duplicates and macOS ._* files. A clip that does
        # not exist keeps its path, so that it counts as missing.
        video=Media(folder / f"dia{dialogue}_utt{utterance}.mp4") if folder else None,
        text=clean(row["Utterance"]) or None,
        speaker=clean(row["Speaker"]) or None,
        dialogue=f"{split}_dia{dialogue}",
        turn=utterance,
        labels={key.lower(): row[key].strip().lower() for key in ("Emotion", "Sentiment") if row[key].strip()},
    )
