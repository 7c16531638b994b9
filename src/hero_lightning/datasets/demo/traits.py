"""How each emotion looks, moves, sounds and speaks in the demo dataset.

Data flow: traits.json -> TRAITS[emotion], read by truth (valence), picture, voice, generate (units) and words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Face:
    """A facial expression; 0 is neutral, 1 the full change."""

    smile: float = 0.0  # mouth corners up (down where negative)
    wide: float = 0.0  # mouth width
    gape: float = 0.0  # mouth opening
    raised: float = 0.0  # brows up
    frown: float = 0.0  # inner ends of the brows down (up where negative)
    eyes: float = 0.0  # eye opening


@dataclass(frozen=True)
class Voice:
    """A manner of speaking, relative to the speaker's neutral voice."""

    pitch: float = 1.0  # factor on the fundamental frequency
    glide: float = -1.0  # semitones from the start to the end of a syllable
    level: float = 0.0  # dB
    tilt: float = -6.0  # dB per octave above 500 Hz; more is brighter
    length: float = 1.0  # factor on a syllable's length
    tremor: float = 0.0  # semitones of an 8 Hz vibrato
    breath: float = 0.03  # share of breath noise


@dataclass(frozen=True)
class Traits:
    """One emotion.

    Attributes:
        valence: score at full intensity, -1..1.
        scene: place [x, y], shape and colour of the object on the wall; None = no object.
        hands: stroke [x, y] of the hand at the left and at the right of the picture, and how much both tremble.
        units: action unit (OpenFace column) -> intensity at its peak, after the usual FACS tables.
        words: what a text about it contains.
        seen: modality -> what an observer writes.
    """

    valence: float
    scene: Sequence[Any] | None
    face: Face
    hands: Sequence[Any]
    units: Mapping[str, float]
    voice: Voice
    words: Sequence[str]
    seen: Mapping[str, str]


WORDING: Any = json.loads(Path(__file__).with_name("traits.json").read_text(encoding="utf-8"))
"""The rest of the table: names (of modalities), unreadable (modality -> what an observer writes), topics, phrases."""
TRAITS = {
    emotion: Traits(**{**row, "face": Face(**row["face"]), "voice": Voice(**row["voice"])})
    for emotion, row in WORDING.pop("emotions").items()
}
EMOTIONS = tuple(TRAITS)
