"""The nouns every room shares: Sample, rows of a modality, Features, Batch.

Data flow: dataset -> Sample -> (worker) StoredFeatures | EncoderInput rows -> (collate) Batch -> (device) Features.

Shapes: B rows of a batch, T time steps or tokens, D feature width, H W picture size, N audio samples.
Masks are boolean, True = real. Times are seconds from the start of the clip (its span, not its file).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MODALITIES = ("frame", "face", "motion", "audio", "au", "text")
"""Every modality in canonical order (HERO's five experts and the face crops AffectGPT adds)."""
AU_NAMES = {
    1: "inner brow raiser", 2: "outer brow raiser", 4: "brow lowerer", 5: "upper lid raiser", 6: "cheek raiser",
    7: "lid tightener", 9: "nose wrinkler", 10: "upper lip raiser", 12: "lip corner puller", 14: "dimpler",
    15: "lip corner depressor", 17: "chin raiser", 20: "lip stretcher", 23: "lip tightener", 25: "lips part",
    26: "jaw drop", 28: "lip suck", 45: "blink",
}  # fmt: skip
"""Action units by muscle (Ekman & Friesen, FACS); never by the emotion they may stand for."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of the picture, 0..1."""


@dataclass(frozen=True, slots=True)
class Media:
    """One media file of a clip, or the part of it that belongs to the clip.

    Attributes:
        path: video or audio file; also an image, a folder of images, or a .npy array of pictures [T, H, W, 3].
        span: start and end in seconds inside the file; None = all of it.
        crop: part of the picture that belongs to the clip (IEMOCAP: the wearer's half); None = all of it.
        rate: pictures per second of a folder or array, which does not say it; None = 25.
        bgr: an array holds blue first (OpenFace's faces, written with OpenCV).
        part: offset and size in bytes of the clip inside the file (a tar shard); None = the whole file.
    """

    path: Path
    span: tuple[float, float] | None = None
    crop: Box | None = None
    rate: float | None = None
    bgr: bool = False
    part: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier utterance of the same dialogue."""

    speaker: str | None
    text: str


@dataclass(slots=True)
class Sample:
    """One clip or utterance of a dataset.

    Attributes:
        id: unique inside the dataset, over all splits.
        split: train, val, test, or another name of the dataset (test1, unlabelled).
        video: the picture; also the sound unless `audio` is given.
        audio: a separate sound file.
        files: further files by purpose: `features` (npy dict), `au` (csv or json), `au_info` (json), `face` (crops: an
            array, a folder of images or a video), `peak_frame` (image).
        boxes: picture parts by modality, relative to the (cropped) picture: `face`.
        text: what is said; gold where given, else the transcript.
        turns: previous turns of the dialogue, oldest first (`dialogue`, `turn` say where it stands).
        labels: Task name -> value in the dataset' own words; absent key or None = no label.
        descriptions: words about the clip (caption, rationale, one per modality). training targets only: they are
            written from the truth and must never reach a prompt.
        truth: what a synthetic dataset knows about the clip (informative channels, noise levels, conflict).
    """

    id: str
    split: str
    video: Media | None = None
    audio: Media | None = None
    files: dict[str, Path] = field(default_factory=dict)
    boxes: dict[str, Box] = field(default_factory=dict)
    text: str | None = None
    speaker: str | None = None
    dialogue: str | None = None
    turn: int | None = None
    turns: tuple[Turn, ...] = ()
    labels: dict[str, Any] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    truth: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class StoredFeatures:
    """One clip's features of one modality, read or computed before: nothing left to encode.

    Attributes:
        x: [T, D] float.
        time: [T] seconds, or None where the features carry no clock.
        measures: named numbers of the clip in words' reach, e.g. {"pitch_hz": 182.0}.
    """

    x: Tensor
    time: Tensor | None = None
    measures: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class EncoderInput:
    """One clip's encoder input of one modality: what Encoder.preprocess made in the worker.

    Attributes:
        inputs: tensors of one clip, without a batch axis.
        measures: see StoredFeatures.
    """

    inputs: dict[str, Tensor]
    measures: dict[str, float] = field(default_factory=dict)


Row = StoredFeatures | EncoderInput | None
"""A modality's row of one clip; None = the modality is absent."""


@dataclass(slots=True)
class Features:
    """One modality's features of a batch.

    Attributes:
        x: [B, T, D]; values where mask is False mean nothing (an absent row may even hold NaN).
        mask: [B, T] True = real; a row without any True is an absent modality.
        time: [B, T] seconds, or None.
    """

    x: Tensor
    mask: Tensor
    time: Tensor | None = None

    @property
    def present(self) -> Tensor:
        """[B] True where the modality has at least one real step."""
        return self.mask.any(dim=1)


@dataclass(slots=True)
class ModalityBatch:
    """One modality of a batch before its encoder: some rows ready, some raw, some absent.

    Attributes:
        size: B, the rows of the batch.
        stored: Features of the ready rows [R, T, D], or None.
        stored_rows: [R] their places in the batch.
        inputs: collated encoder inputs of the other rows, or None.
        input_rows: [W] their places in the batch.
    """

    size: int
    stored: Features | None = None
    stored_rows: Tensor | None = None
    inputs: dict[str, Tensor] | None = None
    input_rows: Tensor | None = None


@dataclass(slots=True)
class Label:
    """One Task's labels of a batch.

    Attributes:
        value: [B] class index (long), or [B, W] (multilabel, distribution), or [B] score (float).
        mask: [B] True where the sample carries this label.
    """

    value: Tensor
    mask: Tensor


@dataclass(slots=True)
class Batch:
    """Rows of one or more items.

    Attributes:
        index: [B] row number of the sample in its split: the key under which a prediction counts once.
        group: [B] which item of the batch a row belongs to; `order` [B] its place inside the item.
        modalities: modality name -> ModalityBatch.
        labels: Task name -> Label.
        samples: the Samples themselves (ids, text, turns, speaker, truth), B of them.
        measures: per row, modality -> measures.
    """

    index: Tensor
    group: Tensor
    order: Tensor
    modalities: dict[str, ModalityBatch]
    labels: dict[str, Label]
    samples: list[Sample]
    measures: list[dict[str, dict[str, float]]]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def ids(self) -> list[str]:
        """Sample ids, B of them."""
        return [s.id for s in self.samples]


def pad(rows: list[Tensor], value: float = 0.0) -> tuple[Tensor, Tensor]:
    """B rows [T_b, ...] of different length -> [B, T, ...] filled up with `value`, and the mask [B, T]."""
    length = max((r.shape[0] for r in rows), default=0)
    out = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), value)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for b, row in enumerate(rows):
        out[b, : row.shape[0]] = row
        mask[b, : row.shape[0]] = True
    return out, mask


def link_dialogues(samples: list[Sample]) -> list[Sample]:
    """Gives every sample its previous turns, per (split, dialogue), in order of `turn`.

    Samples without a dialogue, or that come with turns, are returned as they are. Turns without text are left out of
    the context.
    """
    past: dict[tuple[str, str], list[Sample]] = {}
    for s in samples:
        if s.dialogue is not None:
            past.setdefault((s.split, s.dialogue), []).append(s)
    turns: dict[str, tuple[Turn, ...]] = {}
    for members in past.values():
        members.sort(key=lambda s: (s.turn is None, s.turn or 0))
        said = [Turn(m.speaker, m.text) for m in members if m.text]
        spoken = 0
        for m in members:
            turns[m.id] = tuple(said[:spoken])
            spoken += bool(m.text)
    return [replace(s, turns=turns[s.id]) if s.id in turns and not s.turns else s for s in samples]


def dialogues(samples: list[Sample]) -> list[tuple[int, ...]]:
    """Row numbers of the turns of every dialogue, in order of `turn`; a sample without one stands alone."""
    talks: dict[str | int, list[int]] = {}
    for row, s in enumerate(samples):
        talks.setdefault(row if s.dialogue is None else s.dialogue, []).append(row)
    place = [(s.turn is None, s.turn or 0) for s in samples]
    return [tuple(sorted(rows, key=place.__getitem__)) for rows in talks.values()]


def measures_of(rows: Mapping[str, Row]) -> dict[str, dict[str, float]]:
    """The measures of one clip's rows by modality; modalities without any are left out."""
    return {name: row.measures for name, row in rows.items() if row is not None and row.measures}
