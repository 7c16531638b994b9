"""A modality: one named input of a clip, and how its features are had. The config node `modality.<name>`.

Data flow: Sample --resolve (index time)--> Availability --read_clip (worker)--> StoredFeatures | EncoderInput | None --collate-->
ModalityBatch --ModalityEncoder (device)--> Features.

Shapes: B rows of a batch, T steps, D feature width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hero_lightning.encoders.base import Encoder
from hero_lightning.errors import ConfigError, FeatureError, MediaError
from hero_lightning.features.fingerprint import SourceFingerprint
from hero_lightning.features.source import Availability, FeatureSource
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
    pad,
)

log = logging.getLogger(__name__)

MODES = ("preextracted", "realtime", "auto")
PICTURES = ("frame", "face", "motion")
"""Modalities made from pictures: they need a sampler."""
TAKES = {"frame": "frames", "face": "frames", "motion": "frames", "audio": "audio", "au": "table", "text": "text"}
"""EncoderInput material of each modality."""


class Modality:
    """One named input of a clip and the only place that knows its mode.

    Args:
        name: one of data.types.MODALITIES.
        mode: preextracted (read), realtime (decode and encode now), auto (read where present, else compute).
        encoder: zero-argument factory of an Encoder (a partial of its class).
        sampler: which times of a video are looked at; picture modalities need it.
        source: where stored features are read; None = our own Store below the features root.
        max_len: longest sequence T in a batch; longer ones are thinned evenly (text: cut).
        cache: whether mode auto writes what it computed to the Store before training.
        context_turns: previous turns of the dialogue that the text modality sees.
        rate: steps per second of stored features without a clock.
        size: pixels of the decoded pictures' shorter side; None = as they are.
        fallback: mode preextracted only: a clip without stored features is decoded and encoded now, and counted.
        detector: face modality only: where faces come from beside known boxes; None = crops from files.
        remedy: the command that extracts what is missing, for messages; None = the plain one.
    """

    def __init__(
        self,
        name: str,
        mode: str,
        encoder: Callable[[], Encoder] | None = None,
        sampler: FrameSampler | None = None,
        source: FeatureSource | None = None,
        max_len: int = 64,
        cache: bool = True,
        context_turns: int = 0,
        rate: float | None = None,
        size: int | None = None,
        fallback: bool = False,
        detector: FaceCropper | None = None,
        remedy: str | None = None,
    ) -> None:
        self.name, self.mode, self.factory, self.sampler, self.source = name, mode, encoder, sampler, source
        self.max_len, self.cache, self.context_turns, self.rate, self.size = max_len, cache, context_turns, rate, size
        self.fallback, self.remedy = fallback, remedy or f"{EXTRACT} modalities=[{name}]"
        self.detector = detector or FaceCropper()
        self.dataset = ""
        self.store: Store | None = None
        self._check_plain()
        self.encoder = encoder() if encoder is not None else None  # bare: no weights, serves `preprocess`
        self._check_encoder()

    def _wrong(self, problem: str, expected: str, got: object, key: str, hint: str | None = None) -> ConfigError:
        return ConfigError(problem, expected=expected, got=got, where=f"modality.{self.name}.{key}", hint=hint)

    def _check_plain(self) -> None:
        name, mode = self.name, self.mode
        if name not in MODALITIES:
            raise self._wrong("Unknown modality.", ", ".join(MODALITIES), name, "name")
        if mode not in MODES:
            raise self._wrong("Unknown mode.", ", ".join(MODES), mode, "mode", f"mode@modality.{name}=auto")
        for key, floor in (("max_len", 1), ("context_turns", 0), ("size", 1), ("rate", 0)):
            value = getattr(self, key)
            if value is not None and value < floor:
                raise self._wrong(f"{key} is too small.", f"at least {floor}", value, key)
        if self.fallback and mode != "preextracted":
            raise self._wrong("Only stored features have a fallback.", "mode preextracted", mode, "fallback")
        if self.factory is None and (self.computes or self.source is None):
            expected = "an encoder" if self.computes else "a source, or the encoder that the store was made with"
            hint = f"encoder@modality.{name}.encoder=NAME, or mode preextracted with a source and no fallback"
            raise self._wrong(f"Mode {mode} of modality {name} needs an encoder.", expected, "none", "encoder", hint)
        if self.factory is not None and name in PICTURES and self.sampler is None:
            hint = f"sampler@modality.{name}.sampler=uniform"
            raise self._wrong(f"Modality {name} needs a sampler.", "a sampler", "none", "sampler", hint)
        if self.size and isinstance(self.detector, TableFaces):
            problem, hint = "Boxes of a table are pixels of the video.", f"modality.{name}.size=null"
            raise self._wrong(problem, "pictures as they are", self.size, "size", hint)
        if self.computes and name == "face":
            self.detector.check()

    def _check_encoder(self) -> None:
        if self.encoder is None:
            return
        takes, wanted, name = self.encoder.takes, TAKES[self.name], self.name
        if takes != wanted:
            problem = f"{type(self.encoder).__name__} does not fit modality {name}."
            raise self._wrong(problem, f"an encoder that takes {wanted}", f"one that takes {takes}", "encoder")
        if self.encoder.trainable and self.mode != "realtime":
            problem = f"The encoder of modality {name} learns, so its features cannot be stored."
            hint = f"mode@modality.{name}=realtime"
            raise self._wrong(problem, "mode realtime, or a frozen encoder", f"mode {self.mode}", "encoder", hint)
        if self.mode == "preextracted" and self.source is None and not self.storable:
            problem = f"The sampler of modality {name} draws anew every epoch, so its features cannot be stored."
            hint = f"mode@modality.{name}=realtime"
            raise self._wrong(problem, "a sampler without chance", type(self.sampler).__name__, "sampler", hint)

    def bind(self, features_root: Path, dataset: str) -> None:
        """Fixes where its own Store lies: features_root/dataset/modality/<slug of the identity>."""
        self.dataset = dataset
        if self.sampler is not None and self.sampler.follows_peaks:
            self.sampler.peaks_folder = Path(features_root) / dataset / PEAKS
        if self.encoder is not None and not self.encoder.trainable:
            stamp = SourceFingerprint(
                self.name, self.context_turns, self.sampler.peaks_folder if self.sampler else None
            )
            self.store = Store.at(Path(features_root) / dataset / self.name, self.identity(), stamp)
            self.store.remedy = self.remedy

    def identity(self) -> dict[str, Any]:
        """What decides its features: dataset, modality, encoder, sampler and options, plain builtins."""
        if self.encoder is None:
            assert self.source is not None
            return {"dataset": self.dataset, "modality": self.name, "source": self.source.identity()}
        pictures, own = self.name in PICTURES, {"dataset": self.dataset, "modality": self.name}
        options = {"size": self.size, **self.detector.identity()} if pictures else {}
        if self.name == "text":
            options = {"context_turns": self.context_turns}
        sampler = self.sampler.identity() if pictures and self.sampler is not None else {}
        return {**own, "encoder": self.encoder.identity(), "sampler": sampler, "options": options}

    @property
    def computes(self) -> bool:
        """Whether a clip's features may be computed now."""
        return self.mode != "preextracted" or self.fallback

    @property
    def storable(self) -> bool:
        """Whether its features may be stored: a frozen encoder and a sampler without chance."""
        if self.encoder is None or self.encoder.trainable:
            return False
        return self.sampler is None or self.name not in PICTURES or self.sampler.deterministic

    @property
    def cacheable(self) -> bool:
        """Whether the cache pass before training writes what is missing."""
        return self.mode == "auto" and self.cache and self.storable

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
        """Learns the width of foreign features from the train split; call before `dim`. FeatureError if they differ."""
        if self.source is not None and self.mode != "realtime":
            self.source.probe(samples)

    def sources(self) -> list[FeatureSource]:
        """Where stored features are looked for, in order."""
        if self.mode == "realtime":
            return []
        found: list[FeatureSource] = [self.source] if self.source is not None else []
        if self.store is not None and (self.source is None or self.mode == "auto") and self.storable:
            found.append(self.store)
        return found

    def extracted(self, sample: Sample) -> Availability:
        """Whether this clip's features are stored, whatever the mode; the reason is the store's."""
        found = [source.status(sample) for source in (self.source, self.store) if source is not None]
        return next((f for f in found if f.mode == "preextracted"), found[-1])

    def availability(self, sample: Sample) -> Availability:
        """How this clip's features are had. Never raises for a bad clip; a missing feature set is an error."""
        if self.mode == "realtime":
            return self.media_availability(sample)
        if self.mode == "preextracted" and self.source is None:
            if self.store is None:
                raise FeatureError(
                    f"Modality {self.name} does not know its features root.",
                    expected="bind(features_root, dataset) before use",
                    where=f"modality.{self.name}",
                )
            if not self.fallback:
                self.store.require()
        seen = [source.status(sample) for source in self.sources()]
        best = next((s for s in seen if s.mode == "preextracted"), None)
        if best is not None:
            return best
        broken = next((s for s in seen if s.mode == "broken"), None)
        if not self.computes:
            last = broken or seen[-1]
            return Availability("absent", f"{last.reason}: {self.remedy}") if last.reason == NOT_EXTRACTED else last
        if self.store is not None and self.store.fault(sample) is not None:
            return seen[-1]  # computing it was tried
        found = self.media_availability(sample)
        if found.mode == "realtime" and (broken is not None or self.fallback):
            why = f"stored feature {broken.reason}" if broken is not None else seen[-1].reason
            return Availability("realtime", ", ".join(filter(None, (found.reason, why))))
        return found

    def media_availability(self, sample: Sample) -> Availability:
        """realtime, absent or broken, by what the clip's own files say."""
        match self.name:
            case "text":
                return Availability("realtime") if (sample.text or "").strip() else Availability("absent", "no text")
            case "au":
                return _look(sample.files.get("au"), "no AU table")
            case "audio":
                found, info = _probed(sample.audio or sample.video, "no sound")
                return Availability("absent", "no sound") if info is not None and not info.has_audio else found
        media = self.looked_at(sample)
        if media is None and sample.video is not None:
            return Availability("absent", "no face box, no crops and no detector")
        found, info = _probed(media, "no video")
        if info is None:
            return found
        return self._planned(sample, info) if info.has_video else Availability("absent", "no picture")

    def looked_at(self, sample: Sample) -> Media | None:
        """What a picture modality is made from: the clip, or a file of face crops; None = nothing is there."""
        return self.detector.media(sample) if self.name == "face" else sample.video

    def _planned(self, sample: Sample, info: ClipInfo) -> Availability:
        """realtime with the sampler's reason, by which the run folder counts clips; broken where it cannot plan."""
        assert self.sampler is not None
        try:
            return Availability("realtime", self.sampler.plan(info, sample, 0, 0).reason)
        except MediaError as error:
            return Availability("broken", f"{error.problem} {error.details['where']}")

    def length(self, sample: Sample) -> int | None:
        """Steps T this clip will have in a batch, where that is known without work; for bucketing."""
        for source in self.sources():
            if (steps := source.length(sample)) is not None:
                return min(steps, self.max_len)
        if self.name == "text" and sample.text:
            turns = sample.turns[-self.context_turns :] if self.context_turns else ()
            return min(sum(len(t.split()) for t in (sample.text, *(u.text for u in turns))), self.max_len)
        return None

    def stored(self, sample: Sample) -> StoredFeatures:
        """Reads this clip's stored features. FeatureError where there are none."""
        sources = self.sources()
        for source in sources:
            if len(sources) == 1 or source.has(sample):
                ready = source.read(sample)
                if ready.time is None and self.rate:
                    ready.time = (torch.arange(ready.x.shape[0]) + 0.5) / self.rate  # middles of the steps
                return ready
        tried = "; ".join(source.describe(sample) for source in sources)
        raise FeatureError(
            f"Sample {sample.id} has no stored features of modality {self.name}.",
            got=self.availability(sample).reason or "nothing stored",
            where=tried,
            hint=f"mode@modality.{self.name}=auto, or extract them: {self.remedy}",
        )

    def collate(self, rows: list[Row]) -> ModalityBatch:
        """Rows of a batch -> ModalityBatch; ready rows are padded to the longest and capped by `max_len`."""
        batch = ModalityBatch(len(rows))
        ready = [(b, r) for b, r in enumerate(rows) if isinstance(r, StoredFeatures)]
        raw = [(b, r) for b, r in enumerate(rows) if isinstance(r, EncoderInput)]
        if ready:
            kept = [self.kept(r.x.shape[0]) for _, r in ready]
            x, mask = pad([r.x.float()[k] for (_, r), k in zip(ready, kept, strict=True)])  # [R, T, D], [R, T]
            clocks = [r.time[k] for (_, r), k in zip(ready, kept, strict=True) if r.time is not None]
            batch.stored = Features(x, mask, pad(clocks)[0] if len(clocks) == len(ready) else None)
            batch.stored_rows = torch.tensor([b for b, _ in ready])
        if raw:
            assert self.encoder is not None
            batch.inputs = self.encoder.collate([r.inputs for _, r in raw])
            batch.input_rows = torch.tensor([b for b, _ in raw])
        return batch

    def kept(self, length: int) -> Tensor:
        """Which of `length` steps stay in a batch: [min(length, max_len)] indices.

        Time series are thinned evenly, first and last step included. Text loses its tail; with context its head, for
        there the oldest turn stands.
        """
        if length <= self.max_len:
            return torch.arange(length)
        if self.name != "text":
            return torch.linspace(0, length - 1, self.max_len).round().long()
        return torch.arange(self.max_len) + (length - self.max_len if self.context_turns else 0)

    def encoder_module(self) -> Encoder | None:
        """A loaded encoder for the device half, or None where features are only read."""
        return self.loaded_encoder() if self.computes else None

    def loaded_encoder(self) -> Encoder:
        """A new encoder with its weights, frozen ones without gradients and in eval mode."""
        assert self.factory is not None
        module = self.factory()
        module.load()
        if not module.trainable:
            module.requires_grad_(False)
        return module.train(module.trainable)


def _look(path: Path | None, absent: str) -> Availability:
    """realtime, absent or broken by what the file system says of a file."""
    if path is None:
        return Availability("absent", absent)
    if not path.exists():
        return Availability("broken", f"file missing: {path}")
    return Availability("realtime") if path.stat().st_size else Availability("broken", f"file is empty: {path}")


def _probed(media: Media | None, absent: str) -> tuple[Availability, ClipInfo | None]:
    found = _look(media.path if media else None, absent)
    if media is None or found.mode != "realtime":
        return found, None
    info = _header(media, os.stat(media.path).st_mtime_ns)
    return (Availability("broken", info), None) if isinstance(info, str) else (found, info)


@lru_cache(maxsize=65536)
def _header(media: Media, changed: int) -> ClipInfo | str:
    """The clip's header, or why it cannot be read; one probe serves all modalities. `changed`: the file's mtime."""
    try:
        with ClipReader(media) as clip:
            return clip.info
    except MediaError as error:
        return f"{error.problem} {media.path}"
