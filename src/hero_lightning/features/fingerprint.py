"""Fingerprint of the files a modality reads of a clip: tells whether stored features belong to the present files.

Data flow: Sample -> its text, or size and end of its file, span, crop, box -> 8 hex digits, stored with the features.
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
"""Bytes read at the end of a file: pictures, an index or the last rows of a table, which differ between recordings."""


@dataclass(frozen=True, slots=True)
class SourceFingerprint:
    """Fingerprint of everything a modality reads of a clip, as 8 hex digits.

    Attributes:
        modality: its name.
        context_turns: number of previous turns for the text modality.
        peaks_folder: where its sampler looks for peaks besides the sample's own file.
    """

    modality: str
    context_turns: int = 0
    peaks_folder: Path | None = None

    def __call__(self, sample: Sample) -> str | None:
        """The digits; None if the files are not on this machine and nothing can be compared."""
        used: list[Any]
        if self.modality == "text":
            turns = sample.turns[-self.context_turns :] if self.context_turns else ()
            used = [sample.text or "", sample.speaker if turns else None, turns]
        elif self.modality == "au":
            video = sample.video is not None and _file(sample.video.path) is not None
            used = [_file(sample.files.get("au")) or ("no table" if video else None)]
        else:
            media = (sample.audio or sample.video) if self.modality == "audio" else sample.video
            crops = sample.files.get("face") if self.modality == "face" and "face" not in sample.boxes else None
            media = Media(crops) if crops is not None else media
            used = [_file(media.path if media else None)]
            used += [media and (media.span, media.crop, media.part)[: 3 if media.part else 2]]
            if self.modality != "audio":  # samplers may read au_info
                used += [_file(au_info_file(sample, self.peaks_folder))]
                used += [sample.boxes.get("face") if self.modality == "face" else 0]
                still = _file(sample.files.get("peak_frame"))
                used += [still] if still is not None else []
        return None if used[0] is None else f"{zlib.crc32(repr(tuple(used)).encode()):08x}"


def _file(path: Path | None) -> str | None:
    """Size and end of a file, names and sizes of a folder, or None if there is none (or a device, or a pipe)."""
    if path is None or not (os.path.isfile(path) or os.path.isdir(path)):  # no error for any path
        return None
    stat = path.stat()
    return _content(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=65536)
def _content(path: Path, changed: int, size: int) -> str:
    if path.is_dir():  # of images
        return f"{[(p.name, p.stat().st_size) for p in sorted(path.iterdir())]}"
    with path.open("rb") as file:
        file.seek(max(size - END, 0))
        return f"{size}-{zlib.crc32(file.read(END)):08x}"
