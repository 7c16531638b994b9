"""Open-vocabulary datasets of MERTools: OV-MERD+ (scored), MER-Caption+ and OV-MERD (for training).

Data flow: label csv (name, openset) + reasons (name, reason) + subtitles -> Samples with a set of labels each.

    root/ ovlabel.csv                       subtitle_eng.csv (name, sentence)                              OV-MERD+
          track2_train_mercaptionplus.csv   track3_train_mercaptionplus.csv (name, reason)                 MER-Caption+
          track2_train_ovmerd.csv           track3_train_ovmerd.csv                subtitle_chieng.csv     OV-MERD
          video/<name>.mp4   audio/<name>.wav   openface_face/<name>/<name>.csv
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hero_lightning.data.availability import Entry
from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.mer import clip_maker, read_transcripts
from hero_lightning.datasets.readers import TRANSCRIPTS, label_file
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.types import Sample


@dataclass(kw_only=True, eq=False, repr=False)
class OvMerdPlusDataModule(EmotionDataModule):
    """OV-MERD+ (Lian et al. 2025): 532 test clips, each with a set of labels.

    Attributes:
        part: split of the clips; with `train`, validation and test are split from them by a seed.
        labels: the label file; None = the official one.
    """

    part: str = "test"
    labels: str | None = None

    name = "ovmerd_plus"
    label_files: ClassVar[Mapping[str, int]] = {"ovlabel.csv": 532}

    @property
    def path(self) -> Path:
        """The label file."""
        return label_file(self.root, (self.labels,) if self.labels else tuple(self.label_files), self.name)

    def official(self) -> Mapping[str, int]:
        """The count of the label file found."""
        count = self.label_files.get(self.path.name)
        return {self.part: count} if count else {}

    def samples(self) -> list[Sample]:
        """One sample per row of the label file; a clip with an empty set is kept without a label."""
        path, root = self.path, Path(self.root)
        reasons = path.with_name(path.name.replace("track2", "track3"))
        rows = read_csv(reasons, ("name", "reason"), self.name) if reasons != path and reasons.is_file() else ()
        rationales = {row["name"].strip(): row["reason"].strip() for _, row in rows}
        texts = read_transcripts(root, ("subtitle_eng.csv", *TRANSCRIPTS), ("sentence", "english"))
        clip = clip_maker(root, ("video",), texts)
        samples = []
        for place, row in read_csv(path, ("name", "openset"), self.name):
            name, words = row["name"].strip(), label_set(row["openset"])
            samples.append(clip(name, self.part, {"openset": words}, {"rationale": rationales.get(name, "")}))
            if not words:
                self._ledger.append(Entry(name, self.part, "openset", "unknown", f"no label: {place}"))
        if unlabelled := sum(not s.labels for s in samples):
            self._note(f"{unlabelled} clips have an empty label set and count as unlabelled")
        return samples


@dataclass(kw_only=True, eq=False, repr=False)
class MerCaptionPlusDataModule(OvMerdPlusDataModule):
    """MER-Caption+ (MER2025): 31 327 clips with generated label sets and reasons; OV-MERD (332) has the same form."""

    part: str = "train"

    name = "mercaption_plus"
    label_files: ClassVar[Mapping[str, int]] = {
        "track2_train_mercaptionplus.csv": 31327,
        "track2_train_ovmerd.csv": 332,
    }


def label_set(text: str) -> list[str]:
    """A Python list, or words separated by commas -> the words in lower case, each once."""
    return list(dict.fromkeys(w for part in re.split(r"[\[\]\"',，、]", text) if (w := part.strip().lower())))
