"""Clips without a dataset: the files of a path, folder or pattern as Samples, with their companion files.

Data flow: path | folder | glob -> media files by stem -> Sample (+ text, AU table, AU analysis of the same stem).
"""

from __future__ import annotations

import glob
from pathlib import Path

from hero_lightning.data.splits import check_unique
from hero_lightning.errors import DataError
from hero_lightning.media.stills import IMAGES
from hero_lightning.types import Media, Sample

VIDEO = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
SOUND = (".wav", ".flac", ".mp3", ".m4a", ".ogg")


def find_clips(where: str | Path, split: str = "predict") -> list[Sample]:
    """The clips of a file, a folder or a glob pattern, in order of their names.

    Files of one folder and stem are one clip: `a.mp4` video (and sound), `a.wav` sound, `a.txt` text, `a.csv` AU table,
    `a_au_analysis.json` AU peaks, `a_peak_frame.png` picture of the peak. A folder with images only is one clip.

    Raises:
        DataError: no file, or two clips of one name in different folders.
    """
    path = Path(where)
    if path.is_file():
        files = [path]
    else:
        listed = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(where), recursive=True))
        files = sorted(p for p in listed if p.suffix.lower() in (*VIDEO, *SOUND))
        if not files and path.is_dir() and any(p.suffix.lower() in IMAGES for p in path.iterdir()):
            files = [path]
    if not files:
        expected = f"a clip, a folder of clips or of one clip's pictures, or a pattern ({', '.join((*VIDEO, *SOUND))})"
        raise DataError("There is no such file.", expected=expected, got=where, where="video")
    stems: dict[Path, list[Path]] = {}
    for file in files:
        stems.setdefault(file.with_suffix(""), []).append(file)
    check_unique((stem.name, str(stem)) for stem in stems)
    return [_sample(stem, found, split) for stem, found in stems.items()]


def _sample(stem: Path, found: list[Path], split: str) -> Sample:
    sound = next((Media(p) for p in found if p.suffix.lower() in SOUND), None)
    video = next((Media(p) for p in found if p.suffix.lower() not in SOUND), None)
    endings = {"au": ".csv", "au_info": "_au_analysis.json", "peak_frame": "_peak_frame.png"}
    files = {k: path for k, end in endings.items() if (path := stem.with_name(f"{stem.name}{end}")).is_file()}
    transcript = stem.with_name(f"{stem.name}.txt")
    text = transcript.read_text(encoding="utf-8-sig").strip() or None if transcript.is_file() else None
    return Sample(stem.name, split, video=video, audio=sound, text=text, files=files)
