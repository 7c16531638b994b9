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

from hero_lightning.data.types import Sample

END = 4096
"""Bytes read of a file's end: pictures, an index or a table's last rows, which differ between any two recordings."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a stream reads of a clip, in 8 hex digits.

    Attributes:
        stream: its name.
        context_turns: previous turns that the text stream sees.
    """

    stream: str
    context_turns: int = 0

    def __call__(self, sample: Sample) -> str | None:
        """The digits; None where the material is not at hand, so that nothing can be said."""
        used: tuple[Any, ...]
        if self.stream == "text":
            turns = sample.turns[-self.context_turns :] if self.context_turns else ()
            used = (sample.text or "", sample.speaker if turns else None, turns)
        elif self.stream == "au":
            there = sample.video is not None and _print(sample.video.path) is not None
            used = (_print(sample.files.get("au")) or ("no table" if there else None),)
        else:
            media = (sample.audio or sample.video) if self.stream == "audio" else sample.video
            used = (_print(media.path if media else None), media and (media.span, media.crop))
            if self.stream != "audio":  # a sampler may follow the peaks of au_info
                used = (
                    *used,
                    _print(sample.files.get("au_info")),
                    sample.boxes.get("face") if self.stream == "face" else 0,
                )
        return None if used[0] is None else f"{zlib.crc32(repr(used).encode()):08x}"


def _print(path: Path | None) -> str | None:
    """Size and end of a file, or None where there is no file."""
    try:
        stat = os.stat(path) if path is not None else None
    except OSError:
        return None
    return None if path is None or stat is None else _content(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=65536)
def _content(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        file.seek(max(size - END, 0))
        return f"{size}-{zlib.crc32(file.read()):08x}"
