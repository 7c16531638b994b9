"""The demo dataset: drawn talking people, generated on first use, with known ground truth.

Data flow: generate (once) -> labels.csv, descriptions.json, truth.json, clips/, au/ -> Samples.

    root/ demo.json labels.csv descriptions.json truth.json
          clips/<id>.mp4   au/<id>.csv   au/<id>_au_info.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.demo.generate import COLUMNS, VERSION, generate
from hero_lightning.datasets.demo.traits import EMOTIONS
from hero_lightning.datasets.readers import read_json
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.types import Media, Sample


@dataclass(kw_only=True, eq=False, repr=False)
class DemoDataModule(EmotionDataModule):
    """MP4 files of drawn talking people; the ground truth says which modalities carry each clip's emotion.

    Attributes:
        clips: number of clips in all splits.
        dataset_seed: seed of the dataset.

    Every seed and size has a folder and stored features of its own, so that a running job's files are never replaced.
    """

    clips: int = 900
    dataset_seed: int = 0

    name = "demo"
    class_orders: ClassVar[Mapping[str, Sequence[str]]] = {"emotion": EMOTIONS}
    ranges: ClassVar[Mapping[str, str]] = {"clips": "[24, inf)", "dataset_seed": "[0, inf)"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.clips, self.dataset_seed) != (900, 0):
            self.name = f"demo-clips{self.clips}-seed{self.dataset_seed}"

    @property
    def folder(self) -> Path:
        """Where its files lie, below `root`."""
        return Path(self.root) / f"clips{self.clips}-seed{self.dataset_seed}-v{VERSION}"

    def samples(self) -> list[Sample]:
        """Generates the dataset where it is missing, and reads it."""
        generate(self.folder, self.dataset_seed, self.clips)
        return read_demo(self.folder)


def read_demo(root: Path) -> list[Sample]:
    """Samples of a generated dataset, in its order.

    Labels are `emotion` (a class) and `valence` (-1..1). A modality that the truth calls missing has no sound track, AU
    files, face box or text.
    """
    descriptions, truth = (read_json(root / name) for name in ("descriptions.json", "truth.json"))
    out = []
    for _, row in read_csv(root / "labels.csv", COLUMNS):
        id = row["id"]
        files = {"au": root / "au" / f"{id}.csv", "au_info": root / "au" / f"{id}_au_info.json"}
        box = tuple(float(row[c]) for c in ("x0", "y0", "x1", "y1") if row[c])
        sample = Sample(
            id=id,
            split=row["split"],
            video=Media(root / "clips" / f"{id}.mp4"),
            files={} if "au" in truth[id]["missing"] else files,
            boxes={"face": box} if box else {},  # type: ignore[dict-item]  # four numbers
            text=row["text"] or None,
            speaker=row["speaker"],
            dialogue=row["dialogue"],
            turn=int(row["turn"]),
            labels={"emotion": row["emotion"], "valence": float(row["valence"])},
            descriptions=descriptions[id],
            truth=truth[id],
        )
        out.append(sample)
    return out
