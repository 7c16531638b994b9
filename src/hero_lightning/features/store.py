"""Feature store: safetensors parts and one manifest per feature set.

Data flow: fill -> plan (ids of each part) -> write (one part) ... -> update_manifest -> status / read by id.

    <root>/<dataset>/<modality>/<name>-<hash8>/manifest.json    identity, width, dtype, versions, records of the parts
                                               part-00000.safetensors    x/<id> [T, D], time/<id> [T]; record, measures

A part holds fixed ids and is written atomically. Its record (steps, fingerprints of the clips' files, reasons of the
sampler, failures) is stored inside the part, so any process can rebuild the manifest, several processes can write parts
at once, and the part of a killed process is written again. The content does not depend on when the files are written.

Shapes: T steps, D feature width.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hero_lightning.errors import FeatureError, cause
from hero_lightning.features.files import write_atomic
from hero_lightning.features.fingerprint import SourceFingerprint
from hero_lightning.features.manifest import RECORD, STORE, diff, mismatch, read_manifest, versions
from hero_lightning.features.part import DTYPES, Part, encode
from hero_lightning.features.source import Availability
from hero_lightning.types import Sample, StoredFeatures

log = logging.getLogger(__name__)

FORMAT = 3
"""Version of manifest and parts; part of the folder's name."""
Fault = dict[str, str]
"""stage and error of a clip without features; stage: absent (no such modality), short (less than one step), decode,
encode."""
EXTRACT = "python -m hero_lightning.extract"
NOT_EXTRACTED = "not extracted"
"""Reason of a clip that was not part of any extraction."""
PART = re.compile(r"part-\d{5,}\.safetensors")


class Store:
    """One modality's features of one dataset, made by one encoder and sampler. A FeatureSource.

    Args:
        folder: folder of manifest.json, which may not exist yet.
        identity: identity the features must have; None = that of the manifest.
        fingerprint: computes the fingerprint of a clip's files; features of other files are ignored. None = accept all.
        remedy: command that extracts missing features, for messages.
    """

    def __init__(
        self,
        folder: Path | str,
        identity: Mapping[str, Any] | None = None,
        fingerprint: SourceFingerprint | None = None,
        remedy: str = EXTRACT,
    ) -> None:
        self.folder, self.fingerprint, self.remedy = Path(folder), fingerprint, remedy
        self.wanted = json.loads(json.dumps(identity)) if identity is not None else None
        self._reset()

    @classmethod
    def at(
        cls,
        root: Path,
        identity: Mapping[str, Any],
        fingerprint: SourceFingerprint | None = None,
        remedy: str = EXTRACT,
    ) -> Store:
        """The store of this identity in a subfolder of `root` whose name is made from the identity."""
        text = json.dumps([FORMAT, identity], sort_keys=True)
        kind = [identity["encoder"]["class"], identity["sampler"].get("sampler"), identity["sampler"].get("count")]
        name = "-".join(str(k).lower() for k in kind if k is not None)
        folder = root / f"{name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
        return cls(folder, identity, fingerprint, remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        # File handles cannot be pickled: a worker reads the manifest and opens the parts again.
        return Store, (self.folder, self.wanted, self.fingerprint, self.remedy)

    def _reset(self) -> None:
        self._read_at: tuple[int, int, int] | None = None
        self._manifest: dict[str, Any] | None = None
        self._lost = False  # a part of the manifest was deleted
        self._updated = False  # a part was written since the manifest was read
        self._index: dict[str, tuple[dict[str, Any], int]] = {}  # id -> part, row in it
        self._handles: dict[str, Part] = {}

    # ---- reading

    @property
    def manifest(self) -> dict[str, Any] | None:
        """Content of the manifest, read again whenever the file changes; None if nothing is stored."""
        path = self.folder / "manifest.json"
        try:
            stat = path.stat()
        except FileNotFoundError:
            self._reset()
            return None
        read_at = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if read_at != self._read_at or self._updated:
            self._reset()
            self._manifest = self._checked(read_manifest(path))
            self._index = {
                id: (part, row)  # later parts override earlier ones
                for part in self._manifest["parts"]
                if part["steps"] is not None
                for row, id in enumerate(part["ids"])
            }
            self._read_at = read_at
        return self._manifest

    def _checked(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The manifest, brought up to date with the part files. FeatureError for another format or identity."""
        if manifest.get("format") != FORMAT:
            raise FeatureError(
                "The feature store has another format.",
                expected=f"format {FORMAT}",
                got=f"format {manifest.get('format')}",
                where=self.folder / "manifest.json",
                hint=f"{self.remedy} force=true",
            )
        where = self.folder / "manifest.json"
        wrong = mismatch(manifest, STORE) or next(filter(None, map(self._wrong, manifest["parts"])), "")
        if wrong or manifest["dtype"] not in DTYPES:
            problem, hint = "The manifest of a feature store is damaged.", f"delete it, then {self.remedy}"
            raise FeatureError(problem, got=wrong or manifest["dtype"], where=where, hint=hint)
        if self.wanted is not None and manifest["identity"] != self.wanted:
            expected, got = diff(self.wanted, manifest["identity"])
            problem, hint = "The stored features have another identity.", f"{self.remedy} force=true"
            raise FeatureError(problem, expected=expected, got=got, where=self.folder, hint=hint)
        for k, part in enumerate(manifest["parts"]):
            try:
                size = (self.folder / part["file"]).stat().st_size
            except FileNotFoundError:
                self._lost |= part["steps"] is not None  # the file was deleted: write it again
                manifest["parts"][k] = {"file": part["file"], "ids": part["ids"], "steps": None}
                continue
            if part["steps"] is None:
                if record := self._record(part):  # its process was killed before it updated the manifest
                    manifest["parts"][k] = {**part, **record, "size": size}
            elif size != part.get("size", size):
                raise self._damaged(part["file"], f"{size} bytes instead of {part['size']}")
        done = [part for part in manifest["parts"] if part["steps"] is not None]
        for key in ("dim", "rate"):
            manifest[key] = next((part[key] for part in done if part[key] is not None), None)
        return manifest

    @staticmethod
    def _wrong(part: Mapping[str, Any]) -> str:
        """What is wrong with the entry of a part in the manifest, or ""."""
        if not PART.fullmatch(part["file"]):
            return f"{part['file']!r} is no name of a part"
        if part.get("steps") is None:
            return "" if "steps" in part else f"{part['file']} lacks steps"
        sums = {"crc": [int]} if "crc" in part else {}  # not in stores of before
        if wrong := mismatch(part, RECORD | sums, part["file"]):
            return wrong
        numbers = {len(part[key]) for key in ("ids", "steps", "stamps", "reasons", *sums)} | {len(set(part["ids"]))}
        return (
            f"{part['file']}: numbers of ids, steps, stamps, reasons and checksums differ" if len(numbers) > 1 else ""
        )

    def _record(self, part: Mapping[str, Any]) -> dict[str, Any] | None:
        """Record inside a part file; None if the file is damaged or holds other clips."""
        try:
            record = Part(self.folder / part["file"]).record
        except (OSError, ValueError):
            return None
        if self._wrong({**part, "steps": (), **record}) or record["ids"] != part["ids"]:
            return None
        return {key: value for key, value in record.items() if key not in ("ids", "measures")}

    def _damaged(self, file: str, got: object) -> FeatureError:
        problem, path = "A part of the feature store cannot be read.", self.folder / file
        hint = f"delete this file, then {self.remedy}: only this part is extracted again"
        return FeatureError(problem, got=got, where=path, hint=hint)

    def require(self) -> None:
        """FeatureError if nothing is stored; lists the other feature sets of the modality and how they differ."""
        if self.manifest is not None:
            return
        others = []
        for path in sorted(self.folder.parent.glob("*/manifest.json")):
            other = read_manifest(path)
            known = other["identity"] if isinstance(other.get("identity"), dict) else {}
            differences = diff(self.wanted or {}, known)[1] or f"format={other.get('format')}"
            others.append(f"{path.parent.name} ({differences})")
        raise FeatureError(
            "No features of this identity are stored.",
            expected=diff(self.wanted or {}, {})[0],
            got="; ".join(others) or f"nothing in {self.folder.parent}",
            where=self.folder,
            hint=f"{self.remedy} (with the same settings), or mode auto",
        )

    def status(self, sample: Sample) -> Availability:
        """By the manifest alone; no part is opened."""
        if self.contains(sample):
            part, row = self._index[sample.id]
            reason = part["reasons"][row]
            return Availability("preextracted", f"store, {reason}" if reason else "store")
        fault = self.fault(sample)
        if fault is not None:
            return Availability("absent" if fault["stage"] in ("absent", "short") else "broken", fault["error"])
        known = self.manifest is not None and sample.id in self._index
        return Availability("absent", "extracted from another file or text" if known else NOT_EXTRACTED)

    def fault(self, sample: Sample) -> Fault | None:
        """Why extraction of this clip's present files failed, or None."""
        part, _ = self._entry(sample) or ({"failures": {}}, 0)
        return part["failures"].get(sample.id)

    def _entry(self, sample: Sample) -> tuple[dict[str, Any], int] | None:
        """Part and row of a clip that was extracted from its present files."""
        entry = self._index.get(sample.id) if self.manifest is not None else None
        if entry is None or self.fingerprint is None:
            return entry
        now = self.fingerprint(sample)
        return entry if now is None or now == entry[0]["stamps"][entry[1]] else None

    def contains(self, sample: Sample) -> bool:
        entry = self._entry(sample)
        return entry is not None and entry[0]["steps"][entry[1]] > 0

    def length(self, sample: Sample) -> int | None:
        part, row = (self.manifest and self._index.get(sample.id)) or ({"steps": [0]}, 0)
        return part["steps"][row] or None

    def read(self, sample: Sample) -> StoredFeatures:
        """Always float32. Fingerprints are not compared again: `status` has done it."""
        if self.length(sample) is None:
            raise FeatureError(
                f"Sample {sample.id} is not in the feature store.",
                got=self.status(sample).reason,
                where=self.folder,
                hint=f"{self.remedy} (with the same settings)",
            )
        part, row = self._index[sample.id]
        try:
            if part["file"] not in self._handles:
                self._handles[part["file"]] = Part(self.folder / part["file"])
            crc = part["crc"][row] if "crc" in part else None
            return self._handles[part["file"]].read(sample.id, part["steps"][row], crc)
        except (ValueError, OSError) as error:
            raise self._damaged(part["file"], cause(error)) from error

    def width(self) -> int | None:
        return self.manifest["dim"] if self.manifest is not None else None

    def probe(self, samples: Iterable[Sample]) -> None:
        """Nothing to do: the manifest holds the width."""

    def identity(self) -> dict[str, Any]:
        return self.manifest["identity"] if self.manifest is not None else (self.wanted or {})

    def describe(self, sample: Sample) -> str:
        return str(self.folder / self._index[sample.id][0]["file"]) if self.length(sample) else str(self.folder)

    # ---- writing

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A lock over all processes of this machine, for `plan`, `clear` and `update_manifest`."""
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def clear(self) -> None:
        """Deletes everything that is stored; the caller holds the lock."""
        for path in [self.folder / "manifest.json", *self.folder.glob("part-*.safetensors")]:
            path.unlink(missing_ok=True)
        self._reset()

    def plan(
        self,
        samples: Iterable[Sample],
        dtype: str,
        part_size: int,
        retry: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> dict[str, list[str]]:
        """Divides the clips that are not stored into parts and adds these to the manifest; the caller holds the lock.

        Args:
            samples: all clips to store; those extracted from their present files before keep their parts.
            dtype: of a new store; an existing one keeps its own.
            part_size: clips per part.
            retry: whether to try clips again that failed before.
            share: (k, n): of n processes given the same samples, the k-th (from 0) gets every n-th part.

        Returns:
            Parts of this share still to write: file name -> ids.
        """
        new_store = {"format": FORMAT, "identity": self.wanted, "dim": None, "dtype": dtype, "rate": None}
        manifest = self.manifest or {**new_store, "versions": versions(), "parts": []}
        if manifest["dtype"] != dtype:
            log.warning("%s keeps its dtype %s (requested: %s)", self.folder, manifest["dtype"], dtype)
        given = {s.id: s for s in samples}
        settled = {id for id, s in given.items() if self.contains(s) or (self.fault(s) and not retry)}
        # A planned part with clips that are not given cannot be written: its clips are divided again.
        parts = [p for p in manifest["parts"] if p["steps"] is not None or given.keys() >= set(p["ids"])]
        planned = {id for p in parts if p["steps"] is None for id in p["ids"]}
        new = sorted(given.keys() - settled - planned)
        number = max((_number(p) for p in parts), default=-1) + 1
        for k, start in enumerate(range(0, len(new), part_size)):
            file = f"part-{number + k:05d}.safetensors"
            parts.append({"file": file, "ids": new[start : start + part_size], "steps": None})
        if parts != manifest["parts"] or self._lost:
            self._write_manifest({**manifest, "parts": parts})
        own = [p for p in parts if p["steps"] is None and _number(p) % share[1] == share[0]]
        for part in own:  # temporary files of a killed process
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
        stamps: Mapping[str, str | None] | None = None,
    ) -> None:
        """Writes one planned part; readers see it after `update_manifest`.

        Args:
            file: name of the part.
            rows: id -> features.
            failures: id -> fault of the clips without features.
            samples: id -> clip, of both.
            reasons: id -> reason of the sampler's plan.
            stamps: id -> fingerprint of the files that were read; None = of the files as they are now.

        Raises:
            FeatureError: a number does not fit the store's dtype.
            DataError: the file cannot be written.
        """
        manifest = self._manifest or self.manifest
        assert manifest is not None
        ids, dtype = sorted([*rows, *failures]), DTYPES[manifest["dtype"]]
        if overflow := [id for id, row in rows.items() if not row.x.to(dtype).isfinite().all()]:
            problem = f"Features of {overflow[0]} are too large for {manifest['dtype']}."
            hint = f"{self.remedy} dtype=bfloat16 force=true"
            raise FeatureError(problem, expected="finite numbers", got="Inf", where=self.folder, hint=hint)
        first = next((rows[id] for id in ids if id in rows), None)
        record = {
            "ids": ids,
            "steps": [rows[id].x.shape[0] if id in rows else 0 for id in ids],
            "stamps": [stamps[id] for id in ids] if stamps is not None else [self._stamp(samples[id]) for id in ids],
            "reasons": [(reasons or {}).get(id, "") for id in ids],
            "failures": {id: failures[id] for id in sorted(failures)},
            "dim": first and first.x.shape[1],
            "rate": first and _rate(first),
            "measures": {id: rows[id].measures for id in sorted(rows) if rows[id].measures},
        }
        write_atomic(self.folder / file, encode(rows, manifest["dtype"], record))
        self._updated = True

    def _stamp(self, sample: Sample) -> str | None:
        return self.fingerprint(sample) if self.fingerprint is not None else None

    def update_manifest(self) -> None:
        """Updates the manifest to the parts on disk; the caller holds the lock."""
        if (manifest := self.manifest) is not None:
            self._write_manifest(manifest)

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        for path in self.folder.glob(".manifest.json.*"):
            path.unlink(missing_ok=True)
        write_atomic(self.folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())
        self._reset()


def _number(part: Mapping[str, Any]) -> int:
    return int(part["file"][5:10])


def _rate(row: StoredFeatures) -> float | None:
    """Steps per second of a clip, or None without time stamps."""
    if row.time is None or len(row.time) < 2 or row.time[-1] <= row.time[0]:
        return None
    return round((len(row.time) - 1) / float(row.time[-1] - row.time[0]), 3)
