"""A modality: one named input of a clip, and where its features come from. The config node `modality.<name>`.

Data flow: Sample --availability--> Availability --read_clip (worker)--> StoredFeatures | EncoderInput | None
--collate--> ModalityBatch --ModalityEncoder (device)--> Features.

Shapes: B rows of a batch, R of them stored, T steps, D feature width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from hero_lightning.encoders.base import Encoder
from hero_lightning.errors import ConfigError, FeatureError, MediaError, in_range, one_of
from hero_lightning.features.fingerprint import SourceFingerprint
from hero_lightning.features.source import LIMIT, Availability, FeatureSource
from hero_lightning.features.store import EXTRACT, NOT_EXTRACTED, Store
from hero_lightning.media.action_units import PEAKS
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.face import FaceCropper, TableFaces
from hero_lightning.media.frame_samplers import FrameSampler
from hero_lightning.media.types import ClipInfo
from hero_lightning.types import (
    MODALITIES,
    EncoderInput,
    Features,
    Media,
    ModalityBatch,
    Row,
    Sample,
    StoredFeatures,
    file_name,
    pad,
)

log = logging.getLogger(__name__)

MODES = ("preextracted", "realtime", "auto")
PICTURES = ("frame", "face", "motion")
"""Modalities made from pictures: they need a sampler."""
TAKES = {"frame": "frames", "face": "frames", "motion": "frames", "audio": "audio", "au": "table", "text": "text"}
"""Raw material of each modality, see Encoder.takes."""


@dataclass(frozen=True)
class ModalityOptions:
    """How a modality is read.

    Attributes:
        max_len: longest sequence T in a batch; longer ones are thinned evenly (text: truncated).
        cache: whether mode auto writes computed features to the Store before training.
        context_turns: text modality only: number of previous turns of the dialogue.
        rate: steps per second of stored features without time stamps.
        size: shorter side of the decoded pictures in pixels; None = as stored.
        fallback: mode preextracted only: clips without stored features are decoded and encoded on the fly.
    """

    max_len: int = 64
    cache: bool = True
    context_turns: int = 0
    rate: float | None = None
    size: int | None = None
    fallback: bool = False


class Modality:
    """One named input of a clip and where its features come from. The arguments are the keys of its config node.

    Args:
        name: one of types.MODALITIES.
        mode: preextracted (read), realtime (decode and encode on the fly), auto (read if stored, else compute).
        encoder: zero-argument factory of an Encoder (a partial of its class).
        sampler: chooses the times of a video to decode; required by picture modalities.
        source: where stored features are read; None = the Store below the features root.
        detector: face modality only: where faces come from besides known boxes; None = crops from files.
        remedy: the command that extracts missing features, for messages; None = without the run's settings.
        options: how it is read; a config has its fields among the other keys.

    Attributes:
        encoder: without weights: serves `preprocess`.
        store: set by `bind`; None for encoders that learn.
    """

    groups: ClassVar[Mapping[str, type]] = {"options": ModalityOptions}

    def __init__(
        self,
        name: str,
        mode: str,
        encoder: Callable[[], Encoder] | None = None,
        sampler: FrameSampler | None = None,
        source: FeatureSource | None = None,
        detector: FaceCropper | None = None,
        remedy: str | None = None,
        options: ModalityOptions | None = None,
    ) -> None:
        self.name, self.mode, self.factory, self.sampler, self.source = name, mode, encoder, sampler, source
        self.options, self.remedy = options or ModalityOptions(), remedy or f"{EXTRACT} modalities=[{name}]"
        self.detector = detector or FaceCropper()
        self.dataset = ""
        self.store: Store | None = None
        self._check_plain()
        self.encoder = encoder() if encoder is not None else None
        self._check_encoder()

    def _wrong(self, problem: str, expected: str, got: object, key: str, hint: str | None = None) -> ConfigError:
        return ConfigError(problem, expected=expected, got=got, where=f"modality.{self.name}.{key}", hint=hint)

    def _check_plain(self) -> None:
        name, mode = self.name, self.mode
        one_of("modality", name, MODALITIES)
        one_of(f"modality.{name}.mode", mode, MODES)
        for key, floor in (("max_len", 1), ("context_turns", 0), ("size", 1), ("rate", 0)):
            if (value := getattr(self.options, key)) is not None:
                in_range(f"modality.{name}.{key}", value, f"[{floor}, inf)")
        if self.options.fallback and mode != "preextracted":
            raise self._wrong("Only stored features have a fallback.", "mode preextracted", mode, "fallback")
        if self.factory is None and (self.computes or self.source is None):
            expected = "an encoder" if self.computes else "a source, or the encoder that the store was made with"
            hint = f"encoder@modality.{name}.encoder=NAME, or mode preextracted with a source and no fallback"
            raise self._wrong(f"Mode {mode} of modality {name} needs an encoder.", expected, "none", "encoder", hint)
        if self.factory is not None and name in PICTURES and self.sampler is None:
            hint = f"sampler@modality.{name}.sampler=uniform"
            raise self._wrong(f"Modality {name} needs a sampler.", "a sampler", "none", "sampler", hint)
        if self.options.size and isinstance(self.detector, TableFaces):
            problem, hint = "Boxes of an AU table are in pixels of the video.", f"modality.{name}.size=null"
            raise self._wrong(problem, "pictures at their stored size", self.options.size, "size", hint)
        if self.computes and name == "face":
            self.detector.check()

    def _check_encoder(self) -> None:
        if self.encoder is None:
            return
        takes, wanted, name = self.encoder.takes, TAKES[self.name], self.name
        if takes != wanted:
            problem = f"{type(self.encoder).__name__} does not fit modality {name}."
            raise self._wrong(problem, f"an encoder that takes {wanted}", f"one that takes {takes}", "encoder")
        hint = f"mode@modality.{name}=realtime"
        if self.encoder.trainable and self.mode != "realtime":
            problem = f"The encoder of modality {name} learns, so its features cannot be stored."
            raise self._wrong(problem, "mode realtime, or a frozen encoder", f"mode {self.mode}", "encoder", hint)
        if self.mode == "preextracted" and self.source is None and not self.storable:
            problem = f"The sampler of modality {name} draws new times every epoch, so its features cannot be stored."
            raise self._wrong(problem, "a deterministic sampler", type(self.sampler).__name__, "sampler", hint)

    def bind(self, features_root: Path, dataset: str) -> None:
        """Sets the folder of its Store, features_root/dataset/modality/<name made from the identity>, and of peaks."""
        root = Path(features_root) / file_name(dataset)
        self.dataset = dataset
        if self.sampler is not None:
            self.sampler = self.sampler.with_peaks(root / PEAKS)
        if self.encoder is not None and not self.encoder.trainable:
            peaks = self.sampler.peaks_folder if self.sampler is not None else None
            fingerprint = SourceFingerprint(self.name, self.options.context_turns, peaks)
            self.store = Store.at(root / self.name, self.identity(), fingerprint, self.remedy)

    def identity(self) -> dict[str, Any]:
        """Everything its features depend on: dataset, modality, encoder, sampler and options, in builtins."""
        if self.encoder is None:
            assert self.source is not None
            return {"dataset": self.dataset, "modality": self.name, "source": self.source.identity()}
        pictures, own = self.name in PICTURES, {"dataset": self.dataset, "modality": self.name}
        options = {"size": self.options.size, **self.detector.identity()} if pictures else {}
        if self.name == "text":
            options = {"context_turns": self.options.context_turns}
        sampler = self.sampler.identity() if pictures and self.sampler is not None else {}
        return {**own, "encoder": self.encoder.identity(), "sampler": sampler, "options": options}

    @property
    def computes(self) -> bool:
        """Whether features may be computed on the fly."""
        return self.mode != "preextracted" or self.options.fallback

    @property
    def storable(self) -> bool:
        """Whether its features may be stored: a frozen encoder and a deterministic sampler."""
        if self.encoder is None or self.encoder.trainable:
            return False
        return self.sampler is None or self.name not in PICTURES or self.sampler.deterministic

    @property
    def cacheable(self) -> bool:
        """Whether the cache pass before training computes and stores missing features."""
        return self.mode == "auto" and self.options.cache and self.storable

    @property
    def dim(self) -> int:
        """Feature width D."""
        if self.source is not None and (width := self.source.width()) is not None:
            if self.computes and self.encoder is not None and width != self.encoder.dim:
                raise FeatureError(
                    f"Stored and computed features of modality {self.name} differ in width.",
                    expected=f"{self.encoder.dim} ({type(self.encoder).__name__})",
                    got=width,
                    where=f"modality.{self.name}: {self.source.identity()}",
                    hint=f"mode@modality.{self.name}=preextracted, or the encoder that made the features",
                )
            return width
        if self.encoder is not None:
            return self.encoder.dim
        raise FeatureError(
            f"The width of modality {self.name} is unknown: no feature could be read.",
            expected="at least one readable feature in the train split",
            got="none",
            where=f"modality.{self.name}: {self.identity()['source']}",
            hint="check the features folder",
        )

    def probe(self, samples: Iterable[Sample]) -> None:
        """Finds the width of foreign features in the train split; call before `dim`. FeatureError if widths differ."""
        if self.source is not None and self.mode != "realtime":
            self.source.probe(samples)

    def sources(self) -> list[FeatureSource]:
        """Sources of stored features, in order of preference."""
        if self.mode == "realtime":
            return []
        found: list[FeatureSource] = [self.source] if self.source is not None else []
        if self.store is not None and (self.source is None or self.mode == "auto") and self.storable:
            found.append(self.store)
        return found

    def stored_availability(self, sample: Sample) -> Availability:
        """Whether this clip's features are stored, in any mode; the reason is the store's."""
        found = [source.status(sample) for source in (self.source, self.store) if source is not None]
        return next((f for f in found if f.mode == "preextracted"), found[-1])

    def availability(self, sample: Sample) -> Availability:
        """Where this clip's features come from. A broken clip is a result; a missing feature set is a FeatureError."""
        if self.mode == "realtime":
            return self.media_availability(sample)
        if self.mode == "preextracted" and self.source is None:
            if self.store is None:
                expected, where = "bind(features_root, dataset) before use", f"modality.{self.name}"
                raise FeatureError(f"Modality {self.name} has no features root.", expected=expected, where=where)
            if not self.options.fallback:
                self.store.require()
        found = [source.status(sample) for source in self.sources()]
        if stored := next((f for f in found if f.mode == "preextracted"), None):
            return stored
        broken = next((f for f in found if f.mode == "broken"), None)
        if not self.computes:
            last = broken or found[-1]
            return Availability("absent", f"{last.reason}: {self.remedy}") if last.reason == NOT_EXTRACTED else last
        if self.store is not None and self.store.fault(sample) is not None:
            return found[-1]  # computing it has failed before
        media = self.media_availability(sample)
        if media.mode == "realtime" and (broken is not None or self.options.fallback):
            why = f"stored feature {broken.reason}" if broken is not None else found[-1].reason
            return Availability("realtime", ", ".join(filter(None, (media.reason, why))))
        return media

    def media_availability(self, sample: Sample) -> Availability:
        """Whether features can be computed from the clip's files: realtime, absent or broken."""
        match self.name:
            case "text":
                return Availability("realtime") if (sample.text or "").strip() else Availability("absent", "no text")
            case "au":
                return _file_availability(sample.files.get("au"), "no AU table")
            case "audio":
                found, info = _header_availability(sample.audio or sample.video, "no sound")
                return Availability("absent", "no sound") if info is not None and not info.has_audio else found
        media = self.media(sample)
        if media is None and sample.video is not None:
            return Availability("absent", "no face box, no crops and no detector")
        found, info = _header_availability(media, "no video")
        if info is None:
            return found
        if not info.has_video:
            return Availability("absent", "no picture")
        assert self.sampler is not None
        try:  # the run folder counts clips by the sampler's reason
            return Availability("realtime", self.sampler.plan(info, sample, 0, 0).reason)
        except MediaError as error:
            return Availability("broken", f"{error.problem} {error.details['where']}")

    def media(self, sample: Sample) -> Media | None:
        """Input of a picture modality: the clip, or a file of face crops; None = there is neither."""
        return self.detector.media(sample) if self.name == "face" else sample.video

    def length(self, sample: Sample) -> int | None:
        """Steps T of this clip in a batch, or None where only decoding would tell; for bucketing."""
        for source in self.sources():
            if (steps := source.length(sample)) is not None:
                return min(steps, self.options.max_len)
        if self.name == "text" and sample.text:
            turns = sample.turns[-self.options.context_turns :] if self.options.context_turns else ()
            return min(sum(len(t.split()) for t in (sample.text, *(u.text for u in turns))), self.options.max_len)
        return None

    def stored(self, sample: Sample) -> StoredFeatures:
        """Reads this clip's stored features. FeatureError if there are none, or one is not below `LIMIT`."""
        sources = self.sources()
        for source in sources:
            if len(sources) == 1 or source.contains(sample):
                ready = source.read(sample)
                if not bool((ready.x.abs() < LIMIT).all()):
                    problem, got = "A stored feature is NaN, infinite or too large.", f"{ready.x.abs().max():g}"
                    raise FeatureError(problem, expected=f"below {LIMIT:g}", got=got, where=source.describe(sample))
                if ready.time is None and self.options.rate:
                    ready.time = (torch.arange(ready.x.shape[0]) + 0.5) / self.options.rate  # middles of the steps
                return ready
        raise FeatureError(
            f"Sample {sample.id} has no stored features of modality {self.name}.",
            got=self.availability(sample).reason or "nothing stored",
            where="; ".join(source.describe(sample) for source in sources),
            hint=f"mode@modality.{self.name}=auto, or extract them: {self.remedy}",
        )

    def collate(self, rows: list[Row]) -> ModalityBatch:
        """Rows of a batch -> ModalityBatch; stored rows are padded to the longest and limited to `max_len` steps."""
        batch = ModalityBatch(len(rows))
        stored = [(b, r) for b, r in enumerate(rows) if isinstance(r, StoredFeatures)]
        inputs = [(b, r) for b, r in enumerate(rows) if isinstance(r, EncoderInput)]
        if stored:
            kept = [self.kept(r.x.shape[0]) for _, r in stored]
            x, mask = pad([r.x.float()[k] for (_, r), k in zip(stored, kept, strict=True)])  # [R, T, D], [R, T]
            times = [r.time[k] for (_, r), k in zip(stored, kept, strict=True) if r.time is not None]
            batch.stored = Features(x, mask, pad(times)[0] if len(times) == len(stored) else None)
            batch.stored_rows = torch.tensor([b for b, _ in stored])
        if inputs:
            assert self.encoder is not None
            batch.inputs = self.encoder.collate([r.inputs for _, r in inputs])
            batch.input_rows = torch.tensor([b for b, _ in inputs])
        return batch

    def kept(self, length: int) -> Tensor:
        """Indices of the steps that stay in a batch: [min(length, max_len)].

        Time series are thinned evenly, first and last step included. Text is truncated at its end; with context at its
        start, where the oldest turn is.
        """
        if length <= self.options.max_len:
            return torch.arange(length)
        if self.name != "text":
            return torch.linspace(0, length - 1, self.options.max_len).round().long()
        return torch.arange(self.options.max_len) + (length - self.options.max_len if self.options.context_turns else 0)

    def encoder_module(self) -> Encoder | None:
        """A loaded encoder, or None if features are only read."""
        return self.loaded_encoder() if self.computes else None

    def loaded_encoder(self) -> Encoder:
        """A new encoder with its weights, frozen ones without gradients and in eval mode."""
        assert self.factory is not None
        module = self.factory()
        module.load()
        if not module.trainable:
            module.requires_grad_(False)
        return module.train(module.trainable)


def _file_availability(path: Path | None, absent: str) -> Availability:
    """realtime, absent (with this reason) or broken (missing or empty file)."""
    if path is None:
        return Availability("absent", absent)
    if not os.path.exists(path):  # other than Path.exists without an error for any path
        return Availability("broken", f"file missing: {path}")
    if not os.path.isfile(path) and not os.path.isdir(path):
        return Availability("broken", f"a device or pipe: {path}")
    return Availability("realtime") if path.stat().st_size else Availability("broken", f"file is empty: {path}")


def _header_availability(media: Media | None, absent: str) -> tuple[Availability, ClipInfo | None]:
    found = _file_availability(media.path if media else None, absent)
    if media is None or found.mode != "realtime":
        return found, None
    info = _header(media, os.stat(media.path).st_mtime_ns)
    return (Availability("broken", info), None) if isinstance(info, str) else (found, info)


@lru_cache(maxsize=65536)
def _header(media: Media, changed: int) -> ClipInfo | str:
    """The clip's header, or why it cannot be read; cached for all modalities. `changed`: the file's mtime."""
    try:
        with ClipReader(media) as clip:
            return clip.info
    except MediaError as error:
        return f"{error.problem} {media.path}"
