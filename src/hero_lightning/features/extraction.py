"""Writes features to the Store: the engine behind the cache pass of mode auto and behind the `extract` command.

Data flow: modalities + samples -> plan of parts -> DataLoader (each clip opened once for all modalities that need it)
-> Encoder on the device -> Store.write -> manifest. Of n processes each may take its share of the parts.

Shapes: T steps, D feature width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader, Dataset

from hero_lightning.encoders.base import Encoder
from hero_lightning.errors import ConfigError, DataError
from hero_lightning.features.modality import Modality
from hero_lightning.features.read import NO_FACE, read_clip
from hero_lightning.features.source import Availability
from hero_lightning.features.store import DTYPES, Fault
from hero_lightning.types import EncoderInput, Row, Sample, StoredFeatures

log = logging.getLogger(__name__)

PROBLEMS = (DataError, OSError, ValueError, RuntimeError)
"""What a bad clip may raise; it is entered in the ledger and the others go on."""
PROGRESS = 15.0
"""Seconds between two lines of progress where no terminal shows a bar."""
DEAD = "DataLoader worker"
"""What torch's message of a dead worker begins with."""
SYSTEMIC = 4
"""So many clips of a batch, each failing alone too, tell that the fault is the encoder's: it is raised, not stored."""


@dataclass(slots=True)
class Summary:
    """What a `fill` did, per modality.

    Attributes:
        written: clips whose features were written now.
        kept: clips that were stored before.
        absent: clips that have no such modality.
        failed: id -> why, of the clips that could not be read or encoded.
        seconds: wall clock of the whole run.
    """

    written: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [
            f"{name}: {self.written[name]} written, {self.kept[name]} kept, {self.absent[name]} absent, "
            f"{len(self.failed[name])} failed"
            for name in self.written
        ]
        return "\n".join([*lines, f"{self.seconds:.1f} s"])


@dataclass(slots=True)
class _Group:
    """Parts of several modalities that hold the same ids: their clips are opened once."""

    ids: list[str]
    parts: dict[str, str]  # modality -> file
    rows: dict[str, dict[str, StoredFeatures]]
    faults: dict[str, dict[str, Fault]]
    reasons: dict[str, dict[str, str]]


@dataclass(slots=True)
class _Clip:
    """One clip as it leaves the worker."""

    id: str
    rows: dict[str, Row]
    faults: dict[str, Fault]
    reasons: dict[str, str]


def fill(
    modalities: Mapping[str, Modality],
    samples: Sequence[Sample],
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: bool = False,
    dtype: str = "float32",
    part_size: int = 256,
    retry: bool = False,
    force: bool = False,
    share: tuple[int, int] = (0, 1),
) -> Summary:
    """Computes and stores what is missing. A killed run, started again, goes on and ends with the same files.

    Args:
        modalities: bound modalities by name; each must be storable.
        samples: clips; those stored already, or present in a modality's own source, are left alone.
        batch_size: clips per call of an encoder.
        device: where encoders run.
        workers: processes that decode; 0 = this one.
        progress: show a bar with rate and time left.
        dtype: float32, bfloat16 or float16, of stores that do not exist yet.
        part_size: clips per part.
        retry: try again what failed before, though its file is the same.
        force: throw away what these modalities have stored and begin anew.
        share: (k, n): of n processes given the same modalities and samples, the k-th (from 0) does every n-th part. When
            all are done the stores are those that one process would have written.

    Returns:
        What was done.

    Raises:
        ConfigError: a modality whose features must not be stored.
        FeatureError: the disk is full, or the store was made with other settings.
        DataError: a process that decodes died.
    """
    started = time.monotonic()
    summary = Summary()
    by_id = {s.id: s for s in samples}
    _check(modalities, dtype)
    alone = share == (0, 1)
    if (force or retry) and not alone:
        raise ConfigError(
            "A part of an extraction can neither force nor retry: each part would undo the others.",
            expected="part=null with force=true or retry=true",
            got=f"part={share[0] + 1}/{share[1]}",
            where="part",
            hint="force or retry in one process, or begin in parts with another paths.features",
        )
    groups: dict[tuple[str, ...], _Group] = {}
    with ExitStack() as locks:
        locks.enter_context(_locked(modalities.values()))
        for name, modality in modalities.items():
            assert modality.store is not None
            if force:
                modality.store.clear()
            source = modality.source if modality.mode == "auto" else None
            wanted = [s for s in samples if source is None or not source.has(s)]
            for file, ids in modality.store.plan(wanted, dtype, part_size, retry, share).items():
                group = groups.setdefault(tuple(ids), _Group(ids, {}, {}, {}, {}))
                group.parts[name], group.rows[name], group.faults[name], group.reasons[name] = file, {}, {}, {}
            summary.written[name] = summary.absent[name] = 0
            summary.failed[name] = {}
            summary.kept[name] = sum(modality.store.has(s) for s in wanted)
        if not alone:
            locks.close()  # the others plan and work at the same time; their parts cannot overlap with ours
        try:
            _work(
                modalities, by_id, list(groups.values()), summary, batch_size, torch.device(device), workers, progress
            )
        except RuntimeError as error:
            if DEAD not in str(error):
                raise
            raise DataError(
                "A process that decodes clips died.",
                got=str(error).splitlines()[0],
                where=f"dataset.num_workers={workers}",
                hint="start the same command again: finished parts are kept; fewer workers need less memory, and "
                "dataset.num_workers=0 shows which clip it is",
            ) from error
        finally:
            if not alone:
                locks.enter_context(_locked(modalities.values()))
            for modality in modalities.values():
                assert modality.store is not None
                modality.store.enter()
    summary.seconds = time.monotonic() - started
    return summary


@contextmanager
def _locked(modalities: Iterable[Modality]) -> Iterator[None]:
    """Holds the locks of all stores, always in the same order."""
    with ExitStack() as locks:
        for store in sorted((s.store for s in modalities if s.store is not None), key=lambda store: store.folder):
            locks.enter_context(store.locked())
        yield


def _check(modalities: Mapping[str, Modality], dtype: str) -> None:
    if dtype not in DTYPES:
        raise ConfigError("Unknown dtype of stored features.", expected=", ".join(DTYPES), got=dtype, where="dtype")
    for name, modality in modalities.items():
        if not modality.storable or modality.store is None:
            raise ConfigError(
                f"Features of modality {name} cannot be stored.",
                expected="a bound modality with a frozen encoder and a sampler without chance",
                got=modality.identity(),
                where=f"modality.{name}",
                hint=f"mode@modality.{name}=realtime, or another encoder or sampler",
            )


def _work(
    modalities: Mapping[str, Modality],
    samples: Mapping[str, Sample],
    groups: list[_Group],
    summary: Summary,
    batch_size: int,
    device: torch.device,
    workers: int,
    progress: bool,
) -> None:
    """Decodes, encodes and writes the groups, one after the other."""
    jobs = [(samples[id], tuple(group.parts)) for group in groups for id in group.ids]
    if not jobs:
        return
    batches, owners, first = [], [], 0
    for group in groups:
        for start in range(0, len(group.ids), batch_size):
            batches.append(list(range(first + start, first + min(start + batch_size, len(group.ids)))))
            owners.append(group)
        first += len(group.ids)
    encoders = {name: modalities[name].loaded_encoder().to(device) for name in {n for g in groups for n in g.parts}}
    loader: DataLoader = DataLoader(
        _Clips(dict(modalities), jobs), batch_sampler=batches, num_workers=workers, collate_fn=_as_they_are
    )
    for group, clips in zip(owners, _shown(loader, len(jobs), progress), strict=True):
        for name in group.parts:
            rows = _encode(encoders[name], name, clips, device)
            for clip in clips:
                got = rows[clip.id]
                if isinstance(got, StoredFeatures):
                    group.rows[name][clip.id] = got
                    group.reasons[name][clip.id] = clip.reasons[name]
                else:
                    group.faults[name][clip.id] = got
        if clips[-1].id == group.ids[-1]:
            _finish(modalities, group, summary, samples)


def _finish(modalities: Mapping[str, Modality], group: _Group, summary: Summary, samples: Mapping[str, Sample]) -> None:
    """Writes a group's parts and lets go of its features."""
    for name, file in group.parts.items():
        store, faults = modalities[name].store, group.faults[name]
        assert store is not None
        store.write(file, group.rows[name], faults, samples, group.reasons[name])
        summary.written[name] += len(group.rows[name])
        for id, fault in faults.items():
            if fault["stage"] in ("absent", "short"):
                summary.absent[name] += 1
            else:
                summary.failed[name][id] = fault["error"]
                log.warning("%s: no %s features (%s): %s", id, name, fault["stage"], fault["error"])
    group.rows, group.faults, group.reasons = {}, {}, {}


def _encode(encoder: Encoder, name: str, clips: list[_Clip], device: torch.device) -> dict[str, StoredFeatures | Fault]:
    """Encodes one modality of a batch; where the batch fails, each clip is tried alone."""
    out: dict[str, StoredFeatures | Fault] = {c.id: c.faults[name] for c in clips if name in c.faults}
    raw = {c.id: row for c in clips if isinstance(row := c.rows.get(name), EncoderInput)}
    if not raw:
        return out
    try:
        inputs = {k: v.to(device) for k, v in encoder.collate([r.inputs for r in raw.values()]).items()}
        with torch.inference_mode():
            features = encoder.encode(inputs)
    except PROBLEMS as error:
        if DEAD in str(error):
            raise  # torch tells of a dead worker wherever the main process is; no clip is at fault
        if len(raw) == 1:
            return out | {next(iter(raw)): _fault("encode", error)}
        for clip in clips:
            out |= _encode(encoder, name, [clip], device)
        if len(raw) >= SYSTEMIC and not any(isinstance(out[id], StoredFeatures) for id in raw):
            raise  # not the clips: the encoder or the device
        return out
    for b, (id, source) in enumerate(raw.items()):
        mask = features.mask[b]
        x = features.x[b, mask].float().cpu()  # [T, D]
        clock = features.time[b, mask].cpu() if features.time is not None else None
        if not len(x):
            out[id] = _fault("short", "too short for one step")
        elif not bool(torch.isfinite(x).all()):
            out[id] = _fault("encode", "NaN or Inf in the features")
        else:
            out[id] = StoredFeatures(x, clock, source.measures)
    return out


def _fault(stage: str, error: Exception | str) -> Fault:
    said = error.problem if isinstance(error, DataError) else str(error).strip() or type(error).__name__
    where = error.details["where"] if isinstance(error, DataError) else None
    return {"stage": stage, "error": f"{said} {where}" if where else said}


class _Clips(Dataset):
    """Reads one clip for the modalities that need it; a bad one comes back as its faults."""

    def __init__(self, modalities: dict[str, Modality], jobs: list[tuple[Sample, tuple[str, ...]]]) -> None:
        self.modalities, self.jobs = modalities, jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> _Clip:
        sample, names = self.jobs[index]
        clip, wanted = _Clip(sample.id, {}, {}, {}), {}
        for name in names:
            found = self.modalities[name].media_availability(sample)
            if found.mode == "realtime":
                wanted[name], clip.reasons[name] = found, found.reason
            else:
                clip.faults[name] = _fault("absent" if found.mode == "absent" else "decode", found.reason)
        try:
            clip.rows.update(self._read(sample, wanted))
        except PROBLEMS:
            for name, found in wanted.items():  # one modality's fault must not take the others along
                try:
                    clip.rows.update(self._read(sample, {name: found}))
                except PROBLEMS as error:
                    clip.faults[name] = _fault("decode", error)
        empty = [name for name in wanted if name not in clip.faults and clip.rows[name] is None]
        clip.faults |= {name: _fault("absent", NO_FACE) for name in empty}
        return clip

    def _read(self, sample: Sample, wanted: dict[str, Availability]) -> dict[str, Row]:
        return read_clip({n: self.modalities[n] for n in wanted}, wanted, sample)


def _as_they_are(clips: list[_Clip]) -> list[_Clip]:
    return clips


def _shown(batches: Iterable[list[_Clip]], total: int, progress: bool) -> Iterator[list[_Clip]]:
    """The batches, with clips per second and the time left: a bar, or a line now and then where no terminal is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        *(TextColumn("features"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")),
        TimeRemainingColumn(), console=console, disable=not (progress and console.is_terminal),
    )  # fmt: skip
    done, told = 0, (begun := time.monotonic())
    with bar:
        task = bar.add_task("features", total=total, rate="")
        for clips in batches:
            yield clips
            done, now = done + len(clips), time.monotonic()
            rate = done / max(now - begun, 1e-9)
            bar.update(task, advance=len(clips), rate=f"{rate:.1f} clips/s")
            if progress and bar.disable and (now - told > PROGRESS or done == total):
                told = now
                log.info("%d of %d clips, %.1f clips/s, %.0f s left", done, total, rate, (total - done) / rate)
