"""Sentiment datasets in the form of MMSA (Yu et al.): label.csv, feature pickles, or MERTools' label.npz.

Data flow: label.csv | label.npz | unaligned_50.pkl -> Samples -> Samples with media files.

    root/ label.csv (video_id, clip_id, text, label, label_T, label_A, label_V, annotation, mode)   Raw/VIDEO/CLIP.mp4
    or    label.npz transcription-engchi-polish.csv   subvideo/VIDEO_CLIP.mp4   subaudio/
    or    Processed/unaligned_50.pkl {train, valid, test} -> {id "VIDEO$_$CLIP", raw_text, regression_labels, ...}
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.data.splits import SPLIT_NAMES
from hero_lightning.datasets.readers import clean, first_existing, label_file, media_in, read_normal_form, score_of
from hero_lightning.errors import DataError
from hero_lightning.features.foreign.safe_pickle import load_features
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.types import Media, Sample

log = logging.getLogger(__name__)

NAMES = ("video_id", "clip_id", "text")
"""Columns of every table; tables of labelled clips also have label and mode."""
SIDES = {"label_T": "sentiment_score_text", "label_A": "sentiment_score_audio", "label_V": "sentiment_score_vision"}
"""Scores from text, sound or picture alone (CH-SIMS)."""
SIGNS = ("neutral", "positive", "negative")
"""Sentiment by the sign of the score: 0, 1, -1."""
NORMAL = "label.npz"
PICKLES = tuple(f"{place}{kind}aligned_50.pkl" for kind in ("un", "") for place in ("Processed/", ""))
"""MMSA's feature files, which contain the labels; large, so used only where there is no table."""
Spans = Mapping[str, tuple[float, float]]
"""Sample id -> start and end in seconds inside the whole video."""


@dataclass(kw_only=True, eq=False, repr=False)
class MmsaDataModule(EmotionDataModule):
    """Base of CMU-MOSEI, CMU-MOSI, CH-SIMS and CH-SIMS v2.

    Labels: sentiment_score, and sentiment (its sign as negative, neutral, positive). Ids are video_clip; the clips of a
    video are a dialogue, in order. Clips without a score are the split `unlabelled`.

    Attributes:
        tables: label files below root; the first that exists is read.
        pools: the same for clips without labels.
        clips: patterns of video files below root: one per clip, or, without {clip}, whole videos that need a span.
        sounds: the same for separate sound files.
        clip_digits: digits of a clip's number in ids and file names, where tables lost leading zeros.
        language: of MERTools' transcripts.
    """

    name = "mmsa"
    class_orders: ClassVar[Mapping[str, Sequence[str]]] = {"sentiment": ("negative", "neutral", "positive")}
    tables: ClassVar[tuple[str, ...]] = ("label.csv", "meta.csv", NORMAL, *PICKLES)
    pools: ClassVar[tuple[str, ...]] = ()
    clips: ClassVar[tuple[str, ...]] = ("Raw/{video}/{clip}.mp4",)
    sounds: ClassVar[tuple[str, ...]] = ()
    clip_digits: ClassVar[int] = 0
    group: ClassVar[str] = "video"
    language: ClassVar[str] = "english"

    def samples(self) -> list[Sample]:
        """One Sample per row of the label file and of the pool, with media files if a folder of `clips` exists."""
        samples = self.read(label_file(self.root, self.tables, self.name))
        if pool := first_existing(self.root, self.pools):
            samples += self.read(pool)
        spans = self.spans()
        video, sound = self._finder(self.clips, spans, "video"), self._finder(self.sounds, spans, "audio")
        return [replace(s, video=video(s), audio=sound(s)) for s in samples]

    def read(self, path: Path) -> list[Sample]:
        """Samples without media from a label file; its suffix decides the form."""
        forms = {".npz": self._from_normal, ".pkl": self._from_pickle}
        return list(forms.get(path.suffix, self._from_csv)(path))

    def spans(self) -> Spans:
        """Spans of the clips inside whole videos, if the dataset gives them."""
        return {}

    def sample(self, video: str, clip: str, split: str, text: str | None, score: float | None) -> Sample:
        """A Sample without media; score None = unlabelled."""
        clip, split = clip.zfill(self.clip_digits), SPLIT_NAMES.get(split.lower(), split.lower())
        return Sample(
            id=f"{video}_{clip}",
            split="unlabelled" if score is None else split,
            text=clean(text or "") or None,
            dialogue=video,
            turn=int(clip) if clip.isdecimal() else None,
            labels={} if score is None else {"sentiment_score": score, "sentiment": SIGNS[(score > 0) - (score < 0)]},
        )

    def _from_csv(self, path: Path) -> Iterator[Sample]:
        columns = NAMES if path == first_existing(self.root, self.pools) else (*NAMES, "label", "mode")
        for place, cells in read_csv(path, columns, self.name):
            video, clip, text = (cells[c].strip() for c in NAMES)
            s = self.sample(video, clip, cells.get("mode") or "", text, score_of(cells.get("label"), place))
            sides = {name: score_of(cells.get(key), place) for key, name in SIDES.items()}
            s.labels |= {name: score for name, score in sides.items() if score is not None}
            yield s

    def _from_normal(self, path: Path) -> Iterator[Sample]:
        for found in read_normal_form(path):
            video, _, clip = found.name.rpartition("_")
            yield self.sample(video, clip, found.split, found.texts.get(self.language), found.val)

    def _from_pickle(self, path: Path) -> Iterator[Sample]:
        keys = ("id", "raw_text", "regression_labels")
        for split, part in load_features(path).items():
            if missing := [k for k in keys if not isinstance(part, dict) or k not in part]:
                expected, got = "{train, valid, test} of dicts with " + ", ".join(keys), f"{split} without {missing}"
                raise DataError("The pickle has another form than MMSA's.", expected=expected, got=got, where=path)
            for name, text, score in zip(*(part[k] for k in keys), strict=True):
                video, _, clip = str(name).partition("$_$")
                yield self.sample(video, clip, split, str(text), float(score))

    def _finder(self, templates: Sequence[str], spans: Spans, kind: str) -> Callable[[Sample], Media | None]:
        """Sample -> its file by the first pattern that exists, else the first whose folder exists, else MERTools'."""
        usable = [t for t in templates if (Path(self.root) / t.split("{")[0]).is_dir()]
        log.info("%s %s: %s", self.name, kind, ", ".join(usable) or f"sub{kind}, if it exists")
        mertools = media_in(self.root, (f"sub{kind}", f"sub{kind}_new", kind, f"{kind}_new"))

        def media(s: Sample) -> Media | None:
            video, _, clip = s.id.rpartition("_")
            paths = [(t, Path(self.root) / t.format(video=video, clip=clip)) for t in usable]
            template, path = next((found for found in paths if found[1].is_file()), paths[0])
            span = None if "{clip}" in template else spans.get(s.id)
            return Media(path, span) if span or "{clip}" in template else None

        return media if usable else lambda s: mertools(s.id)
