"""What of a dataset is there, how it will be had, and what becomes of the rest: decided once, counted, kept.

Data flow: samples x modalities --check_all--> Availability --apply_policy (error | skip | mask)--> samples kept + ledger
-> DatasetIndex -> index.json, splits.json, availability.csv, ledger.csv of the run folder; what fails to decode later is appended.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hero_lightning.errors import DataError
from hero_lightning.features.files import write_csv
from hero_lightning.features.modality import Modality
from hero_lightning.features.source import Availability
from hero_lightning.features.store import NOT_EXTRACTED
from hero_lightning.types import Sample

log = logging.getLogger(__name__)

POLICIES = ("error", "skip", "mask")
"""What to do with a clip that lacks a modality: stop, leave the clip out, or train without that modality."""
KNOWN = "broken in the official release"
CHUNK = 32
"""Clips that a thread looks at in one go."""
PROGRESS = 5.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger: what of which clip is not used, and why.

    Attributes:
        modality: or Task, where the kind is `unknown`; empty where it is the whole sample.
        kind: absent, broken (index time), failed (decode time), unknown (label), dropped (sample).
    """

    id: str
    split: str
    modality: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class AvailabilityCount:
    """How many clips of a split have a modality in this way, before any clip was left out."""

    modality: str
    split: str
    mode: str
    count: int
    reason: str


@dataclass(slots=True)
class DatasetIndex:
    """Everything that was decided about a dataset at index time.

    Attributes:
        samples: split -> samples in order.
        availability: sample id -> modality -> Availability.
        dims: modality -> feature width D, of the modalities in use.
        table: availability by modality, split, mode and reason.
        split_origin: split -> where it comes from.
        notes: sentences a result must carry (modalities and Tasks left out, official counts not met).
        folder: where it was written.
    """

    dataset: str
    samples: dict[str, list[Sample]]
    availability: dict[str, dict[str, Availability]]
    dims: dict[str, int]
    classes: dict[str, list[str]]
    table: list[AvailabilityCount]
    ledger: list[Entry]
    split_origin: dict[str, str]
    notes: list[str]
    folder: Path | None = None

    def summary(self) -> dict[str, Any]:
        """The index in builtins, as index.json holds it."""
        return {
            "dataset": self.dataset,
            "counts": {split: len(rows) for split, rows in self.samples.items()},
            "split_origin": self.split_origin,
            "notes": self.notes,
            "dims": self.dims,
            "classes": self.classes,
            "not_used": dict(Counter(entry.kind for entry in self.ledger)),
        }

    def write(self, folder: Path | str) -> None:
        """Writes index.json, splits.json, availability.csv and ledger.csv; every rank may call it, the first one writes.

        Decode failures of any rank are appended to ledger.csv from then on.
        """
        from pytorch_lightning.utilities import rank_zero_only

        self.folder = Path(folder)
        if getattr(rank_zero_only, "rank", 0) == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "index.json").write_text(json.dumps(self.summary(), indent=1, ensure_ascii=False) + "\n")
            ids = {split: [s.id for s in rows] for split, rows in self.samples.items()}
            (self.folder / "splits.json").write_text(json.dumps(ids, ensure_ascii=False) + "\n")
            write_csv(self.folder / "availability.csv", AvailabilityCount, self.table)
            write_csv(self.folder / "ledger.csv", Entry, self.ledger)

    def record(self, failures: Iterable[Entry]) -> None:
        """Takes up clips that failed at decode time, each once, in memory and in ledger.csv."""
        for entry in failures:
            if entry in self.ledger:
                continue
            self.ledger.append(entry)
            log.warning("%s of %s left out: %s", entry.modality, entry.id, entry.reason)
            if self.folder is not None:
                write_csv(self.folder / "ledger.csv", Entry, [entry], append=True)


def check_all(
    modalities: Mapping[str, Modality], samples: Sequence[Sample], known_broken: frozenset[str] = frozenset()
) -> dict[str, dict[str, Availability]]:
    """Resolves every modality of every sample, in threads: sample id -> modality -> Availability.

    Args:
        modalities: bound and probed.
        known_broken: ids whose media the official release broke; all but their text counts as broken.
    """

    def one(sample: Sample) -> dict[str, Availability]:
        broken = Availability("broken", KNOWN)
        bad = sample.id in known_broken
        return {n: broken if bad and n != "text" else s.availability(sample) for n, s in modalities.items()}

    found: dict[str, dict[str, Availability]] = {}
    if samples:
        found[samples[0].id] = one(samples[0])  # alone, so that manifests are read before the threads start
    told = time.monotonic()
    chunks = [samples[k : k + CHUNK] for k in range(1, len(samples), CHUNK)]
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        for done in pool.map(lambda chunk: {s.id: one(s) for s in chunk}, chunks):
            found |= done
            if time.monotonic() - told > PROGRESS:
                told = time.monotonic()
                log.info("looked at %d of %d clips", len(found), len(samples))
    return found


def tabulate(
    samples: Sequence[Sample], availability: Mapping[str, Mapping[str, Availability]]
) -> list[AvailabilityCount]:
    """Counts samples by modality, split, mode and reason; reasons without the clip's own paths."""
    counts = Counter(
        (name, sample.split, r.mode, _general(r.reason, sample))
        for sample in samples
        for name, r in availability[sample.id].items()
    )
    order = {name: k for k, name in enumerate(next(iter(availability.values()), {}))}
    rows = [AvailabilityCount(name, split, mode, n, reason) for (name, split, mode, reason), n in counts.items()]
    return sorted(rows, key=lambda c: (order[c.modality], c.split, -c.count, c.reason))


def _general(reason: str, sample: Sample) -> str:
    media = [m.path for m in (sample.video, sample.audio) if m is not None]
    for own in (*media, *sample.files.values()):
        reason = reason.replace(str(own), "<clip>")
    return reason.replace(f"/{sample.id}.", "/<clip>.")


def describe(table: Sequence[AvailabilityCount]) -> dict[str, str]:
    """Modality -> one line: how many clips of each split have it in which way."""
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for row in table:
        counts.setdefault(row.modality, Counter())[row.split, row.mode] += row.count
    return {name: ", ".join(f"{split} {n} {mode}" for (split, mode), n in c.items()) for name, c in counts.items()}


def apply_policy(
    samples: Sequence[Sample], availability: Mapping[str, Mapping[str, Availability]], policy: str
) -> tuple[list[Sample], list[Entry]]:
    """Decides about clips that lack a modality.

    Args:
        policy: error = stop; skip = leave such a clip out; mask = keep it while it has one modality at least. Clips
            the official release broke are masked under every policy: their rows belong to the official counts.

    Returns:
        The samples kept, and the ledger.

    Raises:
        DataError: under policy error, with the first five.
    """
    kept: list[Sample] = []
    ledger: list[Entry] = []
    for sample in samples:
        found = availability[sample.id]
        gaps = [(name, r) for name, r in found.items() if not r.present]
        lacking = [Entry(sample.id, sample.split, name, r.mode, r.reason) for name, r in gaps]
        ledger += lacking
        unexpected = [entry for entry in lacking if entry.reason != KNOWN]
        if not any(r.present for r in found.values()):
            ledger.append(Entry(sample.id, sample.split, "", "dropped", "no modality is present"))
        elif unexpected and policy == "skip":
            names = ", ".join(entry.modality for entry in unexpected)
            ledger.append(Entry(sample.id, sample.split, "", "dropped", f"lacks {names}"))
        else:
            kept.append(sample)
    faults = [entry for entry in ledger if entry.kind in ("absent", "broken") and entry.reason != KNOWN]
    faults.sort(key=lambda entry: not entry.reason.startswith(NOT_EXTRACTED))  # these name the command that helps
    bare = Counter((e.modality, e.reason) for e in faults if e.reason.startswith(NOT_EXTRACTED))
    for (name, reason), n in bare.items():
        log.warning("%s: %d clips are %s", name, n, reason)
    if policy == "error" and faults:
        lines = [f"{e.id} ({e.split}) {e.modality}: {e.kind}, {e.reason}" for e in faults[:5]]
        lines += [f"and {len(faults) - 5} more"] if len(faults) > 5 else []
        raise DataError(
            f"{len({entry.id for entry in faults})} clips lack a modality ({len(faults)} gaps).",
            expected="every modality of every clip, for dataset.missing=error",
            got="\n            ".join(lines),
            hint="dataset.missing=mask (train without the modality), skip (leave the clip out), or hint the files",
        )
    return kept, ledger
