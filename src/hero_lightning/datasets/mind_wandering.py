"""Mind wandering: a table of clips with participants and numbered test folds (Emotion-LLaMA's fork, HCMW form).

Data flow: csv (uuid, mw_label, test_fold_num, participant) -> Samples: one fold is test, whole participants of the
others are validation.

    root/ labels.csv   videos/<uuid>.mp4 (not needed with stored features)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.readers import label_file, media_in
from hero_lightning.errors import DataError, one_of
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.types import Sample

CLASSES = ("non-mind wandering", "mind wandering")
CODES = {"nonmw": CLASSES[0], "mw": CLASSES[1]}
"""Codes of the table -> class names, as prompts and answers use them."""


@dataclass(kw_only=True, eq=False, repr=False)
class MindWanderingDataModule(EmotionDataModule):
    """One fold of a mind-wandering dataset; a participant in two splits is an error.

    Attributes:
        fold: number of the test fold in the table (from 1).
        table: its name below root.
        id_column, label_column, fold_column, participant_column: names of its columns. Without a participant column
            leaks cannot be checked, which the run reports.
        val_fraction: share of train that is validation, in whole participants.
    """

    fold: int = 1
    table: str = "labels.csv"
    id_column: str = "uuid"
    label_column: str = "mw_label"
    fold_column: str = "test_fold_num"
    participant_column: str = "participant"
    val_fraction: float = 0.15

    name = "mind_wandering"
    class_orders: ClassVar[Mapping[str, Sequence[str]]] = {"state": CLASSES}
    apart: ClassVar[tuple[str, ...]] = ("dialogue", "speaker", "video")

    def samples(self) -> list[Sample]:
        """One sample per row of the table."""
        path = label_file(self.root, (self.table,), self.name)
        video = media_in(self.root, ("videos", "video"))
        samples, folds = [], set()
        for place, row in read_csv(path, (self.id_column, self.label_column, self.fold_column), "mind-wandering"):
            name, fold = row[self.id_column].strip().removesuffix(".mp4"), row[self.fold_column].strip()
            label = CODES.get(row[self.label_column].strip().lower())
            if label is None or not fold.isdecimal():
                expected, got = "NonMW or MW, and a fold number", f"{row[self.label_column]!r}, {fold!r}"
                raise DataError("A row has another label or fold.", expected=expected, got=got, where=place)
            folds.add(int(fold))
            participant = (row.get(self.participant_column) or "").strip() or None
            split = "test" if int(fold) == self.fold else "train"
            samples.append(Sample(name, split, video(name), speaker=participant, labels={"state": label}))
        one_of("dataset.fold", self.fold, sorted(folds))
        if anonymous := sum(s.speaker is None for s in samples):
            self._note(f"{anonymous} clips have no participant: whether splits share one cannot be checked")
        return samples
