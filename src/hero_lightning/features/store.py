"""Our own feature store: safetensors parts and one manifest per feature set.

Data flow: fill -> plan (which ids make which part) -> write (one part) ... -> enter (manifest) -> status / read by id.

    <root>/<dataset>/<modality>/<slug>-<hash8>/manifest.json   identity, width, dtype, versions, parts with their records
                                            part-00000.safetensors   x/<id> [T, D], time/<id> [T]; measures and record

A part holds fixed ids and is the unit of work: written under a temporary name and renamed. Its record (steps, stamps,
sampler's reasons, failures) travels inside it, so the manifest is a table of contents that any process can rebuild:
many may write parts at once, and a killed one is made again whole. Nothing in the files depends on when they were made.

Shapes: T steps, D feature width.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hero_lightning.errors import FeatureError
from hero_lightning.features.fingerprint import SourceFingerprint
from hero_lightning.features.manifest import parsed, put, told, versions
from hero_lightning.features.source import Availability
from hero_lightning.types import Sample, StoredFeatures

log = logging.getLogger(__name__)

FORMAT = 3
"""Of manifest and parts; another one lies in another folder."""
Fault = dict[str, str]
"""stage and error of a clip that yielded no features: absent (has no such modality), short (too short for one step),
decode, encode."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NOT_EXTRACTED = "not extracted"
"""Reason of a clip that no extraction has come by."""
_Part = tuple[Any, frozenset[str], dict[str, dict[str, float]]]
"""An open file, the names of its tensors, the measures of its clips."""
EXTRACT = "python -m hero_lightning.extract"


class Store:
    """One modality's features of one dataset, made by one encoder and sampler. A FeatureSource.

    Args:
        folder: where manifest.json lies, or will lie.
        identity: what the features must be; None = whatever the manifest says.
        stamp: what a clip holds today; features made from something else do not count. None = not compared.
    """

    def __init__(
        self, folder: Path | str, identity: Mapping[str, Any] | None = None, stamp: SourceFingerprint | None = None
    ) -> None:
        self.folder, self.stamp = Path(folder), stamp
        self.remedy = EXTRACT
        self.wanted = json.loads(json.dumps(identity)) if identity is not None else None
        self._forget()

    @classmethod
    def at(cls, root: Path, identity: Mapping[str, Any], stamp: SourceFingerprint | None = None) -> Store:
        """The store of this identity below `root`: its folder's name is made from the identity."""
        text = json.dumps([FORMAT, identity], sort_keys=True)
        kind = [identity["encoder"]["class"], identity["sampler"].get("sampler"), identity["sampler"].get("count")]
        slug = "-".join(str(k).lower() for k in kind if k is not None)
        return cls(root / f"{slug}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}", identity, stamp)

    def __getstate__(self) -> dict[str, Any]:
        # File handles stay in their process; a worker reads the manifest anew and opens what it needs.
        return {"folder": self.folder, "wanted": self.wanted, "stamp": self.stamp, "remedy": self.remedy}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._read_at: tuple[int, int, int] | None = None
        self._manifest: dict[str, Any] | None = None
        self._index: dict[str, tuple[dict[str, Any], int]] = {}  # id -> part, place in it
        self._handles: dict[str, _Part] = {}

    # ---- reading

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What the folder holds, read again whenever it changed; None where nothing is stored."""
        path = self.folder / "manifest.json"
        try:
            stat = path.stat()
        except FileNotFoundError:
            self._forget()
            return None
        read_at = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if read_at != self._read_at:
            self._forget()
            self._manifest = self._checked(parsed(path))
            self._index = {
                id: (part, place)  # a later part goes before an earlier one
                for part in self._manifest["parts"]
                if part["steps"] is not None
                for place, id in enumerate(part["ids"])
            }
            self._read_at = read_at
        return self._manifest

    def _checked(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest.get("format") != FORMAT:
            raise FeatureError(
                "The feature store has another format.",
                expected=f"format {FORMAT}",
                got=f"format {manifest.get('format')}",
                where=self.folder / "manifest.json",
                hint="python -m hero_lightning.extract force=true makes these features anew",
            )
        if self.wanted is not None and manifest["identity"] != self.wanted:
            raise FeatureError(
                "The feature store holds other features than wanted.",
                expected=told(self.wanted, manifest["identity"], 0),
                got=told(self.wanted, manifest["identity"], 1),
                where=self.folder,
                hint="python -m hero_lightning.extract force=true makes them anew, or set the modality as they were made",
            )
        for k, part in enumerate(manifest["parts"]):
            there = (self.folder / part["file"]).is_file()
            if part["steps"] is not None and not there:
                part["steps"] = None  # a part that was deleted is made again
            elif there and part["steps"] is None and (record := self._record(part)):
                manifest["parts"][k] = {**part, **record}  # written by a process that did not live to enter it
        done = [part for part in manifest["parts"] if part["steps"] is not None]
        for key in ("dim", "rate"):
            manifest[key] = next((part[key] for part in done if part[key] is not None), None)
        return manifest

    def _record(self, part: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a part file says of itself; None where it is damaged or was cut for other clips."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.folder / part["file"], framework="pt") as file:
                record = json.loads((file.metadata() or {})["record"])
        except (SafetensorError, OSError, KeyError):
            return None
        del record["measures"]
        return record if record.pop("ids") == part["ids"] else None

    def require(self) -> None:
        """FeatureError where nothing is stored; says what lies beside it and in which setting that differs."""
        if self.manifest is not None:
            return
        beside = []
        for path in sorted(self.folder.parent.glob("*/manifest.json")):
            other = parsed(path)
            differs = told(self.wanted or {}, other.get("identity", {}), 1) or f"format={other.get('format')}"
            beside.append(f"{path.parent.name} ({differs})")
        raise FeatureError(
            "No features of this identity are stored.",
            expected=told(self.wanted or {}, {}, 0),
            got="; ".join(beside) or f"nothing in {self.folder.parent}",
            where=self.folder,
            hint=f"{self.remedy} (with the same settings), or mode auto",
        )

    def status(self, sample: Sample) -> Availability:
        """See FeatureSource: what the manifest says; no part is opened."""
        if self.has(sample):
            part, place = self._index[sample.id]
            reason = part["reasons"][place]
            return Availability("preextracted", f"store, {reason}" if reason else "store")
        fault = self.fault(sample)
        if fault is not None:
            return Availability("absent" if fault["stage"] in ("absent", "short") else "broken", fault["error"])
        known = self.manifest is not None and sample.id in self._index
        return Availability("absent", "extracted from another file or text" if known else NOT_EXTRACTED)

    def fault(self, sample: Sample) -> Fault | None:
        """Why this clip has no features although it was tried as it is, or None."""
        part, _ = self._entry(sample) or ({"failures": {}}, 0)
        return part["failures"].get(sample.id)

    def _entry(self, sample: Sample) -> tuple[dict[str, Any], int] | None:
        """Part and place of a clip that was tried as it is today."""
        entry = self._index.get(sample.id) if self.manifest is not None else None
        if entry is None or self.stamp is None:
            return entry
        now = self.stamp(sample)
        return entry if now is None or now == entry[0]["stamps"][entry[1]] else None

    def has(self, sample: Sample) -> bool:
        """See FeatureSource."""
        entry = self._entry(sample)
        return entry is not None and entry[0]["steps"][entry[1]] > 0

    def length(self, sample: Sample) -> int | None:
        """See FeatureSource."""
        part, place = (self.manifest and self._index.get(sample.id)) or ({"steps": [0]}, 0)
        return part["steps"][place] or None

    def read(self, sample: Sample) -> StoredFeatures:
        """See FeatureSource; always float32. What the clip holds today was compared at index time (`status`)."""
        if self.length(sample) is None:
            raise FeatureError(
                f"Sample {sample.id} is not in the feature store.",
                got=self.status(sample).reason,
                where=self.folder,
                hint=f"{self.remedy} (with the same settings)",
            )
        file = self._index[sample.id][0]["file"]
        handle, names, measures = self._opened(file)
        x, time = handle.get_tensor(f"x/{sample.id}").float(), f"time/{sample.id}"
        return StoredFeatures(x, handle.get_tensor(time) if time in names else None, dict(measures.get(sample.id, {})))

    def _opened(self, file: str) -> _Part:
        if file not in self._handles:
            from safetensors import SafetensorError, safe_open

            try:
                handle = safe_open(self.folder / file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise FeatureError(
                    "A part of the feature store cannot be read.",
                    got=error,
                    where=self.folder / file,
                    hint="delete this file and run the extraction again: only this part is made anew",
                ) from error
            self._handles[file] = handle, frozenset(handle.keys()), json.loads(handle.metadata()["record"])["measures"]
        return self._handles[file]

    def width(self) -> int | None:
        """See FeatureSource."""
        return self.manifest["dim"] if self.manifest is not None else None

    def probe(self, samples: Iterable[Sample]) -> None:
        """See FeatureSource: the manifest knows the width."""

    def identity(self) -> dict[str, Any]:
        """See FeatureSource."""
        return self.manifest["identity"] if self.manifest is not None else (self.wanted or {})

    def describe(self, sample: Sample) -> str:
        """See FeatureSource."""
        return str(self.folder / self._index[sample.id][0]["file"]) if self.length(sample) else str(self.folder)

    # ---- writing

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One planner at a time, over all processes of this machine; others wait, then find the work done."""
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def clear(self) -> None:
        """Throws away what is stored, whatever made it; the caller holds the lock."""
        for path in [self.folder / "manifest.json", *self.folder.glob("part-*.safetensors")]:
            path.unlink(missing_ok=True)
        self._forget()

    def plan(
        self,
        samples: Iterable[Sample],
        dtype: str,
        part_size: int,
        retry: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> dict[str, list[str]]:
        """Cuts the clips that are not stored into parts and enters them in the manifest; the caller holds the lock.

        Args:
            samples: all that shall be stored; those tried before, as they are today, keep their parts.
            dtype: of a new store; an existing one keeps its own.
            part_size: clips per part.
            retry: whether clips that failed before are tried again.
            share: (k, n): of n processes given the same samples, the k-th (from 0) gets every n-th part.

        Returns:
            Parts of this share still to write: file name -> ids.
        """
        manifest = self.manifest or {
            "format": FORMAT,
            "identity": self.wanted,
            "dim": None,
            "dtype": dtype,
            "rate": None,
            "versions": versions(),
            "parts": [],
        }
        if manifest["dtype"] != dtype:
            log.warning("%s keeps its dtype %s (asked for: %s)", self.folder, manifest["dtype"], dtype)
        on_hand = {s.id: s for s in samples}
        settled = {id for id, s in on_hand.items() if self.has(s) or (self.fault(s) and not retry)}
        # A planned part whose clips are not all on hand cannot be written whole: it is cut anew.
        parts = [p for p in manifest["parts"] if p["steps"] is not None or on_hand.keys() >= set(p["ids"])]
        planned = {id for p in parts if p["steps"] is None for id in p["ids"]}
        new = sorted(on_hand.keys() - settled - planned)
        number = max((_number(p) for p in parts), default=-1) + 1
        for k, start in enumerate(range(0, len(new), part_size)):
            file = f"part-{number + k:05d}.safetensors"
            parts.append({"file": file, "ids": new[start : start + part_size], "steps": None})
        if parts != manifest["parts"]:
            self._enter({**manifest, "parts": parts})
        own = [p for p in parts if p["steps"] is None and _number(p) % share[1] == share[0]]
        for part in own:  # what a killed process left half-written
            for path in self.folder.glob(f".{part['file']}.*"):
                path.unlink(missing_ok=True)
        return {p["file"]: p["ids"] for p in own}

    def write(
        self,
        file: str,
        rows: Mapping[str, StoredFeatures],
        failures: Mapping[str, Fault],
        samples: Mapping[str, Sample],
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        """Writes one planned part; `enter` makes it known to readers that run already.

        Args:
            file: name of the part.
            rows: id -> features of those that came out.
            failures: id -> fault of the others.
            samples: id -> clip, of both.
            reasons: id -> why the sampler looked at these pictures.

        Raises:
            FeatureError: a number does not fit the store's dtype, or the disk is full. Nothing half-written is left.
        """
        from safetensors.torch import save

        assert self.manifest is not None
        name, ids = self.manifest["dtype"], sorted([*rows, *failures])
        tensors = {f"x/{id}": row.x.to(DTYPES[name]).contiguous() for id, row in rows.items()}
        if wide := [key for key, x in tensors.items() if not x.isfinite().all()]:
            hint = "dtype=bfloat16 force=true: the store keeps the dtype it was begun with"
            problem, where = f"Features of {wide[0][2:]} are too large for {name}.", self.folder
            raise FeatureError(problem, expected="finite numbers", got="Inf", where=where, hint=hint)
        tensors |= {f"time/{id}": row.time.float().contiguous() for id, row in rows.items() if row.time is not None}
        first = next((rows[id] for id in ids if id in rows), None)
        record = {
            "ids": ids,
            "steps": [rows[id].x.shape[0] if id in rows else 0 for id in ids],
            "stamps": [self.stamp(samples[id]) if self.stamp is not None else None for id in ids],
            "reasons": [(reasons or {}).get(id, "") for id in ids],
            "failures": {id: failures[id] for id in sorted(failures)},
            "dim": first and first.x.shape[1],
            "rate": first and _rate(first),
            "measures": {id: rows[id].measures for id in sorted(rows) if rows[id].measures},
        }
        put(self.folder / file, save(tensors, {"record": json.dumps(record)}))  # one key: their order is not fixed
        self._forget()

    def enter(self) -> None:
        """Brings the manifest up to date with the parts that lie there; the caller holds the lock."""
        if (manifest := self.manifest) is not None:
            self._enter(manifest)

    def _enter(self, manifest: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(".manifest.json.*"):
            path.unlink(missing_ok=True)
        put(self.folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())
        self._forget()


def _number(part: Mapping[str, Any]) -> int:
    return int(part["file"][5:10])


def _rate(row: StoredFeatures) -> float | None:
    """Steps per second of a clip, where its features carry a clock."""
    if row.time is None or len(row.time) < 2 or row.time[-1] <= row.time[0]:
        return None
    return round((len(row.time) - 1) / float(row.time[-1] - row.time[0]), 3)
