"""The demo dataset: drawn talking people, made on the spot, whose truth is known.

Data flow: generate (once) -> labels.csv, descriptions.json, truth.json, clips/, au/ -> Samples.

    root/ demo.json labels.csv descriptions.json truth.json
          clips/<id>.mp4   au/<id>.csv   au/<id>_au_info.json
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.demo.generate import generate
from hero_lightning.datasets.demo.truth import EMOTIONS
from hero_lightning.errors import ConfigError
from hero_lightning.types import Media, Sample


@dataclass(kw_only=True, eq=False, repr=False)
class DemoDataModule(EmotionDataModule):
    """Real MP4 files of drawn talking people; what carries each clip's emotion is known.

    Attributes:
        clips: train, validation and test together.
        dataset_seed: another seed is another dataset. One of another seed or size is made anew in place of the old one.
    """

    clips: int = 900
    dataset_seed: int = 0

    name = "demo"
    class_orders: ClassVar[Mapping[str, Sequence[str]]] = {"emotion": EMOTIONS}

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, got, least in (("clips", self.clips, 24), ("dataset_seed", self.dataset_seed, 0)):
            if got < least:
                expected = f"at least {least}"
                raise ConfigError(f"{key} has a wrong value.", expected=expected, got=got, where=f"dataset.{key}")

    def samples(self) -> list[Sample]:
        """Makes the dataset where it is missing, and reads it."""
        generate(Path(self.root), self.dataset_seed, self.clips)
        return read_demo(Path(self.root))


def read_demo(root: Path) -> list[Sample]:
    """Samples of a dataset that `generate` made, in its order.

    Labels are `emotion` (a class) and `valence` (-1..1). A modality that the truth calls missing really is: no sound
    track in the file, no AU files, no face box, no text.
    """
    descriptions, truth = (
        json.loads((root / name).read_text(encoding="utf-8")) for name in ("descriptions.json", "truth.json")
    )
    out = []
    with (root / "labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            id = row["id"]
            files = {"au": root / "au" / f"{id}.csv", "au_info": root / "au" / f"{id}_au_info.json"}
            sample = Sample(
                id=id,
                split=row["split"],
                video=Media(root / "clips" / f"{id}.mp4"),
                files={} if "au" in truth[id]["missing"] else files,
                text=row["text"] or None,
                speaker=row["speaker"],
                dialogue=row["dialogue"],
                turn=int(row["turn"]),
                labels={"emotion": row["emotion"], "valence": float(row["valence"])},
                descriptions=descriptions[id],
                truth=truth[id],
            )
            if row["x0"]:
                sample.boxes["face"] = (float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"]))
            out.append(sample)
    return out
