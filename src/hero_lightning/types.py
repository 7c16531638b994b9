"""Data types shared by all packages: Sample, per-clip rows of a modality, Features, Label and Batch.

Data flow: dataset -> Sample -> (worker) StoredFeatures | EncoderInput rows -> (collate) Batch -> (device) Features.

Shapes: B rows of a batch, T time steps or tokens, D feature width, H W image size.
Masks are boolean, True = valid. Times are in seconds from the start of the clip (its span, not the file).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MODALITIES = ("frame", "face", "motion", "audio", "au", "text")
"""All modalities in canonical order: those of HERO's five experts, and the face crops of AffectGPT."""
AU_NAMES = {
    1: "inner brow raiser", 2: "outer brow raiser", 4: "brow lowerer", 5: "upper lid raiser", 6: "cheek raiser",
    7: "lid tightener", 9: "nose wrinkler", 10: "upper lip raiser", 12: "lip corner puller", 14: "dimpler",
    15: "lip corner depressor", 17: "chin raiser", 20: "lip stretcher", 23: "lip tightener", 25: "lips part",
    26: "jaw drop", 28: "lip suck", 45: "blink",
}  # fmt: skip
"""Action units named by muscle movement (FACS, Ekman & Friesen 1978), not by the emotion they may indicate."""

_UNSAFE = re.compile(
    r'[\x00-\x1f\x7f<>:"|?*\\%\ud800-\udfff]|\A\.|[. ](?=/?\Z)|\.(?=(?:npy|npz|safetensors|json|txt)/)'
)
"""Characters that some file system refuses, hides or drops; and dots by which a folder could be named like a file."""
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:[. ].*)?", re.IGNORECASE)
"""Names of devices on Windows, with any suffix."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of the image size, 0..1."""


@dataclass(frozen=True, slots=True)
class Media:
    """One media file of a clip, or the part of it that belongs to the clip.

    Attributes:
        path: video or audio file; also an image, a folder of images, or a .npy array of frames [T, H, W, 3].
        span: start and end in seconds inside the file; None = the whole file.
        crop: region of the frame that belongs to the clip (IEMOCAP: one half of the frame); None = the whole frame.
        rate: frames per second of a folder or array, which store no rate; None = 25.
        bgr: the channels of an array are in BGR order (OpenFace's face crops, written with OpenCV).
        part: byte offset and size of the clip inside the file (a tar shard); None = the whole file.
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
        video: video file; its audio track is used too unless `audio` is given.
        audio: separate audio file.
        files: further files by purpose: `features` (npy dict), `au` (csv or json), `au_info` (json), `face` (crops: an
            array, a folder of images or a video), `peak_frame` (image).
        boxes: regions by modality, relative to the (cropped) frame: `face`.
        text: the spoken words: the dataset's transcript if it has one, else a recognised transcript.
        dialogue: id of the dialogue; `turn` is the position of the utterance in it.
        turns: previous turns of the dialogue, oldest first.
        labels: Task name -> value as the dataset writes it; absent key or None = no label.
        descriptions: texts about the clip (caption, rationale, one per modality). Training targets only: they were
            written with knowledge of the label and must never enter a prompt.
        truth: ground truth of a synthetic clip (informative channels, noise levels, conflict).
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
    """One clip's precomputed features of one modality.

    Attributes:
        x: [T, D] float.
        time: [T] seconds, or None if the features have no time stamps.
        measures: scalar measurements of the clip by name, for evidence texts, e.g. {"pitch_hz": 182.0}.
    """

    x: Tensor
    time: Tensor | None = None
    measures: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class EncoderInput:
    """One clip's input of the modality's encoder, as returned by Encoder.preprocess in the worker.

    Attributes:
        inputs: tensors of one clip, without a batch axis.
        measures: as in StoredFeatures.
    """

    inputs: dict[str, Tensor]
    measures: dict[str, float] = field(default_factory=dict)


Row = StoredFeatures | EncoderInput | None
"""One modality of one clip; None = the modality is missing."""


@dataclass(slots=True)
class Features:
    """One modality's features of a batch.

    Attributes:
        x: [B, T, D]; values where mask is False are undefined (they may be NaN).
        mask: [B, T] True = valid; a row without any True is a missing modality.
        time: [B, T] seconds, or None.
    """

    x: Tensor
    mask: Tensor
    time: Tensor | None = None

    @property
    def present(self) -> Tensor:
        """[B] True where the modality has at least one valid step."""
        return self.mask.any(dim=1)


@dataclass(slots=True)
class ModalityBatch:
    """One modality of a batch before encoding: R rows with stored features, W rows to encode, the rest missing.

    Attributes:
        size: B, the number of rows of the batch.
        stored: Features [R, T, D] of the rows with stored features, or None.
        stored_rows: [R] their row numbers in the batch.
        inputs: collated encoder inputs of the W rows to encode, or None.
        input_rows: [W] their row numbers in the batch.
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
        value: encoded labels, by kind of Task: class index [B] (long), labels or shares [B, C], score [B] (float),
            vocabulary and count of other words [B, C + 1], packed comparisons [B, M] (long).
        mask: [B] True where the sample has this label.
    """

    value: Tensor
    mask: Tensor


@dataclass(slots=True)
class Batch:
    """B rows of one or more items (a sample, a dialogue or a comparison).

    Attributes:
        index: [B] row number of the sample in its split; predictions are deduplicated by it.
        group: [B] item of the batch that a row belongs to.
        order: [B] position of the row inside its item.
        modalities: modality name -> ModalityBatch.
        labels: Task name -> Label.
        samples: the B Samples.
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
        """The B sample ids."""
        return [s.id for s in self.samples]


def file_name(id: str) -> str:
    """The name, without suffix, of a sample's file inside a folder: the only way from an id to a file.

    Slashes make folders below it. What a file system may refuse or read otherwise (.., a leading slash, control and
    reserved characters, names of devices, % itself) is written as %XX; an id of more than 150 bytes is cut, and a hash
    of it added. So the file lies in the folder, and different ids have different files where upper and lower case
    differ.
    """
    parts = id.split("/")
    folders, last = [f"{part}/" for part in parts[:-1]], parts[-1]
    escaped = [_UNSAFE.sub(_escape, part) for part in (*folders, last)]
    named = [_escape(part[:1]) + part[1:] if _DEVICE.fullmatch(part.rstrip("/")) else part for part in escaped]
    name = "".join(part if part.strip("/") else f"%{part}" for part in named)  # % alone is the empty part
    if len(name.encode()) <= 150:
        return name
    digest = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return name.replace("/", "%2F").encode()[:100].decode(errors="ignore") + f"%%{digest}"


def _escape(found: re.Match[str] | str) -> str:
    text = found if isinstance(found, str) else found[0]
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def pad(rows: list[Tensor], value: float = 0.0) -> tuple[Tensor, Tensor]:
    """B rows [T_b, ...] of different lengths -> [B, T, ...] padded with `value`, and the mask [B, T]."""
    length = max((r.shape[0] for r in rows), default=0)
    out = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), value)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for b, row in enumerate(rows):
        out[b, : row.shape[0]] = row
        mask[b, : row.shape[0]] = True
    return out, mask


def link_dialogues(samples: list[Sample]) -> list[Sample]:
    """Sets every sample's previous turns, per split and dialogue, in order of `turn`.

    Samples without a dialogue, or with turns already set, are returned unchanged. Turns without text are left out.
    """
    members: dict[tuple[str, str], list[Sample]] = {}
    for s in samples:
        if s.dialogue is not None:
            members.setdefault((s.split, s.dialogue), []).append(s)
    turns: dict[str, tuple[Turn, ...]] = {}
    for dialogue in members.values():
        previous: tuple[Turn, ...] = ()
        for s in sorted(dialogue, key=_turn):
            turns[s.id] = previous
            previous += (Turn(s.speaker, s.text),) if s.text else ()
    return [replace(s, turns=turns[s.id]) if s.id in turns and not s.turns else s for s in samples]


def dialogues(samples: list[Sample]) -> list[tuple[int, ...]]:
    """Row numbers of every dialogue's samples, in order of `turn`; a sample without a dialogue is one of its own."""
    rows: dict[str | int, list[int]] = {}
    for row, s in enumerate(samples):
        rows.setdefault(row if s.dialogue is None else s.dialogue, []).append(row)
    return [tuple(sorted(members, key=lambda row: _turn(samples[row]))) for members in rows.values()]


def _turn(sample: Sample) -> tuple[bool, int]:
    """Sort key of the turns of a dialogue; samples without a turn number come last."""
    return sample.turn is None, sample.turn or 0


def measures_of(rows: Mapping[str, Row]) -> dict[str, dict[str, float]]:
    """Measures of one clip by modality; modalities without any are left out."""
    return {name: row.measures for name, row in rows.items() if row is not None and row.measures}
