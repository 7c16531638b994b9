"""MER2023 and MER2024 (MERTools): six emotions, valence for some parts, and the pool of clips without labels.

Data flow: <part>-label.csv or label-6way.npz + transcripts -> rows -> Samples; clips of the part's folder or of video/.

    root/ train-label.csv test1-label.csv ...   or labels.csv (train)   or label-6way.npz
          transcription-engchi-polish.csv | transcription_merge.csv   (name, chinese, english)
          train/ test1/ test2/ test3/   or video/        <name>.avi | <name>.mp4
          audio/<name>.wav   openface_face/<name>/<name>.{csv,npy}   mer_factory/<name>/<name>_au_analysis.json
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.clips import VIDEO
from hero_lightning.datasets.readers import (
    TRANSCRIPTS,
    clean,
    first_existing,
    label_file,
    media_in,
    read_normal_form,
    score_of,
)  # fmt: skip
from hero_lightning.errors import DataError
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.media.face import face_file
from hero_lightning.types import Sample

EMOTIONS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
NORMAL = "label-6way.npz"
POOLS = ("unlabelled", "unlabeled", "test3", "video")
"""Folders of the pool: its own, MER2023's test3 (all of SEMI, of which 834 clips are scored), or all clips."""
FILES = {"au": ("openface_face/{0}/{0}.csv",), "au_info": ("mer_factory/{0}/{0}_au_analysis.json",)}
"""Purpose -> a clip's file in the layouts of MERTools and MER-Factory."""


@dataclass(kw_only=True, eq=False, repr=False)
class Mer2023DataModule(EmotionDataModule):
    """MER2023 (Lian et al. 2023): train, test1 (MULTI), test2 (NOISE), test3 (SEMI); any of them may be missing.

    There is no validation part; a seeded one is cut from train.

    Attributes:
        unlabelled: whether clips without a label become the split `unlabelled` (73 148 in MER2023).
        language: of the transcripts: english or chinese.
    """

    unlabelled: bool = False
    language: str = "english"

    name = "mer2023"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"language": ("english", "chinese")}
    class_orders: ClassVar[Mapping[str, Sequence[str]]] = {"emotion": EMOTIONS}
    official_counts: ClassVar[Mapping[str, int]] = {"train": 3373, "test1": 411, "test2": 412, "test3": 834}

    def samples(self) -> list[Sample]:
        """Labelled clips of all parts found, then the pool if requested; csv files take precedence over the npz."""
        root, parts = Path(self.root), tuple(self.official_counts)
        texts = read_transcripts(root, TRANSCRIPTS, (self.language,))
        clip = {part: clip_maker(root, (part, "video"), texts) for part in parts}
        files = {part: [f"{part}-label.csv"] + ["labels.csv"] * (part == "train") for part in parts}
        label_file(root, [*(name for names in files.values() for name in names), NORMAL], self.name)
        samples = []
        for part in parts:
            path = first_existing(root, files[part])
            for place, row in read_csv(path, ("name", "discrete"), self.name) if path else ():
                labels = {"emotion": row["discrete"].strip(), "valence": score_of(row.get("valence"), place)}
                samples.append(clip[part](row["name"].strip(), part, labels))
        seen, normal = {s.split for s in samples}, root / NORMAL
        for entry in read_normal_form(normal) if normal.is_file() else ():
            if entry.split in set(parts) - seen:
                labels = {"emotion": str(entry.emo), "valence": entry.val}
                samples.append(clip[entry.split](entry.name, entry.split, labels))
        return samples + (self._pool({s.id for s in samples}, texts) if self.unlabelled else [])

    def _pool(self, labelled: set[str], texts: Mapping[str, str]) -> list[Sample]:
        """Every clip that has no label."""
        folder = first_existing(self.root, POOLS)
        files = folder.iterdir() if folder else ()
        names = {p.stem for p in files if p.suffix.lower() in VIDEO and not p.name.startswith(".")} - labelled
        if folder is None or not names:
            expected = f"clips without a label in one of {', '.join(POOLS)}"
            raise self._wrong("There are no unlabelled clips.", expected=expected, hint="dataset.unlabelled=false")
        clip = clip_maker(Path(self.root), (folder.name,), texts)
        return [clip(name, "unlabelled", {}) for name in sorted(names)]


@dataclass(kw_only=True, eq=False, repr=False)
class Mer2024DataModule(Mer2023DataModule):
    """MER2024 (Lian et al. 2024): 5030 labelled clips, test1 (SEMI) and a larger pool; Chinese transcripts."""

    language: str = "chinese"

    name = "mer2024"
    official_counts: ClassVar[Mapping[str, int]] = {"train": 5030, "test1": 1169}


def read_transcripts(root: Path, files: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Clip name -> text, from the first of these files that exists and the first of these columns it has."""
    path = first_existing(root, files)
    rows = [row for _, row in read_csv(path, ("name",), "transcript")] if path else []
    column = next((c for c in columns if rows and c in rows[0]), None)
    if rows and column is None:
        raise DataError("The transcripts lack a column.", expected=" or ".join(columns), got=list(rows[0]), where=path)
    return {row["name"].strip(): text for row in rows if (text := clean(row[str(column)] or ""))}


def clip_maker(root: Path, folders: Sequence[str], texts: Mapping[str, str]) -> Callable[..., Sample]:
    """(name, split, labels, descriptions, text) -> a Sample with the clip's files in MERTools' layout.

    Its video is in the first of `folders` that exists; `texts` serve clips without a text of their own. Labels that are
    None or empty are left out.
    """
    video, sound = media_in(root, folders), media_in(root, ("audio",))

    def clip(
        name: str, split: str, labels: Mapping[str, Any], descriptions: Mapping[str, str] | None = None, text: str = ""
    ) -> Sample:
        files = {k: p for k, places in FILES.items() if (p := first_existing(root, (f.format(name) for f in places)))}
        if face := face_file(root / "openface_face", name):
            files["face"] = face
        given = {k: v for k, v in labels.items() if v not in (None, "", [])}
        described = {k: v for k, v in (descriptions or {}).items() if v}
        words = clean(text) or texts.get(name) or None
        return Sample(name, split, video(name), sound(name), files, text=words, labels=given, descriptions=described)

    return clip
