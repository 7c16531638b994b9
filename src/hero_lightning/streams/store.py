"""Our own feature store: safetensors parts and one manifest per feature set.

Data flow: fill -> plan (which ids make which part) -> write (one part, then the manifest) ... status / read by id.

    <root>/<corpus>/<stream>/<slug>-<hash8>/manifest.json   identity, width, dtype, versions, parts, ledger of failures
                                            part-00000.safetensors   x/<id> [T, D], time/<id> [T], measures in metadata

A part holds fixed ids and is the unit of work: written under a temporary name, renamed, then entered in the manifest.
A killed part is made again whole. Nothing in the files depends on when they were made.

Shapes: T steps, D feature width.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hero_lightning.data.types import Ready, Sample
from hero_lightning.errors import FeatureError
from hero_lightning.streams.source import Resolution
from hero_lightning.streams.stamp import Stamp

log = logging.getLogger(__name__)

FORMAT = 2
"""Of manifest and parts; another one lies in another folder."""
Fault = dict[str, str]
"""stage and error of a clip that yielded no features: absent (has no such stream), short (too short for one step),
decode, encode."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_Part = tuple[Any, frozenset[str], dict[str, dict[str, float]]]
"""An open file, the names of its tensors, the measures of its clips."""
PACKAGES = ("hero-lightning", "torch", "transformers", "av")


class Store:
    """One stream's features of one corpus, made by one encoder and sampler. A FeatureSource.

    Args:
        folder: where manifest.json lies, or will lie.
        identity: what the features must be; None = whatever the manifest says.
        stamp: what a clip holds today; features made from something else do not count. None = not compared.
    """

    def __init__(
        self, folder: Path | str, identity: Mapping[str, Any] | None = None, stamp: Stamp | None = None
    ) -> None:
        self.folder, self.stamp = Path(folder), stamp
        self.wanted = json.loads(json.dumps(identity)) if identity is not None else None
        self._forget()

    @classmethod
    def at(cls, root: Path, identity: Mapping[str, Any], stamp: Stamp | None = None) -> Store:
        """The store of this identity below `root`: its folder's name is made from the identity."""
        text = json.dumps([FORMAT, identity], sort_keys=True)
        kind = [identity["encoder"]["class"], identity["sampler"].get("sampler"), identity["sampler"].get("count")]
        slug = "-".join(str(k).lower() for k in kind if k is not None)
        return cls(root / f"{slug}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}", identity, stamp)

    def __getstate__(self) -> dict[str, Any]:
        # File handles stay in their process; a worker reads the manifest anew and opens what it needs.
        return {"folder": self.folder, "wanted": self.wanted, "stamp": self.stamp}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._read_at: tuple[int, int, int] | None = None
        self._manifest: dict[str, Any] | None = None
        self._index: dict[str, tuple[str, int, str | None]] = {}  # id -> part, steps (0 = fault), stamp
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
            self._manifest = self._checked(json.loads(path.read_text()))
            self._index = {
                id: (part["file"], steps, stamp)  # a later part goes before an earlier one
                for part in self._manifest["parts"]
                if part["steps"] is not None
                for id, steps, stamp in zip(part["ids"], part["steps"], part["stamps"], strict=True)
            }
            self._read_at = read_at
        return self._manifest

    def _checked(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest.get("format") != FORMAT:
            raise FeatureError(
                "The feature store has another format.",
                expected=FORMAT,
                got=manifest.get("format"),
                where=self.folder,
                mend="python -m hero_lightning.extract into another folder",
            )
        if self.wanted is not None and manifest["identity"] != self.wanted:
            raise FeatureError(
                "The feature store holds other features than wanted.",
                expected=_told(self.wanted, manifest["identity"], 0),
                got=_told(self.wanted, manifest["identity"], 1),
                where=self.folder,
                mend="extract them anew with the settings wanted, or set the stream to the settings stored",
            )
        for part in manifest["parts"]:
            if part["steps"] is not None and not (self.folder / part["file"]).is_file():
                part["steps"] = None  # a part that was deleted is made again
        return manifest

    def require(self) -> None:
        """FeatureError where nothing is stored; says what lies beside it and in which setting that differs."""
        if self.manifest is not None:
            return
        beside = []
        for path in sorted(self.folder.parent.glob("*/manifest.json")):
            other = json.loads(path.read_text())["identity"]
            beside.append(f"{path.parent.name} ({_told(self.wanted or {}, other, 1)})")
        raise FeatureError(
            "No features of this identity are stored.",
            expected=_told(self.wanted or {}, {}, 0),
            got="; ".join(beside) or f"nothing in {self.folder.parent}",
            where=self.folder,
            mend="python -m hero_lightning.extract with the same settings, or mode auto",
        )

    def status(self, sample: Sample) -> Resolution:
        """See FeatureSource: what the manifest says; no part is opened."""
        if self.has(sample):
            return Resolution("preextracted", "store")
        fault = self.fault(sample)
        if fault is not None:
            return Resolution("absent" if fault["stage"] in ("absent", "short") else "broken", fault["error"])
        known = self.manifest is not None and sample.id in self._index
        return Resolution("absent", "extracted from another file or text" if known else "not extracted")

    def fault(self, sample: Sample) -> Fault | None:
        """Why this clip has no features although it was tried as it is, or None."""
        if self._entry(sample) is None or self.manifest is None:
            return None
        return self.manifest["failures"].get(sample.id)

    def _entry(self, sample: Sample) -> tuple[str, int, str | None] | None:
        """Part, steps and stamp of a clip that was tried as it is today."""
        entry = self._index.get(sample.id) if self.manifest is not None else None
        if entry is None or self.stamp is None:
            return entry
        now = self.stamp(sample)
        return entry if now is None or now == entry[2] else None

    def has(self, sample: Sample) -> bool:
        """See FeatureSource."""
        entry = self._entry(sample)
        return entry is not None and entry[1] > 0

    def length(self, sample: Sample) -> int | None:
        """See FeatureSource."""
        return self._index[sample.id][1] or None if self.manifest is not None and sample.id in self._index else None

    def read(self, sample: Sample) -> Ready:
        """See FeatureSource; always float32. What the clip holds today was compared at index time (`status`)."""
        if self.length(sample) is None:
            raise FeatureError(
                f"Sample {sample.id} is not in the feature store.",
                got=self.status(sample).reason,
                where=self.folder,
                mend="python -m hero_lightning.extract with the same settings",
            )
        file = self._index[sample.id][0]
        handle, names, measures = self._opened(file)
        x, time = handle.get_tensor(f"x/{sample.id}").float(), f"time/{sample.id}"
        return Ready(x, handle.get_tensor(time) if time in names else None, dict(measures.get(sample.id, {})))

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
                    mend="delete this file and run the extraction again: only this part is made anew",
                ) from error
            self._handles[file] = handle, frozenset(handle.keys()), json.loads(handle.metadata()["measures"])
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
        return str(self.folder / self._index[sample.id][0]) if self.length(sample) else str(self.folder)

    # ---- writing

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time, over all processes of this machine; others wait, then find the work done."""
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def plan(self, samples: Iterable[Sample], dtype: str, part_size: int, retry: bool = False) -> dict[str, list[str]]:
        """Cuts the clips that are not stored into parts and enters them in the manifest.

        Args:
            samples: all that shall be stored; those tried before, as they are today, keep their parts.
            dtype: of a new store; an existing one keeps its own.
            part_size: clips per part.
            retry: whether clips that failed before are tried again.

        Returns:
            Parts still to write: file name -> ids.
        """
        manifest = self.manifest or {
            "format": FORMAT,
            "identity": self.wanted,
            "dim": None,
            "dtype": dtype,
            "rate": None,
            "versions": {p: found for p in PACKAGES if (found := _version(p))},
            "parts": [],
            "failures": {},
        }
        if manifest["dtype"] != dtype:
            log.warning("%s keeps its dtype %s (asked for: %s)", self.folder, manifest["dtype"], dtype)
        on_hand = {s.id: s for s in samples}
        settled = {id for id, s in on_hand.items() if self.has(s) or (self.fault(s) and not retry)}
        # A planned part whose clips are not all on hand cannot be written whole: it is cut anew.
        parts = [p for p in manifest["parts"] if p["steps"] is not None or on_hand.keys() >= set(p["ids"])]
        planned = {id for p in parts if p["steps"] is None for id in p["ids"]}
        new = sorted(on_hand.keys() - settled - planned)
        number = max((int(p["file"][5:10]) for p in parts), default=-1) + 1
        for k, start in enumerate(range(0, len(new), part_size)):
            file = f"part-{number + k:05d}.safetensors"
            parts.append({"file": file, "ids": new[start : start + part_size], "steps": None, "stamps": None})
        if parts != manifest["parts"]:
            failures = {k: v for k, v in manifest["failures"].items() if k not in new}
            self._enter({**manifest, "parts": parts, "failures": failures})
        return {p["file"]: p["ids"] for p in parts if p["steps"] is None}

    def write(
        self, file: str, rows: Mapping[str, Ready], failures: Mapping[str, Fault], samples: Mapping[str, Sample]
    ) -> None:
        """Writes one planned part and enters it in the manifest.

        Args:
            file: name of the part.
            rows: id -> features of those that came out.
            failures: id -> fault of the others.
            samples: id -> clip, of both.
        """
        from safetensors.torch import save_file

        manifest = self.manifest
        assert manifest is not None
        part = next(p for p in manifest["parts"] if p["file"] == file)
        dtype = DTYPES[manifest["dtype"]]
        tensors = {f"x/{id}": row.x.to(dtype).contiguous() for id, row in rows.items()}
        tensors |= {f"time/{id}": row.time.float().contiguous() for id, row in rows.items() if row.time is not None}
        measures = {id: rows[id].measures for id in sorted(rows) if rows[id].measures}
        temporary = self.folder / f".{file}.{os.getpid()}"
        save_file(tensors, temporary, metadata={"measures": json.dumps(measures)})
        os.replace(temporary, self.folder / file)
        part["steps"] = [rows[id].x.shape[0] if id in rows else 0 for id in part["ids"]]
        part["stamps"] = [self.stamp(samples[id]) if self.stamp is not None else None for id in part["ids"]]
        manifest["failures"] = dict(sorted({**manifest["failures"], **failures}.items()))
        for id in part["ids"]:
            if id in rows and manifest["dim"] is None:
                manifest["dim"] = rows[id].x.shape[1]
                manifest["rate"] = _rate(rows[id])
        self._enter(manifest)

    def _enter(self, manifest: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".manifest.{os.getpid()}"
        temporary.write_text(json.dumps(manifest, indent=1, ensure_ascii=False))
        os.replace(temporary, self.folder / "manifest.json")
        self._forget()


def _rate(row: Ready) -> float | None:
    """Steps per second of a clip, where its features carry a clock."""
    if row.time is None or len(row.time) < 2 or row.time[-1] <= row.time[0]:
        return None
    return round((len(row.time) - 1) / float(row.time[-1] - row.time[0]), 3)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _told(wanted: Mapping[str, Any], stored: Mapping[str, Any], side: int) -> str:
    """The settings in which two identities differ, with the values of one of them (0 wanted, 1 stored)."""
    both = _flat(wanted), _flat(stored)
    keys = [k for k in dict.fromkeys([*both[0], *both[1]]) if both[0].get(k) != both[1].get(k)]
    return ", ".join(f"{k}={both[side].get(k)}" for k in keys)
