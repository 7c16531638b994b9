"""Which modalities every clip has, what happens to clips that lack one, and the record of both in the run folder.

Data flow: samples, modalities --check_all--> Availability --apply_policy (error | skip | mask)--> samples kept, ledger
-> DatasetIndex -> index.json, splits.json, availability.csv, ledger.csv; decode failures are appended to the ledger.
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
"""Clips that a thread checks in one go."""
PROGRESS = 5.0
"""Seconds between two progress messages."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger: a modality, label or sample that is not used, and why.

    Attributes:
        modality: the Task where the kind is `unknown`; empty for a whole sample.
        kind: absent, broken (found when the dataset is indexed), failed (decoding), unknown (label), dropped (sample).
    """

    id: str
    split: str
    modality: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class AvailabilityCount:
    """Number of clips of a split by mode and reason of a modality, before any clip is left out."""

    modality: str
    split: str
    mode: str
    count: int
    reason: str


@dataclass(slots=True)
class DatasetIndex:
    """What is known about a dataset once it is indexed.

    Attributes:
        samples: split -> samples in order.
        availability: sample id -> modality -> Availability.
        dims: modality -> feature width D, of the modalities in use.
        classes: Task -> its class names.
        table: number of clips by modality, split, mode and reason.
        split_origin: split -> where it comes from.
        notes: sentences to report with every result (modalities and Tasks left out, official counts not met).
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
        """The content of index.json."""
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
        """Writes index.json, splits.json, availability.csv and ledger.csv on rank 0; all ranks must call it.

        From then on every rank appends its decode failures to ledger.csv.
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
        """Adds decode failures to the ledger and to ledger.csv, each once."""
        for entry in (e for e in failures if e not in self.ledger):
            self.ledger.append(entry)
            log.warning("%s of %s left out: %s", entry.modality, entry.id, entry.reason)
            if self.folder is not None:
                write_csv(self.folder / "ledger.csv", Entry, [entry], append=True)


def check_all(
    modalities: Mapping[str, Modality], samples: Sequence[Sample], known_broken: frozenset[str] = frozenset()
) -> dict[str, dict[str, Availability]]:
    """Availability of every modality of every sample, checked in threads: sample id -> modality -> Availability.

    Args:
        modalities: bound and probed.
        known_broken: ids whose media are broken in the official release; everything but their text counts as broken.
    """
    broken = Availability("broken", KNOWN)

    def check(chunk: Sequence[Sample]) -> dict[str, dict[str, Availability]]:
        bad = {s.id for s in chunk} & known_broken
        return {
            s.id: {n: broken if s.id in bad and n != "text" else m.availability(s) for n, m in modalities.items()}
            for s in chunk
        }

    found = check(samples[:1])  # alone, so that manifests are read before the threads start
    last_message = time.monotonic()
    chunks = [samples[k : k + CHUNK] for k in range(1, len(samples), CHUNK)]
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        for part in pool.map(check, chunks):
            found |= part
            if time.monotonic() - last_message > PROGRESS:
                last_message = time.monotonic()
                log.info("checked %d of %d clips", len(found), len(samples))
    return found


def tabulate(
    samples: Sequence[Sample], availability: Mapping[str, Mapping[str, Availability]]
) -> list[AvailabilityCount]:
    """Counts samples by modality, split, mode and reason; a reason's path of the clip itself becomes `<clip>`."""
    counts = Counter(
        (name, sample.split, r.mode, _general(r.reason, sample))
        for sample in samples
        for name, r in availability[sample.id].items()
    )
    order = {name: k for k, name in enumerate(next(iter(availability.values()), {}))}
    rows = [AvailabilityCount(name, split, mode, n, reason) for (name, split, mode, reason), n in counts.items()]
    return sorted(rows, key=lambda c: (order[c.modality], c.split, -c.count, c.reason))


def _general(reason: str, sample: Sample) -> str:
    for path in (*(m.path for m in (sample.video, sample.audio) if m), *sample.files.values()):
        reason = reason.replace(str(path), "<clip>")
    return reason.replace(f"/{sample.id}.", "/<clip>.")


def describe(table: Sequence[AvailabilityCount]) -> dict[str, str]:
    """Modality -> one line with the number of clips by split and mode."""
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for row in table:
        counts.setdefault(row.modality, Counter())[row.split, row.mode] += row.count
    return {name: ", ".join(f"{split} {n} {mode}" for (split, mode), n in c.items()) for name, c in counts.items()}


def apply_policy(
    samples: Sequence[Sample], availability: Mapping[str, Mapping[str, Availability]], policy: str
) -> tuple[list[Sample], list[Entry]]:
    """Applies `dataset.missing` to clips that lack a modality.

    Args:
        policy: error = stop; skip = leave the clip out; mask = keep it as long as it has one modality. Clips that are
            broken in the official release are masked under every policy, because the official counts include them.

    Returns:
        The samples kept, and the ledger.

    Raises:
        DataError: under policy error; the message names the first five.
    """
    kept: list[Sample] = []
    ledger: list[Entry] = []
    faults: list[Entry] = []
    for sample in samples:
        found = availability[sample.id]
        gaps = [Entry(sample.id, sample.split, n, r.mode, r.reason) for n, r in found.items() if not r.present]
        unexpected = [entry for entry in gaps if entry.reason != KNOWN]
        ledger += gaps
        faults += unexpected
        if len(gaps) == len(found):
            ledger.append(Entry(sample.id, sample.split, "", "dropped", "no modality is present"))
        elif unexpected and policy == "skip":
            names = ", ".join(entry.modality for entry in unexpected)
            ledger.append(Entry(sample.id, sample.split, "", "dropped", f"lacks {names}"))
        else:
            kept.append(sample)
    faults.sort(key=lambda entry: not entry.reason.startswith(NOT_EXTRACTED))  # these name the command that helps
    missing = Counter((e.modality, e.reason) for e in faults if e.reason.startswith(NOT_EXTRACTED))
    for (name, reason), n in missing.items():
        log.warning("%s: %d clips are %s", name, n, reason)
    if policy == "error" and faults:
        lines = [f"{e.id} ({e.split}) {e.modality}: {e.kind}, {e.reason}" for e in faults[:5]]
        lines += [f"and {len(faults) - 5} more"] if len(faults) > 5 else []
        problem = f"{len({entry.id for entry in faults})} clips lack a modality ({len(faults)} gaps)."
        expected, got = "every modality of every clip, for dataset.missing=error", "\n            ".join(lines)
        hint = "dataset.missing=mask (train without the modality), or dataset.missing=skip (leave the clip out)"
        raise DataError(problem, expected=expected, got=got, hint=hint)
    return kept, ledger
