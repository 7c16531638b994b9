"""CMU-MOSEI and CMU-MOSI (Zadeh et al.): opinion videos of one speaker, scores in [-3, 3], emotions in MOSEI.

Data flow: a table (datasets/mmsa.py), or the SDK's labels .csd with its fold lists -> Samples; raw transcripts and .csd
-> text, spans, emotions -> Samples.

    root/ label.csv | CMU_MOSEI_Labels.csd + cmu_mosei_std_folds.py (also in root/csd/)
    MOSEI Raw/Videos/Full/Combined/VIDEO.mp4        Raw/Transcript/Segmented/Combined/VIDEO.txt
    MOSI  Raw/Video/Segmented/VIDEO_CLIP.mp4        Raw/Transcript/Segmented/VIDEO.annotprocessed

Shapes: N clips or words of a video, D numbers of each.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from hero_lightning.data.availability import Entry
from hero_lightning.datasets.mmsa import MmsaDataModule, Spans
from hero_lightning.datasets.readers import clean, first_existing, label_file, score_of
from hero_lightning.errors import ConfigError, DataError, cause
from hero_lightning.features.foreign.safe_pickle import FREE
from hero_lightning.features.foreign.tables import read_csv
from hero_lightning.media.limits import limit, raised
from hero_lightning.types import Sample

log = logging.getLogger(__name__)

EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
"""Columns 1..6 of CMU_MOSEI_Labels.csd, intensities 0..3, present where > 0; column 0 is the sentiment."""
TOLERANCE = 0.5
"""Largest difference in seconds between the starts of a clip in the .csd and in the transcript."""
PLACES = ("", "csd/", "Raw/")
"""Folders of .csd and fold files below root."""
MOSEI_LINE = re.compile(r"(?P<video>.+?)___(?P<clip>\d+)___(?P<start>[\d.]+)___(?P<end>[\d.]+)___(?P<text>.*)")
MOSI_LINE = re.compile(r"(?P<clip>\d+)_DELIM_(?P<text>.*)")
FOLD = re.compile(r"standard_(train|valid|test)_fold\s*=\s*(\[.*?\])", re.DOTALL)


class Track(NamedTuple):
    """One video of a computational sequence (.csd): spans [N, 2] in seconds, values [N, D] numbers or words."""

    spans: np.ndarray
    values: np.ndarray


@dataclass(kw_only=True, eq=False, repr=False)
class MoseiDataModule(MmsaDataModule):
    """CMU-MOSEI: 22 856 clips in the field's selection, sentiment and six emotions.

    Only CMU_MOSEI_Labels.csd has emotions; beside another table they are matched by the spans of the transcripts.

    Attributes:
        labels_csd: the SDK's labels; names of its words and folds start with the dataset's name.
        fold_counts: official number of videos by split.
        transcripts, line: folder of raw transcripts, and the form of their lines.
        emotional: whether the .csd has emotions.
    """

    name = "cmu_mosei"
    official_counts: ClassVar[Mapping[str, int]] = {"train": 16326, "val": 1871, "test": 4659}
    tables: ClassVar[tuple[str, ...]] = (*MmsaDataModule.tables, *(p + "CMU_MOSEI_Labels.csd" for p in PLACES))
    clips: ClassVar[tuple[str, ...]] = ("Raw/Videos/Full/Combined/{video}.mp4", "Raw/{video}/{clip}.mp4")
    sounds: ClassVar[tuple[str, ...]] = ("Raw/Audio/Full/WAV_16000/{video}.wav",)
    labels_csd: ClassVar[str] = "CMU_MOSEI_Labels.csd"
    fold_counts: ClassVar[Mapping[str, int]] = {"train": 2249, "val": 300, "test": 678}
    transcripts: ClassVar[str] = "Raw/Transcript/Segmented/Combined"
    line: ClassVar[re.Pattern[str]] = MOSEI_LINE
    emotional: ClassVar[bool] = True

    def spans(self) -> Spans:
        """Spans of the transcripts, or of the .csd."""
        return {i: span for i, (span, _) in self._transcript.items() if span is not None}

    def read(self, path: Path) -> list[Sample]:
        """Samples of a label file, with texts and emotions of the raw files."""
        if path.suffix == ".csd":
            return list(self._from_csd(read_csd(path)))
        csd = self._file(self.labels_csd) if self.emotional else None
        tracks = read_csd(csd) if csd else {}
        samples = super().read(path)
        for s in samples:
            (span, text), track = self._transcript.get(s.id, (None, None)), tracks.get(str(s.dialogue))
            s.text = s.text or text
            if span and track and (near := _nearest(track.spans[:, 0], span[0])) is not None:
                s.labels["emotions"] = _intensities(track.values[near])
        if csd:
            log.info("%s: emotions for %d of %d", csd.name, sum("emotions" in s.labels for s in samples), len(samples))
        return samples

    def _file(self, name: str) -> Path | None:
        return first_existing(self.root, [place + name for place in PLACES])

    @cached_property
    def _transcript(self) -> dict[str, tuple[tuple[float, float] | None, str | None]]:
        """Sample id -> span in seconds, where given, and text of the raw transcripts."""
        out = {}
        for path in sorted((Path(self.root) / self.transcripts).glob("[!.]*")):  # not macOS' ._ files
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if found := self.line.fullmatch(line.strip()):
                    cells = found.groupdict()
                    span = (float(cells["start"]), float(cells["end"])) if "start" in cells else None
                    out[f"{cells.get('video', path.stem)}_{cells['clip']}"] = span, clean(cells["text"]) or None
        return out

    def _from_csd(self, labels: Mapping[str, Track]) -> Iterator[Sample]:
        """One Sample per labelled interval; clip numbers are those of the transcripts, else the order in the file."""
        split_of, words = self._folds(), self._file(f"{self.name.upper()}_TimestampedWords.csd")
        spoken = read_csd(words) if words else {}
        numbers: dict[str, list[tuple[float, str]]] = {}
        for name, (span, _) in self._transcript.items():
            video, _, clip = name.rpartition("_")
            if span is not None:
                numbers.setdefault(video, []).append((span[0], clip))
        for video, track in labels.items():
            if split_of and video not in split_of:
                self._ledger.append(Entry(video, "", "", "dropped", "the video is in no fold"))
                continue
            known = numbers.get(video, [])
            for n, ((start, end), value) in enumerate(zip(track.spans.tolist(), track.values, strict=True)):
                near = _nearest(np.array([at for at, _ in known]), start)
                clip = known.pop(near)[1] if near is not None else str(n) if video not in numbers else f"csd{n}"
                s = self.sample(video, clip, split_of.get(video, "train"), None, float(np.clip(value[0], -3, 3)))
                s.text = self._transcript.get(s.id, (None, None))[1]
                s.text = s.text or (_between(spoken[video], start, end) if video in spoken else None)
                s.labels |= {"emotions": _intensities(value)} if self.emotional else {}
                self._transcript[s.id] = (start, end), s.text
                yield s

    def _folds(self) -> dict[str, str]:
        """Video -> split by the SDK's fold lists; empty where there are none."""
        path = self._file(folds := f"{self.name}_std_folds.py")
        if path is None:
            self._note(f"no {folds} beside {self.labels_csd}: every video is train, a seed chooses validation")
            return {}
        lists = {name: ast.literal_eval(ids) for name, ids in FOLD.findall(path.read_text(encoding="utf-8"))}
        if set(lists) != {"train", "valid", "test"}:
            expected = "standard_{train,valid,test}_fold = [...]"
            raise DataError("The fold file lacks a list.", expected=expected, got=sorted(lists), where=path)
        for split, official in self.fold_counts.items():
            count = len(lists["valid" if split == "val" else split])
            self._compare_count(f"{path.name} lists", count, f"{split} videos", official)
        return {str(video): split for split, ids in lists.items() for video in ids}


@dataclass(kw_only=True, eq=False, repr=False)
class MosiDataModule(MoseiDataModule):
    """CMU-MOSI: 2199 clips of 93 videos, sentiment.

    Attributes:
        split: standard, or bclstm: 62 train and 31 test videos (Poria et al. 2017), from the labels.csv beside the
            bc-LSTM features. These leak on the standard split: they were trained on 558 of its 686 test clips.
    """

    split: str = "standard"

    name = "cmu_mosi"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"split": ("standard", "bclstm")}
    official_counts: ClassVar[Mapping[str, int]] = {"train": 1284, "val": 229, "test": 686}
    tables: ClassVar[tuple[str, ...]] = (
        "labels.csv", *MmsaDataModule.tables, *(p + "CMU_MOSI_Opinion_Labels.csd" for p in PLACES),
    )  # fmt: skip
    clips: ClassVar[tuple[str, ...]] = ("Raw/Video/Segmented/{video}_{clip}.mp4", "Raw/{video}/{clip}.mp4")
    sounds: ClassVar[tuple[str, ...]] = ("Raw/Audio/WAV_16000/Segmented/{video}_{clip}.wav",)
    labels_csd: ClassVar[str] = "CMU_MOSI_Opinion_Labels.csd"
    fold_counts: ClassVar[Mapping[str, int]] = {"train": 52, "val": 10, "test": 31}
    transcripts: ClassVar[str] = "Raw/Transcript/Segmented"
    line: ClassVar[re.Pattern[str]] = MOSI_LINE
    emotional: ClassVar[bool] = False

    def official(self) -> Mapping[str, int]:
        """Counts of the split in use."""
        return {"train": 1447, "test": 752} if self.split == "bclstm" else self.official_counts

    def read(self, path: Path) -> list[Sample]:
        """Samples of labels.csv, which has both splits, else those of MoseiDataModule."""
        if self.split == "bclstm":
            path = label_file(self.root, ("labels.csv",), self.name)
        if path.name != "labels.csv":
            return super().read(path)
        column = f"split_{self.split}"
        return [
            self.sample(c["video"], c["name"].rpartition("_")[2], c[column], c["text"], score_of(c["sentiment"], place))
            for place, c in read_csv(path, ("name", "video", "sentiment", "text", column), self.name)
        ]


def read_csd(path: Path) -> dict[str, Track]:
    """Every video of a computational sequence of the CMU SDK (HDF5: NAME/data/VIDEO/{features,intervals}).

    Raises:
        ConfigError: h5py is not installed. DataError: a file of another form, or one that refers to other
            files of the machine.
    """
    try:
        import h5py
    except ImportError as error:
        hint = "pip install 'hero-lightning[datasets]'"
        raise ConfigError("Reading .csd files needs h5py.", got=cause(error), where=path, hint=hint) from error
    try:
        with h5py.File(path, "r") as file:
            (name,) = file.keys()
            data = _own(_own(file, name, path), "data", path)
            videos = {str(v): _own(data, v, path) for v in data}
            arrays = {v: [_own(video, part, path) for part in ("intervals", "features")] for v, video in videos.items()}
            grown, size = sum(array.nbytes for pair in arrays.values() for array in pair), path.stat().st_size
            if grown > max(limit("growth") * size, FREE):
                expected, hint = (
                    f"at most {limit('growth'):g} times its {size} bytes",
                    f"{raised('growth')} if it is yours",
                )
                got, problem = f"{grown} bytes", "The .csd is much larger when it is decompressed."
                raise DataError(problem, expected=expected, got=got, where=path, hint=hint)
            return {v: Track(*map(np.asarray, pair)) for v, pair in arrays.items()}
    except (OSError, KeyError, ValueError, AttributeError) as error:
        expected, hint = "NAME/data/VIDEO/{features,intervals}", "download it again"
        raise DataError(
            "The .csd cannot be read.", expected=expected, got=cause(error), where=path, hint=hint
        ) from error


def _own(group: Any, name: str, path: Path) -> Any:
    """A member of a group that lies in the file itself: HDF5 can also read any other file under its name."""
    import h5py

    link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
    if link is None:
        raise KeyError(name)
    found = group[name] if isinstance(link, h5py.HardLink) else link
    stored = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
    if found is link or stored:
        got = f"{'external storage' if stored else type(link).__name__} at {group.name}/{name}"
        expected, problem = "groups and arrays in the file itself", "The .csd refers to something outside itself."
        raise DataError(problem, expected=expected, got=got, where=path)
    return found


def _nearest(starts: np.ndarray, start: float) -> int | None:
    """Index of the start nearest to this one, within TOLERANCE."""
    gaps = np.abs(starts - start)
    return int(gaps.argmin()) if gaps.size and gaps.min() <= TOLERANCE else None


def _intensities(value: np.ndarray) -> dict[str, float]:
    """[7] sentiment and emotions -> the emotions that are present."""
    return {name: float(v) for name, v in zip(EMOTIONS, value[1:], strict=True) if v > 0}


def _between(words: Track, start: float, end: float) -> str:
    """Words whose middle lies between two times; `sp` marks a pause."""
    middle = words.spans.mean(axis=1)
    inside = words.values[(middle >= start) & (middle < end)].reshape(-1).tolist()
    texts = (w.decode("utf-8", errors="replace") if isinstance(w, bytes) else str(w) for w in inside)
    return " ".join(w for w in texts if w != "sp")
