"""Writes any dataset in the feature-only layout, and checks such a folder.

Data flow: datamodule -> samples, stored features -> features/<id>.npy, labels.json, classes.json, splits.json, which
are read back and compared. Folder -> check_folder -> Faults.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hero_lightning.data.datamodule import EmotionDataModule
from hero_lightning.datasets.folder import CLASSES, SPLITS, TREE, read_record, to_record
from hero_lightning.datasets.readers import read_json
from hero_lightning.errors import DataError, FeatureError
from hero_lightning.features.foreign.array_source import sequence
from hero_lightning.features.foreign.hero_npy import HERO_KEYS, write_npydict
from hero_lightning.features.foreign.safe_pickle import SUFFIXES, load_features
from hero_lightning.types import Sample, file_name, link_dialogues

log = logging.getLogger(__name__)

SUFFIXED = ("_time", "_measures")
"""Companions of a key: <key>_time [T] seconds, <key>_measures {name: number}."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a feature folder; `id` is the clip, or the file where it concerns no single clip."""

    id: str
    problem: str
    hint: str


def write_folder(datamodule: EmotionDataModule, out: Path, features: bool = True) -> Counter[str]:
    """Writes a dataset with its stored features in the feature-only layout.

    Args:
        datamodule: after `prepare_data`, so that modalities in mode auto are stored.
        out: a new or empty folder.
        features: False = labels.json and the lists only, into a folder without a labels.json; no modality is read.

    Returns:
        Number of clips by modality.

    Raises:
        DataError: the folder is in use, or a sample does not read back equal.
    """
    records, written = [], Counter(dict.fromkeys(datamodule.modalities, 0))
    for s, record, content in contents(datamodule, out, features):
        if content:
            write_npydict(out / "features" / f"{file_name(s.id)}.npy", content)
        written.update(name for name in datamodule.modalities if HERO_KEYS.get(name, name) in content)
        records.append(record)
    _write_json(out / "labels.json", records)
    lists: dict[str, list[str]] = defaultdict(list)
    for s in datamodule.gathered:
        lists[s.split].append(s.id)
    _write_json(out / "splits.json", lists)
    write_classes(datamodule, out)
    return written


def contents(
    datamodule: EmotionDataModule, out: Path, features: bool = True
) -> Iterator[tuple[Sample, dict[str, Any], dict[str, Any]]]:
    """Sample, record and feature dict (empty without `features`) of every clip, for the new folder `out`."""
    if any(out.iterdir() if features and out.exists() else out.glob("labels.json")):
        raise DataError("The folder is not empty.", expected="a new folder", got=out, where="out", hint="another out")
    out.mkdir(parents=True, exist_ok=True)
    found = datamodule.index.availability if features else {}
    for name in sorted({name for rows in found.values() for name, r in rows.items() if r.mode == "realtime"}):
        log.warning("modality %s is not stored, so not written: mode@modality.%s=auto", name, name)
    if features and any(len(item) > 1 for split in datamodule.index.samples for item in datamodule.items(split)):
        log.warning("%s compares clips; pairs and lists do not exist in this layout", datamodule.name)
    zeros: Counter[str] = Counter()
    # IEMOCAP has more turns than samples: utterances without an agreed label are context only
    linked = {s.id: s for s in link_dialogues([replace(s, turns=()) for s in datamodule.gathered])}
    for s in datamodule.gathered:
        content: dict[str, Any] = {}
        for name, entry in found.get(s.id, {}).items():
            if entry.mode == "preextracted":
                key, row = HERO_KEYS.get(name, name), datamodule.modalities[name].stored(s)
                zeros[name] += not row.x.any()
                content[key] = row.x.numpy()
                content |= {f"{key}_time": row.time.numpy()} if row.time is not None else {}
                content |= {f"{key}_measures": row.measures} if row.measures else {}
        turns = s.turns != linked[s.id].turns
        record = _plain(to_record(s, turns))
        back = _plain(to_record(read_record(record, s.id), turns))
        if field := next((k for k in record if back.get(k) != record[k]), None):
            expected, got = record[field], back.get(field)
            raise DataError("A sample does not read back.", expected=expected, got=got, where=f"{s.id}, {field}")
        yield s, record, content
    for name, n in zeros.items():
        if n:
            log.warning("%d clips have a %s feature of zeros only, which counts as absent in this layout", n, name)


def write_classes(datamodule: EmotionDataModule, out: Path) -> None:
    """Writes classes.json, the emotions in the order of the dataset, if it has any."""
    if (emotion := datamodule.tasks.get("emotion")) is not None and emotion.classes:
        _write_json(out / "classes.json", list(emotion.classes))


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """A record as JSON reads it back: tuples and sets (sorted) as lists, numpy numbers as Python's."""
    plain = json.dumps(record, default=lambda v: sorted(v) if isinstance(v, (set, frozenset)) else v.tolist())
    return json.loads(plain)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


# ---- check


def check_folder(root: Path) -> list[Fault]:
    """All faults of a feature folder; an empty list means that it can be used as it is."""
    try:
        records = read_json(root / "labels.json", TREE, list)
    except DataError as error:
        return [_fault("labels.json", error)]
    except FileNotFoundError:
        hint = "python -m hero_lightning.convert dataset=... out=DIR"
        return [Fault("labels.json", "the label file is missing", hint)]
    samples: dict[str, Sample] = {}
    faults = []
    for number, record in enumerate(records, start=1):
        try:
            s = read_record(record, f"record {number}", needed=("video_id", "emotion"), root=root)
        except DataError as error:
            name = record.get("video_id") if isinstance(record, dict) else None
            faults.append(_fault(str(name or f"record {number}"), error))
            continue
        if s.id in samples:
            faults.append(Fault(s.id, "the id occurs twice", "remove or rename one of the records"))
        samples[s.id] = s
    return [*faults, *_lists(root, samples), *_features(root, samples), *_media_files(samples)]


def _fault(name: str, error: DataError) -> Fault:
    got = error.details["got"]
    hint = error.details["hint"] or f"expected: {error.details['expected']}"
    return Fault(name, error.problem if got is None else f"{error.problem} ({got})", str(hint))


def _lists(root: Path, samples: Mapping[str, Sample]) -> Iterator[Fault]:
    """Faults of classes.json and splits.json."""
    for name, form, kind, inner in (("classes.json", CLASSES, list, object), ("splits.json", SPLITS, dict, list)):
        try:
            content: Any = read_json(root / name, form, kind, inner)
        except FileNotFoundError:
            continue
        except DataError as error:
            yield _fault(name, error)
            continue
        if kind is list:
            known = set(map(str, content))
            for s in samples.values():
                if (label := s.labels.get("emotion")) is not None and str(label) not in known:
                    yield Fault(s.id, f"emotion {label!r} is not in classes.json", "add it, or correct the label")
        else:
            listed = Counter(str(i) for ids in content.values() for i in ids)
            yield from (Fault(i, "splits.json lists it twice", "keep one") for i, n in listed.items() if n > 1)
            yield from (
                Fault(i, "splits.json lists it, but it has no record", "add one") for i in listed.keys() - samples
            )
            yield from (Fault(i, "splits.json does not list it", "list it") for i in samples.keys() - listed.keys())


def _features(root: Path, samples: Mapping[str, Sample]) -> Iterator[Fault]:
    """Faults of the feature files: missing, unreadable, wrong arrays, a width that differs from the majority's."""
    folder = root / "features"
    files = {
        p.relative_to(folder).with_suffix("").as_posix(): p for p in sorted(folder.rglob("*")) if p.suffix in SUFFIXES
    }

    def inspect(name: str) -> tuple[str, dict[str, int], list[Fault]]:
        widths: dict[str, int] = {}
        faults: list[Fault] = []
        try:
            content = load_features(files[name])
        except FeatureError as error:
            return name, {}, [_fault(name, error)]
        for key, value in content.items():
            if key != "transcript" and not key.endswith(SUFFIXED):
                try:
                    array = sequence(value, key, "cls", files[name])
                except FeatureError as error:
                    faults.append(_fault(name, error))
                else:
                    widths |= {key: array.shape[1]} if array is not None else {}
        return name, widths, faults

    names = {file_name(s): s for s in samples}
    for name, s in names.items():
        if name not in files:
            yield Fault(s, "there is no feature file", f"extract it, or remove the record ({folder / name}.npy)")
    with ThreadPoolExecutor(8) as pool:
        inspected = list(pool.map(inspect, files))
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for name, widths, faults in inspected:
        yield from faults
        if name not in names:
            yield Fault(name, "the feature file has no record", "add one to labels.json, or delete the file")
        for key, width in widths.items():
            counts[key][width] += 1
    usual = {key: found.most_common(1)[0][0] for key, found in counts.items()}
    for name, widths, _ in inspected:
        for key, width in widths.items():
            if width != usual[key]:
                yield Fault(name, f"{key} has width {width}, the others {usual[key]}", "extract it again")


def _media_files(samples: Mapping[str, Sample]) -> Iterator[Fault]:
    for s in samples.values():
        for path in [*(m.path for m in (s.video, s.audio) if m), *s.files.values()]:
            if not path.exists():
                yield Fault(s.id, f"file missing: {path}", "copy it there, or correct the record")
