"""The feature-only layout: one file of features per clip, labels in one JSON list.

Data flow: labels.json (+ classes.json, splits.json) -> records -> Samples (`to_record` is the inverse).
features/<id>.npy are read by the modalities' sources (NpyDict).

    root/ features/<video_id>.npy   labels.json   classes.json (optional)   splits.json (optional)
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hero_lightning.data.availability import Entry
from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.data.splits import SPLIT_NAMES, check_unique
from hero_lightning.datasets.readers import read_json
from hero_lightning.errors import DataError, cause
from hero_lightning.features.foreign.hero_npy import HERO_KEYS, NpyDict
from hero_lightning.types import Media, Sample, Turn

log = logging.getLogger(__name__)

LABELS = ("emotion", "sentiment", "sentiment_score")
KNOWN_KEYS = {
    *("video_id", "text", "split", "speaker", "dialogue_id", "utterance_id", "caption", "evidence", "rationale"),
    *("source", "video", "audio", "files", "boxes", "turns", "labels", "truth", *LABELS),
}
MODALITY_WORDS: dict[str, str] = {key: modality for modality, key in HERO_KEYS.items()} | {
    "vis_global": "frame",
    "visual": "frame",
    "vis_motion": "motion",
    "transcript": "text",
}
"""Names of our modalities in evidence written for HERO."""
RECORD = (
    '"video": {"path": FILE, "span": [s, s], "crop": [x0, y0, x1, y1]}, "boxes": {"face": [x0, y0, x1, y1]}, '
    '"files": {"au": FILE}, "turns": [[speaker, text]], "labels": {name: value}'
)
CLASSES, SPLITS = '["neutral", "happy", ...]', '{"train": [ids], ...}'
TREE = "features/<video_id>.npy, labels.json [{video_id, emotion, ...}], optional classes.json and splits.json"


@dataclass(kw_only=True, eq=False, repr=False)
class FolderDataModule(EmotionDataModule):
    """A dataset of stored features.

    Classes are in the order of classes.json, else sorted. Splits come from splits.json ({split: [ids]}), else the
    records' `split`, else a seed. The text is the record's `text`, else the feature file's transcript.

    Attributes:
        feature_root: folder of the feature files; None = root/features.
        ann_path: the label file; None = root/labels.json. classes.json and splits.json are beside it.
        transcripts: whether to read the transcript of a record without `text` from its feature file.
    """

    feature_root: Path | str | None = None
    ann_path: Path | str | None = None
    transcripts: bool = True
    test_fraction: float = 0.1

    name = "folder"

    @property
    def labels_file(self) -> Path:
        """The label file."""
        return Path(self.ann_path) if self.ann_path else Path(self.root) / "labels.json"

    @property
    def features(self) -> Path:
        """The folder of feature files."""
        return Path(self.feature_root) if self.feature_root else Path(self.root) / "features"

    def class_order(self, task: str) -> Sequence[str]:
        """The emotions in classes.json."""
        path = self.labels_file.with_name("classes.json")
        if task != "emotion" or not path.is_file():
            return ()
        names = [str(n) for n in read_json(path, CLASSES, list)]
        if len(set(names)) < max(2, len(names)):
            raise DataError("classes.json does not list two or more classes.", expected=CLASSES, got=names, where=path)
        return names

    def samples(self) -> list[Sample]:
        """One sample per record of the label file."""
        path = self.labels_file
        if not path.is_file():
            hint = "paths.data=FOLDER, dataset.root=FOLDER, or dataset.ann_path=FILE"
            raise DataError("The label file is missing.", expected=TREE, got=f"no {path}", where=self.root, hint=hint)
        records = read_json(path, TREE, list)
        places = [f"{path}, record {n}" for n in range(1, len(records) + 1)]
        keys = {*LABELS, *(t.name for t in self.tasks.values())}
        needed = ["video_id", *(["emotion"] if "emotion" in self.tasks else [])]
        samples = [read_record(r, place, keys, needed, path.parent) for r, place in zip(records, places, strict=True)]
        check_unique(zip((s.id for s in samples), places, strict=True))
        if unknown := {k for r in records for k in r} - KNOWN_KEYS - keys:
            log.debug("%s: ignored keys %s", path, sorted(unknown))
        return self._transcribed(self._split(samples, any(r.get("split") for r in records)))

    def _split(self, samples: list[Sample], in_records: bool) -> list[Sample]:
        """Splits from splits.json; samples not listed there are left out and counted."""
        path = self.labels_file.with_name("splits.json")
        if not path.is_file():
            return samples
        lists = read_json(path, SPLITS, dict, list)
        if in_records:
            self._note(f"splits come from {path.name}, not from the records' `split`")
        check_unique((str(i), f"{path}, list {split}") for split, ids in lists.items() for i in ids)
        split_of = {str(i): _split_name(split) for split, ids in lists.items() for i in ids}
        if unknown := split_of.keys() - {s.id for s in samples}:
            self._note(f"{path.name} lists {len(unknown)} ids without a record, e.g. {min(unknown)}")
        left = [s for s in samples if s.id not in split_of]
        self._ledger += [Entry(s.id, "", "", "dropped", f"not in {path.name}") for s in left]
        if left:
            self._note(f"{len(left)} records are not in {path.name} and are left out, e.g. {left[0].id}")
        return [replace(s, split=split_of[s.id]) for s in samples if s.id in split_of]

    def _transcribed(self, samples: list[Sample]) -> list[Sample]:
        """Samples with the transcripts of the feature files where the record has no text."""
        silent = [s for s in samples if s.text is None] if self.transcripts else []
        source = NpyDict(self.features, HERO_KEYS["text"])
        with ThreadPoolExecutor(8) as pool:
            texts = dict(zip((s.id for s in silent), pool.map(source.transcript, silent), strict=True))
        return [replace(s, text=_text(texts[s.id])) if texts.get(s.id) else s for s in samples]


def read_record(
    record: Any,
    place: str,
    label_keys: Collection[str] = LABELS,
    needed: Sequence[str] = ("video_id",),
    root: Path = Path(),
) -> Sample:
    """One record of labels.json as a Sample.

    Args:
        place: file and number, for messages.
        label_keys: keys that are labels, besides those in the record's `labels`.
        needed: required keys.
        root: folder at which relative media paths start.

    Raises:
        DataError: not an object, a key missing, or a value of another form.
    """
    if not isinstance(record, dict):
        expected = '{"video_id": ..., "emotion": ...}'
        raise DataError("A record is not an object.", expected=expected, got=record, where=place)
    for key in needed:
        if key not in record or (key == "video_id" and record[key] in (None, "")):
            got, hint = (
                ", ".join(map(str, record)) or "an empty object",
                'add it; "emotion": null marks an unlabelled clip',
            )
            raise DataError(f"A record lacks {key!r}.", expected=", ".join(needed), got=got, where=place, hint=hint)
    turn = str(record.get("utterance_id", ""))
    try:
        return Sample(
            id=str(record["video_id"]),
            split=_split_name(record.get("split") or "train"),
            video=_media(record.get("video"), root),
            audio=_media(record.get("audio"), root),
            files={str(k): root / v for k, v in (record.get("files") or {}).items()},
            boxes={str(k): _numbers(v, 4) for k, v in (record.get("boxes") or {}).items()},
            text=_text(record.get("text")),
            speaker=_text(record.get("speaker")),
            dialogue=_text(record.get("dialogue_id")),
            turn=int(turn) if turn.isdecimal() else None,
            turns=tuple(Turn(_text(speaker), str(text)) for speaker, text in record.get("turns") or ()),
            labels={k: record[k] for k in label_keys if record.get(k) is not None} | dict(record.get("labels") or {}),
            descriptions=_descriptions(record),
            truth=dict(record.get("truth") or {}),
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        problem, got = "A record has a value of another form.", cause(error)
        raise DataError(problem, expected=RECORD, got=got, where=place) from error


def to_record(s: Sample, turns: bool = False) -> dict[str, Any]:
    """A Sample as a record of labels.json, which `read_record` reads back; media by absolute path.

    `turns` writes its turns even if they follow from its dialogue.
    """
    texts = ("caption", "rationale")
    out = {
        "video_id": s.id,
        "split": s.split,
        **{
            k: m and _filled(asdict(replace(m, path=m.path.absolute())))
            for k, m in (("video", s.video), ("audio", s.audio))
        },
        "files": {k: str(path.absolute()) for k, path in s.files.items() if k != "features"},
        "boxes": s.boxes,
        "text": _text(s.text),
        "speaker": s.speaker,
        "dialogue_id": s.dialogue,
        "utterance_id": s.turn,
        "turns": [[t.speaker, t.text] for t in s.turns] if turns or s.dialogue is None else None,
        **{k: s.labels[k] for k in LABELS if k in s.labels},
        "labels": {k: v for k, v in s.labels.items() if k not in LABELS},
        **{k: s.descriptions[k] for k in texts if k in s.descriptions},
        "evidence": {k: v for k, v in s.descriptions.items() if k not in texts},
        "truth": s.truth,
    }
    return {"emotion": None, **_filled(out)}


def _filled(record: Mapping[str, Any]) -> dict[str, Any]:
    """Without empty values; paths as text."""
    kept = {k: v for k, v in record.items() if v is not None and v is not False and v != {} and v != []}
    return {k: str(v) if isinstance(v, Path) else v for k, v in kept.items()}


def _media(value: Any, root: Path) -> Media | None:
    if value is None:
        return None
    given: dict[str, Any] = {"path": value} if isinstance(value, str) else dict(value)
    for key, count in (("span", 2), ("crop", 4), ("part", 2)):
        if key in given:
            given[key] = _numbers(given[key], count)
    return Media(**{**given, "path": root / given["path"]})


def _numbers(value: Any, count: int) -> Any:
    """`count` numbers as a tuple."""
    if len(value) != count:
        raise ValueError(f"{value}, not {count} numbers")
    return tuple(v if isinstance(v, int) else float(v) for v in value)


def _split_name(name: object) -> str:
    word = str(name).strip().lower()
    return SPLIT_NAMES.get(word, word)


def _text(value: object) -> str | None:
    return str(value).strip() or None if value is not None else None


def _descriptions(record: Mapping[str, Any]) -> dict[str, str]:
    """Caption, rationale and evidence; evidence by modality where it is an object."""
    out = {key: record[key] for key in ("caption", "rationale") if record.get(key)}
    evidence = record.get("evidence") or {}
    if not isinstance(evidence, Mapping):
        evidence = {"evidence": " ".join(map(str, evidence)) if isinstance(evidence, list) else evidence}
    out |= {MODALITY_WORDS.get(str(key), str(key)): text for key, text in evidence.items() if text}
    return {key: str(text) for key, text in out.items()}
