"""VCE (Mazeika et al. 2022): how strongly a video evokes each of 27 emotions in the viewer.

Data flow: train_labels.json, test_labels.json -> {id: {emotions, file, topK}} -> Samples.

    root/ train_labels.json test_labels.json metadata.json (not needed)   videos/00000.mp4 ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.readers import label_file, read_json
from hero_lightning.errors import DataError
from hero_lightning.types import Media, Sample

EMOTIONS = (
    "Admiration", "Adoration", "Aesthetic Appreciation", "Amusement", "Anger", "Anxiety", "Awe (or Wonder)",
    "Awkwardness", "Boredom", "Calmness", "Confusion", "Craving", "Disgust", "Empathic Pain", "Entrancement",
    "Excitement", "Fear", "Horror", "Interest", "Joy", "Nostalgia", "Relief", "Romance", "Sadness", "Satisfaction",
    "Sexual Desire", "Surprise",
)  # fmt: skip
"""In the official order, which is alphabetical."""
PARTS = {"train": "train_labels.json", "test": "test_labels.json"}
FIRST_TEST = 50_000
"""Smaller ids are in VCE's train file, this and larger ones in its test file."""


@dataclass(kw_only=True, eq=False, repr=False)
class VceDataModule(EmotionDataModule):
    """VCE from its official files.

    Labels: `emotions` (27 mean intensities), `emotion` (the strongest; of several the first in the alphabet) and `topk`
    (the official three). The last 5 000 ids of the train file are validation; the reference trains on them too. A clip
    that cannot be read stops the run unless `missing` is changed, because the official test counts it.
    """

    missing: str = "error"

    name = "vce"
    class_orders: ClassVar[Mapping[str, Sequence[str]]] = {k: EMOTIONS for k in ("emotions", "emotion", "topk")}
    official_counts: ClassVar[Mapping[str, int]] = {"train": 45_000, "val": 5_000, "test": 11_046}

    def samples(self) -> list[Sample]:
        """One sample per id of the label files found."""
        label_file(self.root, tuple(PARTS.values()), self.name)
        found = {k: path for k, name in PARTS.items() if (path := Path(self.root) / name).is_file()}
        return [
            self._sample(split, name, record, path)
            for split, path in found.items()
            for name, record in read_json(path, "{id: {emotions, ...}}", dict).items()
        ]

    def _sample(self, split: str, name: str, record: Any, path: Path) -> Sample:
        values = check_record(name, record, f"{path}, id {name}")
        late = split == "train" and int(name) >= FIRST_TEST - self.official_counts["val"]
        top = [str(e) for e in record.get("topK") or ()]
        return Sample(
            id=name,
            split="val" if late else split,
            video=Media(Path(self.root) / (record.get("file") or f"videos/{name}.mp4")),
            labels={
                "emotions": values,
                "emotion": max(EMOTIONS, key=values.__getitem__),
                **({"topk": top} if top else {}),
            },
        )


def check_record(name: str, record: Any, place: str) -> dict[str, float]:
    """Intensities in the official order. DataError unless the id has five digits and the names are the 27 official."""
    values = record.get("emotions") if isinstance(record, dict) else None
    values = values if isinstance(values, dict) else {}
    if len(name) != 5 or not name.isdecimal() or set(values) != set(EMOTIONS):
        missing, extra = sorted(set(EMOTIONS) - set(values)), sorted(set(values) - set(EMOTIONS))
        expected = '"00000": {"emotions": {the 27 official names: 0..1}, "file", "topK"}'
        got, hint = f"id {name}; missing {missing}, unknown {extra}", "download the official label file again"
        raise DataError("A VCE record has another form.", expected=expected, got=got, where=place, hint=hint)
    return {e: values[e] for e in EMOTIONS}
