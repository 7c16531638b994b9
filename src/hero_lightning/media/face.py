"""Faces of a clip: a known box, crops from files, or a detector; without a face the modality is absent.

Data flow: Sample -> FaceCropper.media (what is looked at) -> Frames -> FaceCropper.crops -> Frames of the face, or None.

Shapes: T pictures, H W picture size, h w face size, N faces in a picture. Boxes: x0, y0, x1, y1.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from hero_lightning.errors import ConfigError, MediaError
from hero_lightning.media.action_units import read_face_boxes
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.stills import EPSILON, IMAGES, RATE, is_stills
from hero_lightning.media.types import Frames
from hero_lightning.types import Box, Media, Sample

log = logging.getLogger(__name__)

WHERE = "modality.face.detector"
PICKS = ("largest", "tracked")
COLOR_ORDERS = ("rgb", "bgr_compat")
HAAR_WARNING = (
    "The Haar cascade finds a face in 12-74 % of the frames of real clips where YuNet finds one in 94-100 %: "
    "better detector@modality.face.detector=yunet modality.face.detector.model=FILE"
)
"""Shares measured on real clips of talking people, see docs/media.md."""


@dataclass(kw_only=True, eq=False)
class FaceCropper:
    """Faces that are known already: `sample.boxes["face"]`, else the crops of `sample.files["face"]`.

    Crops are OpenFace's array [T, 112, 112, 3] (mapped, blue first), a folder of images, or a video of the face.

    Attributes:
        color_order: rgb; or bgr_compat, which leaves arrays as they are: what AffectGPT's released weights saw.
        rate: crops per second of an array or folder; None = the video's picture rate, else 25.
    """

    color_order: str = "rgb"
    rate: float | None = None

    detects: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for key, good, expected in self._checks():
            if not good:
                got = getattr(self, key)
                raise ConfigError(f"{key} has a wrong value.", expected=expected, got=got, where=f"{WHERE}.{key}")

    def _checks(self) -> list[tuple[str, bool, str]]:
        """Option, whether its value is right, what would be."""
        return [
            ("color_order", self.color_order in COLOR_ORDERS, " or ".join(COLOR_ORDERS)),
            ("rate", self.rate is None or self.rate > 0, "more than 0, or null"),
        ]

    def identity(self) -> dict[str, Any]:
        """What decides the crops beside the sample's own files, plain builtins; nothing for the default."""
        own = {"color_order": self.color_order} if self.color_order != "rgb" else {}
        return own | ({"rate": self.rate} if self.rate else {})

    def check(self) -> None:
        """Whether what it needs is on this machine. ConfigError with the remedy where not."""

    def media(self, sample: Sample) -> Media | None:
        """What is looked at for this clip's face: the clip itself, or a file of crops; None = nothing can be."""
        crops = sample.files.get("face")
        if "face" in sample.boxes or (crops is None and self.detects):
            return sample.video
        if crops is None or not is_stills(crops):
            return Media(crops) if crops is not None else None
        return Media(crops, rate=self.rate or picture_rate(sample.video), bgr=self.color_order == "rgb")

    def crops(self, frames: Frames, sample: Sample) -> Frames | None:
        """Pictures of `media` -> the face in each that shows one, or None where no picture does."""
        if "face" in sample.boxes:
            return cropped(frames, sample.boxes["face"])
        if "face" in sample.files:
            seen = frames.pixels.flatten(1).amax(dim=1) > 0  # OpenFace writes a black picture where it lost the face
            return Frames(frames.pixels[seen], frames.time[seen]) if seen.any() else None
        return self._detected(frames, sample)

    def _detected(self, frames: Frames, sample: Sample) -> Frames | None:
        return None


@dataclass(kw_only=True, eq=False)
class Detector(FaceCropper):
    """Finds the face in every picture that is looked at; pictures without one are left out.

    Attributes:
        pick: of several faces the largest of each picture, or the one that is largest over the whole clip (tracked).
        margin: what is added around a face, in parts of its longer side.
        side: pixels of the square crop.
        longest: pixels of the longer side at which faces are sought.
    """

    pick: str = "largest"
    margin: float = 0.2
    side: int = 224
    longest: int = 640

    detects = True
    _net: Any = field(default=None, init=False, repr=False)  # built where it is used: it cannot travel to workers

    def _checks(self) -> list[tuple[str, bool, str]]:
        return [
            *super()._checks(),
            ("pick", self.pick in PICKS, " or ".join(PICKS)),
            ("margin", self.margin >= 0, "0 or more"),
            ("side", self.side >= 8, "at least 8"),
            ("longest", self.longest >= 32, "at least 32"),
        ]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_net": None}

    def identity(self) -> dict[str, Any]:
        """See FaceCropper."""
        keys = ("pick", "margin", "side", "longest")
        own = {"detector": type(self).__name__, **{k: getattr(self, k) for k in keys}}
        return super().identity() | own

    @abstractmethod
    def find(self, picture: np.ndarray) -> np.ndarray:
        """One picture [H, W, 3] uint8 RGB, longer side at most `longest` -> boxes [N, 4] in its pixels."""

    def boxes(self, frames: Frames, sample: Sample) -> list[np.ndarray | None]:
        """The chosen face's box in pixels, or None, of each picture."""
        cv2, pictures = opencv(), frames.pixels.numpy()
        height, width = pictures.shape[1:3]
        scale = min(self.longest / max(height, width), 1.0)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        found = []
        for picture in pictures:
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture
            found.append(self.find(np.ascontiguousarray(small)) / scale)
        return tracked(found) if self.pick == "tracked" else [max(f, key=_area, default=None) for f in found]

    def _detected(self, frames: Frames, sample: Sample) -> Frames | None:
        pictures, chosen = frames.pixels.numpy(), self.boxes(frames, sample)
        kept = [k for k, box in enumerate(chosen) if box is not None]
        if not kept:
            return None
        faces = np.stack([self._square(pictures[k], box) for k, box in enumerate(chosen) if box is not None])
        return Frames(torch.from_numpy(faces), frames.time[kept])  # [T, side, side, 3]

    def _square(self, picture: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Cuts a square around the box, moved inside the picture, and scales it to `side`."""
        cv2 = opencv()
        height, width = picture.shape[:2]
        span = max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * self.margin)
        span = max(min(round(span), height, width), 1)
        x = round(min(max((box[0] + box[2] - span) / 2, 0), width - span))
        y = round(min(max((box[1] + box[3] - span) / 2, 0), height - span))
        way = cv2.INTER_AREA if span > self.side else cv2.INTER_LINEAR
        return cv2.resize(picture[y : y + span, x : x + span], (self.side, self.side), interpolation=way)


@dataclass(kw_only=True, eq=False)
class YuNet(Detector):
    """OpenCV's YuNet (Wu and others 2023): a model file of 0.3 MB that the user names; 7-9 ms a picture on one core.

    Attributes:
        model: face_detection_yunet .onnx file (docs/media.md says where it comes from).
        confidence: least score of a face, 0..1.
    """

    model: str | None = None
    confidence: float = 0.6

    def _checks(self) -> list[tuple[str, bool, str]]:
        return [*super()._checks(), ("confidence", 0 < self.confidence < 1, "between 0 and 1")]

    def identity(self) -> dict[str, Any]:
        """See Faces; the model counts by its file's name, so that features can be read where it is not."""
        return super().identity() | {"confidence": self.confidence, "model": Path(self.model or "none").name}

    def check(self) -> None:
        """See FaceCropper."""
        opencv()
        if self.model is None or not Path(self.model).is_file():
            raise ConfigError(
                "The face detector has no model file.",
                expected="YuNet's .onnx file",
                got=self.model or "none",
                where=f"{WHERE}.model",
                hint=f"{WHERE}.model=FILE (docs/media.md says where it comes from), or detector@{WHERE}=haar",
            )

    def find(self, picture: np.ndarray) -> np.ndarray:
        """See Detector."""
        cv2 = opencv()
        size = picture.shape[1], picture.shape[0]
        if self._net is None:
            self.check()
            try:
                self._net = cv2.FaceDetectorYN.create(str(self.model), "", size, self.confidence)
            except cv2.error as error:
                problem = "The face detector's model file cannot be read."
                raise ConfigError(problem, expected="YuNet's .onnx file", got=error, where=self.model) from error
        self._net.setInputSize(size)
        rows = self._net.detect(picture[:, :, ::-1].copy())[1]  # [N, 15]: x, y, w, h, landmarks, score
        return _corners(rows[:, :4]) if rows is not None else np.zeros((0, 4))


@dataclass(kw_only=True, eq=False)
class Haar(Detector):
    """OpenCV's Haar cascade (Viola and Jones 2001), frontal faces only: a last resort that needs no model file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        log.warning(HAAR_WARNING)

    def check(self) -> None:
        """See FaceCropper."""
        if not hasattr(opencv(), "CascadeClassifier"):
            hint = "pip install 'opencv-python-headless<5'"
            raise ConfigError("This OpenCV has no Haar cascades.", expected="OpenCV 4", where=WHERE, hint=hint)

    def find(self, picture: np.ndarray) -> np.ndarray:
        """See Detector."""
        cv2 = opencv()
        if self._net is None:
            self.check()
            self._net = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml")
        found = self._net.detectMultiScale(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 1.1, 5, minSize=(24, 24))
        return _corners(np.asarray(found, dtype=float).reshape(-1, 4))


@dataclass(kw_only=True, eq=False)
class TableFaces(Detector):
    """Boxes that the clip's AU table holds (py-feat's, or of OpenFace's landmarks): nothing is sought in the pictures.

    A picture whose row is missing (the face was lost) is left out; a row counts for half a step before and after it.
    """

    def media(self, sample: Sample) -> Media | None:
        """See FaceCropper."""
        known = {"au", "face"} & sample.files.keys() or "face" in sample.boxes
        return super().media(sample) if known else None

    def boxes(self, frames: Frames, sample: Sample) -> list[np.ndarray | None]:
        """See Detector."""
        time, corners = read_face_boxes(sample.files["au"], lambda: picture_rate(sample.video) or 0.0)
        away = np.abs(time - frames.time.numpy()[:, None])  # [pictures, rows]
        reach = (float(np.median(np.diff(time))) if len(time) > 1 else 1 / RATE) / 2 + EPSILON
        return [corners[row.argmin()] if row.min(initial=np.inf) <= reach else None for row in away]


def tracked(found: list[np.ndarray]) -> list[np.ndarray | None]:
    """Boxes [N, 4] per picture -> the face that covers most over the whole clip, None where it is not seen.

    A face continues the track whose last box has its centre within one face width and at most twice its size.
    """
    tracks: list[dict[int, np.ndarray]] = []
    for k, boxes in enumerate(found):
        for box in sorted(boxes, key=_area, reverse=True):
            near = [t for t in tracks if k not in t and _continues(t[max(t)], box)]
            if near:
                near[0][k] = box
            else:
                tracks.append({k: box})
    best = max(tracks, key=lambda t: sum(map(_area, t.values())), default={})
    return [best.get(k) for k in range(len(found))]


def _continues(last: np.ndarray, box: np.ndarray) -> bool:
    apart = np.abs((last[:2] + last[2:]) - (box[:2] + box[2:])) / 2
    return bool((apart < last[2:] - last[:2]).all()) and 0.25 < _area(box) / max(_area(last), 1e-9) < 4


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _corners(rows: np.ndarray) -> np.ndarray:
    """x, y, width, height -> corners [N, 4]."""
    return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)


def picture_rate(video: Media | None) -> float | None:
    """The picture rate of a clip's video, None where it cannot be read."""
    return _rate(video, video.path.stat().st_mtime_ns) if video is not None and video.path.is_file() else None


@lru_cache(maxsize=65536)
def _rate(video: Media, changed: int) -> float | None:
    try:
        with ClipReader(video) as clip:
            return clip.info.fps or None
    except MediaError:
        return None


def face_file(root: Path, name: str) -> Path | None:
    """OpenFace's crops of a clip in any of the layouts in use; None where there are none.

    root/<name>/<name>.npy (MER2025, OV-MERD), root/<name>.npy (MER-UniBench), root/<name>/ with images (MER2023) or
    OpenFace's own root/<name>_aligned/.
    """
    for path in (root / name / f"{name}.npy", root / f"{name}.npy"):
        if path.is_file():
            return path
    folders = (root / name / f"{name}_aligned", root / f"{name}_aligned", root / name)
    return next((f for f in folders if f.is_dir() and any(p.suffix.lower() in IMAGES for p in f.iterdir())), None)


def cropped(frames: Frames, box: Box) -> Frames:
    """Cuts a box, given in fractions of the picture, out of every picture: [T, H, W, 3] -> [T, h, w, 3]."""
    height, width = frames.pixels.shape[1:3]
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    right, bottom = max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)
    return replace(frames, pixels=frames.pixels[:, max(top, 0) : bottom, max(left, 0) : right])


def opencv() -> Any:
    """OpenCV. ConfigError naming the extra where it is not installed."""
    try:
        import cv2
    except ImportError as error:
        hint = "pip install 'hero-lightning[face]'"
        raise ConfigError("Faces are found by OpenCV.", expected="opencv", got=error, where=WHERE, hint=hint) from error
    return cv2
