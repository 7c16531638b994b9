"""Clips without a dataset: the files of a path, folder or pattern as Samples, with their companion files.

Data flow: path | folder | glob -> media files by stem -> Sample (+ text, AU table, AU analysis of the same stem).
"""

from __future__ import annotations

import glob
from dataclasses import replace
from pathlib import Path
from typing import Any

from hero_lightning.data.splits import check_unique
from hero_lightning.errors import ConfigError, DataError, one_of
from hero_lightning.media.stills import IMAGES
from hero_lightning.types import Media, Sample

VIDEO = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
SOUND = (".wav", ".flac", ".mp3", ".m4a", ".ogg")
COLUMNS = ("id", "video", "audio", "text", "au")
"""Columns of a table of clips: id (default: stem of the file), files, and words."""


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


def named_clips(where: str | Path, text: str | None = None, au: str | Path | None = None) -> list[Sample]:
    """The clips of a file, folder or pattern; words and AU table of one clip."""
    samples = find_clips(where)
    if (text or au) and len(samples) > 1:
        expected = "one clip; of many, <clip>.txt and <clip>.csv beside each are read"
        raise ConfigError("text and au are of one clip.", expected=expected, got=len(samples), where="text")
    if text or au:
        files = samples[0].files | ({"au": Path(au)} if au else {})
        samples = [replace(samples[0], text=text or samples[0].text, files=files)]
    return samples


def table_clips(table: Any) -> list[Sample]:
    """The clips of a pandas DataFrame with columns of COLUMNS; an empty cell has nothing."""
    for name in table.columns:
        one_of("column of a table of clips", name, COLUMNS, DataError)
    samples = []
    for place, row in enumerate(table.astype(object).where(table.notna(), None).to_dict("records")):
        video, audio = ((Path(row[k]) if row.get(k) else None) for k in ("video", "audio"))
        file = video or audio
        id = str(row.get("id") or (file.stem if file else place))
        files = {"au": Path(row["au"])} if row.get("au") else {}
        picture, sound = (Media(path) if path else None for path in (video, audio))
        samples.append(Sample(id, "predict", picture, sound, files=files, text=row.get("text")))
    check_unique((s.id, f"row {n}") for n, s in enumerate(samples))
    return samples


def _sample(stem: Path, found: list[Path], split: str) -> Sample:
    sound = next((Media(p) for p in found if p.suffix.lower() in SOUND), None)
    video = next((Media(p) for p in found if p.suffix.lower() not in SOUND), None)
    endings = {"au": ".csv", "au_info": "_au_analysis.json", "peak_frame": "_peak_frame.png"}
    files = {k: path for k, end in endings.items() if (path := stem.with_name(f"{stem.name}{end}")).is_file()}
    transcript = stem.with_name(f"{stem.name}.txt")
    text = transcript.read_text(encoding="utf-8-sig").strip() or None if transcript.is_file() else None
    return Sample(stem.name, split, video=video, audio=sound, text=text, files=files)
