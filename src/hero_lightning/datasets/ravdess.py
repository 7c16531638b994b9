"""RAVDESS (Livingstone & Russo 2018): 24 actors speak two sentences in eight emotions; labels are in file names.

Data flow: names MM-CC-EE-II-SS-RR-AA of files below root -> one Sample per performance, its sound and its picture.

    root/ Actor_01/03-01-05-02-01-01-01.wav (sound)  01-01-05-02-01-01-01.mp4 (both)  02-... (picture), or flat

Codes: MM 01 both, 02 picture, 03 sound; CC 01 speech, 02 song; EE emotion; II 01 normal, 02 strong; SS statement;
RR repetition; AA actor, odd = male. Ids are those of the sound files (03-...), whichever files exist.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.readers import label_file
from hero_lightning.types import Media, Sample

log = logging.getLogger(__name__)

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
"""Actors of the five test parts (Luna-Jimenez et al. 2021)."""
NAME = re.compile(r"(0[123])-((0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-([01]\d|2[0-4]))")
PER_ACTOR = 60
"""Speech clips of an actor: 7 emotions x 2 intensities x 2 statements x 2 repetitions, and 4 neutral ones."""
SOUNDS = (".wav", ".flac")


@dataclass(kw_only=True, eq=False, repr=False)
class RavdessDataModule(EmotionDataModule):
    """The speech part of RAVDESS with one fold of actors as test; validation is a seeded share of whole actors.

    Attributes:
        fold: 0 to 4, the test part of FOLDS; published metrics are means over the five.
    """

    fold: int = 0

    name = "ravdess"
    choices: ClassVar[Mapping[str, Sequence[int]]] = {"fold": range(len(FOLDS))}
    class_orders: ClassVar[Mapping[str, tuple[str, ...]]] = {"emotion": EMOTIONS, "intensity": ("normal", "strong")}
    apart: ClassVar[tuple[str, ...]] = ("speaker",)

    def official(self) -> Mapping[str, int]:
        """60 clips per actor."""
        test = PER_ACTOR * len(FOLDS[self.fold])
        return {"train": 24 * PER_ACTOR - test, "test": test}

    def samples(self) -> list[Sample]:
        """One Sample per performance that has a file; all 1440 if root has only feature tables."""
        if not Path(self.root).is_dir():
            label_file(self.root, ("Actor_01/03-01-01-01-01-01-01.wav",), self.name)
        files: dict[str, dict[str, Path]] = {}
        for path in sorted(Path(self.root).rglob("0?-01-*")):
            if (found := NAME.fullmatch(path.stem)) and path.suffix in (*SOUNDS, ".mp4"):
                files.setdefault(found[2], {})[found[1]] = path
        if not files:
            log.info("no clip below %s: all 1440 performances, for stored features", self.root)
            files = {"-".join(codes): {} for codes in _performances()}
        return [self._sample(name, found) for name, found in sorted(files.items())]

    def _sample(self, name: str, files: Mapping[str, Path]) -> Sample:
        _, emotion, intensity, statement, _, actor = map(int, name.split("-"))
        picture, sound = files.get("01") or files.get("02"), files.get("03")
        return Sample(
            id=f"03-{name}",
            split="test" if actor in FOLDS[self.fold] else "train",
            video=Media(picture) if picture else None,
            audio=Media(sound) if sound else None,
            text=STATEMENTS[statement - 1],
            speaker=f"Actor_{actor:02d}",
            labels={"emotion": EMOTIONS[emotion - 1], "intensity": ("normal", "strong")[intensity - 1]},
        )


def _performances() -> list[tuple[str, ...]]:
    """Codes of the 1440 speech performances; neutral has no strong version."""
    two, actors = ("01", "02"), [f"{a:02d}" for a in range(1, 25)]
    emotions = [f"{e:02d}" for e in range(1, 9)]
    return [p for p in product(("01",), emotions, two, two, two, actors) if p[1:3] != ("01", "02")]
