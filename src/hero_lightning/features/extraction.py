"""Computes features and writes them to the Store, for the cache pass of mode auto and the `extract` command.

Data flow: modalities + samples -> plan of parts -> DataLoader (opens each clip once for all its modalities) -> Encoder
on the device -> Store.write -> manifest. Several processes can share the parts.

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
from hero_lightning.errors import ConfigError, DataError, FeatureError, cause, one_of
from hero_lightning.features.modality import Modality
from hero_lightning.features.part import DTYPES
from hero_lightning.features.read import NO_FACE, read_clip
from hero_lightning.features.source import Availability
from hero_lightning.features.store import Fault
from hero_lightning.types import EncoderInput, Row, Sample, StoredFeatures

log = logging.getLogger(__name__)

PROBLEMS = (DataError, OSError, ValueError, RuntimeError, MemoryError)
"""Errors of a single clip; recorded in the store as its fault."""
PROGRESS = 15.0
"""Seconds between two progress messages without a terminal."""
DEAD = "DataLoader worker"
"""Start of torch's message about a dead worker."""
SYSTEMIC = 4
"""If this many clips of a batch all fail, also one by one, or the first ones of a run, the encoder is at fault."""


@dataclass(slots=True)
class Summary:
    """Result of `fill` by modality.

    Attributes:
        written: number of clips whose features were written.
        kept: number of clips that were stored before.
        absent: number of clips without the modality.
        failed: id -> error of clips that could not be decoded or encoded.
        seconds: duration of the run.
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
    """Parts of several modalities with the same ids: their clips are opened once."""

    ids: list[str]
    parts: dict[str, str]  # modality -> file
    rows: dict[str, dict[str, StoredFeatures]]
    faults: dict[str, dict[str, Fault]]
    reasons: dict[str, dict[str, str]]
    stamps: dict[str, dict[str, str | None]]


@dataclass(slots=True)
class _Clip:
    """One clip as returned by a worker."""

    id: str
    rows: dict[str, Row]
    faults: dict[str, Fault]
    reasons: dict[str, str]
    stamps: dict[str, str | None]  # fingerprints of its files, taken before they are read


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
    """Computes and stores missing features. A run that was killed can be repeated and ends with the same files.

    Args:
        modalities: bound modalities by name; each must be storable.
        samples: clips; those stored already, or present in a modality's own source, are skipped.
        batch_size: clips per call of an encoder.
        device: of the encoders.
        workers: processes that decode; 0 = this one.
        progress: show a progress bar.
        dtype: float32, bfloat16 or float16, of new stores.
        part_size: clips per part.
        retry: try clips again that failed before, even if their files are unchanged.
        force: delete what these modalities have stored first.
        share: (k, n): of n processes given the same modalities and samples, the k-th (from 0) does every n-th part. The
            resulting stores are those of a single process.

    Raises:
        ConfigError: a modality whose features must not be stored.
        FeatureError: the store has other settings.
        DataError: a file cannot be written, or a process that decodes died.
    """
    started, summary, shared = time.monotonic(), Summary(), share != (0, 1)
    _check(modalities, dtype)
    if (force or retry) and shared:
        raise ConfigError(
            "Parallel extraction supports neither force nor retry: each process would undo the work of the others.",
            expected="part=null with force=true or retry=true",
            got=f"part={share[0] + 1}/{share[1]}",
            where="part",
            hint="force or retry in one process, or extract in parts to another paths.features",
        )
    with ExitStack() as locks:
        locks.enter_context(_locked(modalities.values()))
        groups = _plan(modalities, samples, summary, dtype, part_size, retry, force, share)
        if shared:
            locks.close()  # the other processes plan and work at the same time; their parts do not overlap with ours
        try:
            by_id = {s.id: s for s in samples}
            _work(modalities, by_id, groups, summary, batch_size, torch.device(device), workers, progress)
        finally:
            if shared:
                locks.enter_context(_locked(modalities.values()))
            for modality in modalities.values():
                assert modality.store is not None
                modality.store.update_manifest()
    summary.seconds = time.monotonic() - started
    return summary


def _plan(
    modalities: Mapping[str, Modality],
    samples: Sequence[Sample],
    summary: Summary,
    dtype: str,
    part_size: int,
    retry: bool,
    force: bool,
    share: tuple[int, int],
) -> list[_Group]:
    """Plans the parts of every store and groups those with the same ids."""
    groups: dict[tuple[str, ...], _Group] = {}
    for name, modality in modalities.items():
        assert modality.store is not None
        if force:
            modality.store.clear()
        source = modality.source if modality.mode == "auto" else None
        wanted = [s for s in samples if source is None or not source.contains(s)]
        for file, ids in modality.store.plan(wanted, dtype, part_size, retry, share).items():
            group = groups.setdefault(tuple(ids), _Group(ids, {}, {}, {}, {}, {}))
            group.parts[name] = file
            group.rows[name], group.faults[name], group.reasons[name], group.stamps[name] = {}, {}, {}, {}
        summary.written[name] = summary.absent[name] = 0
        summary.failed[name] = {}
        summary.kept[name] = sum(modality.store.contains(s) for s in wanted)
    return list(groups.values())


@contextmanager
def _locked(modalities: Iterable[Modality]) -> Iterator[None]:
    """Holds the locks of all stores, always in the same order."""
    with ExitStack() as locks:
        for store in sorted((s.store for s in modalities if s.store is not None), key=lambda store: store.folder):
            locks.enter_context(store.locked())
        yield


def _check(modalities: Mapping[str, Modality], dtype: str) -> None:
    one_of("dtype", dtype, DTYPES)
    for name, modality in modalities.items():
        if not modality.storable or modality.store is None:
            raise ConfigError(
                f"Features of modality {name} cannot be stored.",
                expected="a bound modality with a frozen encoder and a deterministic sampler",
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
    """Decodes, encodes and writes the groups one by one. DataError if a worker process dies."""
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
        _Clips(dict(modalities), jobs), batch_sampler=batches, num_workers=workers, collate_fn=list
    )
    unproven = {
        name: 0 for name in encoders
    }  # modality -> clips that its encoder failed on, until the first it does not
    try:
        for group, clips in zip(owners, _with_progress(loader, len(jobs), progress), strict=True):
            for name in group.parts:
                rows = _encode(encoders[name], name, clips, device)
                _check_encoder(name, rows, unproven)
                for clip in clips:
                    group.stamps[name][clip.id] = clip.stamps[name]
                    row = rows[clip.id]
                    if isinstance(row, StoredFeatures):
                        group.rows[name][clip.id] = row
                        group.reasons[name][clip.id] = clip.reasons[name]
                    else:
                        group.faults[name][clip.id] = row
            if clips[-1].id == group.ids[-1]:
                _finish(modalities, group, summary, samples)
    except RuntimeError as error:
        if DEAD not in str(error):
            raise
        problem, where = "A process that decodes clips died.", f"dataset.num_workers={workers}"
        hint = (
            "run the same command again: finished parts are kept; fewer workers need less memory, and "
            "dataset.num_workers=0 shows which clip it is"
        )
        raise DataError(problem, got=cause(error), where=where, hint=hint) from error


def _check_encoder(name: str, rows: Mapping[str, StoredFeatures | Fault], unproven: dict[str, int]) -> None:
    """FeatureError if the encoder has failed on the first SYSTEMIC clips of the run."""
    if name not in unproven:
        return
    failed = {id: row for id, row in rows.items() if not isinstance(row, StoredFeatures) and row["stage"] == "encode"}
    if any(isinstance(row, StoredFeatures) for row in rows.values()):
        del unproven[name]
    elif failed and (count := unproven[name] + len(failed)) >= SYSTEMIC:
        id, fault = next(iter(failed.items()))
        problem, where = f"The encoder of modality {name} fails on every clip.", f"modality.{name}.encoder"
        got = f"{fault['error']} for the first {count} clips, e.g. {id}"
        raise FeatureError(problem, expected="finite features", got=got, where=where, hint="another encoder or dtype")
    else:
        unproven[name] += len(failed)


def _finish(modalities: Mapping[str, Modality], group: _Group, summary: Summary, samples: Mapping[str, Sample]) -> None:
    """Writes a group's parts and frees its features."""
    for name, file in group.parts.items():
        store, faults = modalities[name].store, group.faults[name]
        assert store is not None
        store.write(file, group.rows[name], faults, samples, group.reasons[name], group.stamps[name])
        summary.written[name] += len(group.rows[name])
        for id, fault in faults.items():
            if fault["stage"] in ("absent", "short"):
                summary.absent[name] += 1
            else:
                summary.failed[name][id] = fault["error"]
                log.warning("%s: no %s features (%s): %s", id, name, fault["stage"], fault["error"])
    group.rows, group.faults, group.reasons, group.stamps = {}, {}, {}, {}


def _encode(encoder: Encoder, name: str, clips: list[_Clip], device: torch.device) -> dict[str, StoredFeatures | Fault]:
    """Encodes one modality of a batch; if the batch fails, each clip alone."""
    out: dict[str, StoredFeatures | Fault] = {c.id: c.faults[name] for c in clips if name in c.faults}
    rows = {c.id: row for c in clips if isinstance(row := c.rows.get(name), EncoderInput)}
    if not rows:
        return out
    try:
        inputs = {k: v.to(device) for k, v in encoder.collate([r.inputs for r in rows.values()]).items()}
        with torch.inference_mode():
            features = encoder.encode(inputs)
    except PROBLEMS as error:
        if DEAD in str(error):
            raise  # torch reports a dead worker at any point of the main process
        if len(rows) == 1:
            return out | {next(iter(rows)): _fault("encode", error)}
        for clip in clips:
            out |= _encode(encoder, name, [clip], device)
        if len(rows) >= SYSTEMIC and not any(isinstance(out[id], StoredFeatures) for id in rows):
            raise
        return out
    for b, (id, row) in enumerate(rows.items()):
        mask = features.mask[b]
        x = features.x[b, mask].float().cpu()  # [T, D]
        time = features.time[b, mask].cpu() if features.time is not None else None
        if not len(x):
            out[id] = _fault("short", "too short for one step")
        elif not bool(torch.isfinite(x).all()):
            out[id] = _fault("encode", "NaN or Inf in the features")
        else:
            out[id] = StoredFeatures(x, time, row.measures)
    return out


def _fault(stage: str, error: Exception | str) -> Fault:
    text = error.problem if isinstance(error, DataError) else str(error).strip() or type(error).__name__
    where = error.details["where"] if isinstance(error, DataError) else None
    return {"stage": stage, "error": f"{text} {where}" if where else text}


class _Clips(Dataset):
    """Reads one clip for the modalities that need it; errors of a clip are returned as its faults."""

    def __init__(self, modalities: dict[str, Modality], jobs: list[tuple[Sample, tuple[str, ...]]]) -> None:
        self.modalities, self.jobs = modalities, jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> _Clip:
        sample, names = self.jobs[index]
        clip, wanted = _Clip(sample.id, {}, {}, {}, {}), {}
        for name in names:
            store = self.modalities[name].store
            clip.stamps[name] = store.fingerprint(sample) if store is not None and store.fingerprint else None
            found = self.modalities[name].media_availability(sample)
            if found.mode == "realtime":
                wanted[name], clip.reasons[name] = found, found.reason
            else:
                clip.faults[name] = _fault("absent" if found.mode == "absent" else "decode", found.reason)
        try:
            clip.rows.update(self._read(sample, wanted))
        except PROBLEMS:
            for name, found in wanted.items():  # a fault of one modality does not concern the others
                try:
                    clip.rows.update(self._read(sample, {name: found}))
                except PROBLEMS as error:
                    clip.faults[name] = _fault("decode", error)
        empty = [name for name in wanted if name not in clip.faults and clip.rows[name] is None]
        clip.faults |= {name: _fault("absent", NO_FACE) for name in empty}
        return clip

    def _read(self, sample: Sample, wanted: dict[str, Availability]) -> dict[str, Row]:
        return read_clip({n: self.modalities[n] for n in wanted}, wanted, sample)


def _with_progress(batches: Iterable[list[_Clip]], total: int, progress: bool) -> Iterator[list[_Clip]]:
    """The batches; shows clips per second and the time left as a bar, or in the log without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        *(TextColumn("features"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")),
        TimeRemainingColumn(), console=console, disable=not (progress and console.is_terminal),
    )  # fmt: skip
    done, logged = 0, (started := time.monotonic())
    with bar:
        task = bar.add_task("features", total=total, rate="")
        for clips in batches:
            yield clips
            done, now = done + len(clips), time.monotonic()
            rate = done / max(now - started, 1e-9)
            bar.update(task, advance=len(clips), rate=f"{rate:.1f} clips/s")
            if progress and bar.disable and (now - logged > PROGRESS or done == total):
                logged = now
                log.info("%d of %d clips, %.1f clips/s, %.0f s left", done, total, rate, (total - done) / rate)
