"""Tells whether stored features were made from what a clip holds today.

Data flow: Sample -> its text, or its file's size and end, span, crop, box -> 8 hex digits, kept beside the features.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hero_lightning.media.action_units import au_info_file
from hero_lightning.types import Media, Sample

END = 4096
"""Bytes read of a file's end: pictures, an index or a table's last rows, which differ between any two recordings."""


@dataclass(frozen=True, slots=True)
class SourceFingerprint:
    """What a modality reads of a clip, in 8 hex digits.

    Attributes:
        modality: its name.
        context_turns: previous turns that the text modality sees.
        peaks_folder: where its sampler looks for peaks besides the sample's own file.
    """

    modality: str
    context_turns: int = 0
    peaks_folder: Path | None = None

    def __call__(self, sample: Sample) -> str | None:
        """The digits; None where the material is not at hand, so that nothing can be said."""
        used: tuple[Any, ...]
        if self.modality == "text":
            turns = sample.turns[-self.context_turns :] if self.context_turns else ()
            used = (sample.text or "", sample.speaker if turns else None, turns)
        elif self.modality == "au":
            there = sample.video is not None and _fingerprint(sample.video.path) is not None
            used = (_fingerprint(sample.files.get("au")) or ("no table" if there else None),)
        else:
            media = (sample.audio or sample.video) if self.modality == "audio" else sample.video
            crops = sample.files.get("face") if self.modality == "face" and "face" not in sample.boxes else None
            media = Media(crops) if crops is not None else media
            used = (
                _fingerprint(media.path if media else None),
                media and (media.span, media.crop, media.part)[: 3 if media.part else 2],
            )
            if self.modality != "audio":  # a sampler may follow the peaks of au_info
                used = (
                    *used,
                    _fingerprint(au_info_file(sample, self.peaks_folder)),
                    sample.boxes.get("face") if self.modality == "face" else 0,
                )
                still = _fingerprint(sample.files.get("peak_frame"))
                used = (*used, still) if still is not None else used
        return None if used[0] is None else f"{zlib.crc32(repr(used).encode()):08x}"


def _fingerprint(path: Path | None) -> str | None:
    """Size and end of a file, names and sizes of a folder, or None where there is none."""
    try:
        stat = os.stat(path) if path is not None else None
    except OSError:
        return None
    return None if path is None or stat is None else _content(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=65536)
def _content(path: Path, changed: int, size: int) -> str:
    if path.is_dir():  # of images
        return f"{[(p.name, p.stat().st_size) for p in sorted(path.iterdir())]}"
    with path.open("rb") as file:
        file.seek(max(size - END, 0))
        return f"{size}-{zlib.crc32(file.read()):08x}"
