"""Mind wandering: a table of clips with participants and numbered test folds (Emotion-LLaMA's fork, HCMW form).

Data flow: csv (uuid, mw_label, test_fold_num, participant) -> one fold is test, whole participants of the rest are
validation -> Samples.

    root/ labels.csv   videos/<uuid>.mp4 (or the dataset' features only)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.readers import label_file, media_in
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.types import Sample

CLASSES = ("non-mind wandering", "mind wandering")
CODES = {"nonmw": CLASSES[0], "mw": CLASSES[1]}
"""The table's codes -> the words that prompts, answers and tables all use."""


@dataclass(kw_only=True, eq=False, repr=False)
class MindWanderingDataModule(EmotionDataModule):
    """One fold of a mind-wandering dataset; a participant on both sides of any split is an error.

    Attributes:
        fold: the test fold, as the table numbers it (from 1).
        id_column, label_column, fold_column, participant_column: what its columns are called. Without a participant
            column leaks cannot be checked, and the run says so.
        val_fraction: share of train that is validation, whole participants.
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
        samples, folds, bare = [], set(), 0
        for place, row in read_csv(path, (self.id_column, self.label_column, self.fold_column), "mind-wandering"):
            name, fold = row[self.id_column].strip().removesuffix(".mp4"), row[self.fold_column].strip()
            label = CODES.get(row[self.label_column].strip().lower())
            if label is None or not fold.isdecimal():
                raise DataError(
                    "A mind-wandering row is wrong.",
                    expected="NonMW or MW, and a fold number",
                    got=f"{row[self.label_column]!r}, {fold!r}",
                    where=place,
                )
            folds.add(int(fold))
            who = (row.get(self.participant_column) or "").strip() or None
            bare += who is None
            split = "test" if int(fold) == self.fold else "train"
            samples.append(Sample(name, split, video(name), speaker=who, labels={"state": label}))
        if self.fold not in folds:
            raise ConfigError(
                "The table has no such fold.",
                expected=", ".join(map(str, sorted(folds))),
                got=self.fold,
                where="dataset.fold",
            )
        if bare:
            self._note(f"{bare} clips name no participant: whether one stands in two splits cannot be checked")
        return samples
