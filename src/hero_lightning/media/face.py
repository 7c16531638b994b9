"""Finds the face in the pictures of a clip: from a known box, from crops in files, or with a detector.

Data flow: Sample -> FaceCropper.media (what to decode) -> Frames -> FaceCropper.crops -> Frames of the face, or None if
no picture shows one.

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

from hero_lightning.errors import ConfigError, MediaError, cause, in_range, one_of
from hero_lightning.media.action_units import read_face_boxes
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.stills import EPSILON, IMAGES, RATE, is_stills
from hero_lightning.media.types import UNLESS_DEFAULT, Frames, settings
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


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceCropper:
    """Known faces: `sample.boxes["face"]`, else the crops of `sample.files["face"]`.

    Crops are OpenFace's array [T, 112, 112, 3] (memory-mapped, blue first), a folder of images, or a video of the face.

    Attributes:
        color_order: rgb; or bgr_compat, which keeps the order of arrays: AffectGPT's released weights were trained so.
        rate: crops per second of an array or folder; None = the video's picture rate, else 25.
        detects: whether faces are found in clips without box and crops.
    """

    color_order: str = field(default="rgb", metadata=UNLESS_DEFAULT)
    rate: float | None = field(default=None, metadata=UNLESS_DEFAULT)

    detects: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of(f"{WHERE}.color_order", self.color_order, COLOR_ORDERS)
        if self.rate is not None:
            in_range(f"{WHERE}.rate", self.rate, "(0, inf)")

    def identity(self) -> dict[str, Any]:
        """Settings on which the crops depend, in builtins; empty for the default."""
        return settings(self)

    def check(self) -> None:
        """Raises ConfigError with a hint if a library or file that it needs is not on this machine."""

    def media(self, sample: Sample) -> Media | None:
        """What to decode for the face of this clip: the clip itself, or a file of crops; None = there is neither."""
        crops = sample.files.get("face")
        if "face" in sample.boxes or (crops is None and self.detects):
            return sample.video
        if crops is None or not is_stills(crops):
            return Media(crops) if crops is not None else None
        return Media(crops, rate=self.rate or picture_rate(sample.video), bgr=self.color_order == "rgb")

    def crops(self, frames: Frames, sample: Sample) -> Frames | None:
        """Pictures of `media` -> the face of each picture that shows one; None if no picture does."""
        if "face" in sample.boxes:
            return cropped(frames, sample.boxes["face"])
        if "face" in sample.files:
            seen = frames.pixels.flatten(1).amax(dim=1) > 0  # OpenFace writes a black picture if it loses the face
            return Frames(frames.pixels[seen], frames.time[seen]) if seen.any() else None
        return self._detected(frames, sample)

    def _detected(self, frames: Frames, sample: Sample) -> Frames | None:
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector(FaceCropper):
    """Finds the face in every picture; pictures without one are left out.

    Attributes:
        detector: name of the class, part of the identity.
        pick: of several faces the largest of each picture, or the one that is largest over the whole clip (tracked).
        margin: added around a face, relative to its longer side.
        side: side of the square crop in pixels.
        longest: longer side in pixels of the pictures given to the detector.
    """

    detector: str = field(init=False, repr=False)
    pick: str = "largest"
    margin: float = 0.2
    side: int = 224
    longest: int = 640

    detects = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "detector", type(self).__name__)
        super().__post_init__()
        one_of(f"{WHERE}.pick", self.pick, PICKS)
        in_range(f"{WHERE}.margin", self.margin, "[0, inf)")
        in_range(f"{WHERE}.side", self.side, "[8, inf)")
        in_range(f"{WHERE}.longest", self.longest, "[32, inf)")

    @abstractmethod
    def find(self, picture: np.ndarray) -> np.ndarray:
        """One picture [H, W, 3] uint8 RGB, longer side at most `longest` -> boxes [N, 4] in its pixels."""

    def boxes(self, frames: Frames, sample: Sample) -> list[np.ndarray | None]:
        """Box of the chosen face in pixels, or None, of each picture."""
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
        boxes = {k: box for k, box in enumerate(self.boxes(frames, sample)) if box is not None}
        if not boxes:
            return None
        faces = np.stack([self._square(frames.pixels[k].numpy(), box) for k, box in boxes.items()])
        return Frames(torch.from_numpy(faces), frames.time[list(boxes)])  # [T, side, side, 3]

    def _square(self, picture: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Cuts a square around the box, moved inside the picture, and scales it to `side`."""
        cv2 = opencv()
        height, width = picture.shape[:2]
        span = max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * self.margin)
        span = max(min(round(span), height, width), 1)
        x = round(min(max((box[0] + box[2] - span) / 2, 0), width - span))
        y = round(min(max((box[1] + box[3] - span) / 2, 0), height - span))
        method = cv2.INTER_AREA if span > self.side else cv2.INTER_LINEAR
        return cv2.resize(picture[y : y + span, x : x + span], (self.side, self.side), interpolation=method)


@dataclass(frozen=True, kw_only=True, eq=False)
class YuNet(Detector):
    """OpenCV's YuNet (Wu et al. 2023): a model file of 0.3 MB given by the user; 7-9 ms per picture on one core.

    Attributes:
        confidence: lowest score of a face, 0..1.
        model: face_detection_yunet .onnx file (docs/media.md says where to get it).
    """

    confidence: float = 0.6
    model: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(f"{WHERE}.confidence", self.confidence, "(0, 1)")

    def identity(self) -> dict[str, Any]:
        """As FaceCropper; of the model only the file name, so that features can be read where the file is not."""
        return super().identity() | {"model": Path(self.model or "none").name}

    def check(self) -> None:
        opencv()
        if self.model is None or not Path(self.model).is_file():
            raise ConfigError(
                "The face detector has no model file.",
                expected="YuNet's .onnx file",
                got=self.model or "none",
                where=f"{WHERE}.model",
                hint=f"{WHERE}.model=FILE (docs/media.md says where to get it), or detector@{WHERE}=haar",
            )

    def find(self, picture: np.ndarray) -> np.ndarray:
        self.check()
        net = _yunet(str(self.model), self.confidence)
        net.setInputSize((picture.shape[1], picture.shape[0]))
        rows = net.detect(picture[:, :, ::-1].copy())[1]  # [N, 15]: x, y, w, h, landmarks, score
        return _corners(rows[:, :4]) if rows is not None else np.zeros((0, 4))


@lru_cache(maxsize=4)
def _yunet(model: str, confidence: float) -> Any:
    """The network, loaded once per process: it cannot be pickled."""
    cv2 = opencv()
    try:
        return cv2.FaceDetectorYN.create(model, "", (320, 320), confidence)
    except cv2.error as error:
        problem = "OpenCV cannot load the model of the face detector."
        raise ConfigError(problem, expected="YuNet's .onnx file", got=cause(error), where=model) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Haar(Detector):
    """OpenCV's Haar cascade (Viola and Jones 2001), frontal faces only; a last resort that needs no model file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        log.warning(HAAR_WARNING)

    def check(self) -> None:
        if not hasattr(opencv(), "CascadeClassifier"):
            hint = "pip install 'opencv-python-headless<5'"
            raise ConfigError("This OpenCV has no Haar cascades.", expected="OpenCV 4", where=WHERE, hint=hint)

    def find(self, picture: np.ndarray) -> np.ndarray:
        self.check()
        grey = opencv().cvtColor(picture, opencv().COLOR_RGB2GRAY)
        found = _cascade().detectMultiScale(grey, 1.1, 5, minSize=(24, 24))
        return _corners(np.asarray(found, dtype=float).reshape(-1, 4))


@lru_cache(maxsize=1)
def _cascade() -> Any:
    cv2 = opencv()
    return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml")


@dataclass(frozen=True, kw_only=True, eq=False)
class TableFaces(Detector):
    """Boxes from the clip's AU table (py-feat's boxes, or OpenFace's landmarks); no detector runs.

    A row counts for half a step before and after it; pictures without a row (the face was lost) are left out.
    """

    def media(self, sample: Sample) -> Media | None:
        known = {"au", "face"} & sample.files.keys() or "face" in sample.boxes
        return super().media(sample) if known else None

    def boxes(self, frames: Frames, sample: Sample) -> list[np.ndarray | None]:
        time, corners = read_face_boxes(sample.files["au"], lambda: picture_rate(sample.video) or 0.0)
        distance = np.abs(time - frames.time.numpy()[:, None])  # [pictures, rows]
        reach = (float(np.median(np.diff(time))) if len(time) > 1 else 1 / RATE) / 2 + EPSILON
        return [corners[row.argmin()] if row.min(initial=np.inf) <= reach else None for row in distance]


def tracked(found: list[np.ndarray]) -> list[np.ndarray | None]:
    """Boxes [N, 4] per picture -> box of the face with the largest total area over the clip, None where it is lost.

    A face continues a track if the centres are less than one face size apart and the areas differ by less than 4 times.
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
    distance = np.abs((last[:2] + last[2:]) - (box[:2] + box[2:])) / 2
    return bool((distance < last[2:] - last[:2]).all()) and 0.25 < _area(box) / max(_area(last), 1e-9) < 4


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _corners(rows: np.ndarray) -> np.ndarray:
    """x, y, width, height -> corners [N, 4]."""
    return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)


def picture_rate(video: Media | None) -> float | None:
    """Picture rate of a clip's video, None if it cannot be read."""
    return _rate(video, video.path.stat().st_mtime_ns) if video is not None and video.path.is_file() else None


@lru_cache(maxsize=65536)
def _rate(video: Media, changed: int) -> float | None:
    try:
        with ClipReader(video) as clip:
            return clip.info.fps or None
    except MediaError:
        return None


def face_file(root: Path, name: str) -> Path | None:
    """OpenFace's crops of a clip, or None.

    Layouts: root/<name>/<name>.npy (MER2025, OV-MERD), root/<name>.npy (MER-UniBench), root/<name>/ with images
    (MER2023), or OpenFace's own root/<name>_aligned/.
    """
    for path in (root / name / f"{name}.npy", root / f"{name}.npy"):
        if path.is_file():
            return path
    folders = (root / name / f"{name}_aligned", root / f"{name}_aligned", root / name)
    return next((f for f in folders if f.is_dir() and any(p.suffix.lower() in IMAGES for p in f.iterdir())), None)


def cropped(frames: Frames, box: Box) -> Frames:
    """Crops all pictures to a box in fractions of the picture: [T, H, W, 3] -> [T, h, w, 3]."""
    height, width = frames.pixels.shape[1:3]
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    right, bottom = max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)
    return replace(frames, pixels=frames.pixels[:, max(top, 0) : bottom, max(left, 0) : right])


def opencv() -> Any:
    """The module cv2. ConfigError if it cannot be imported."""
    try:
        import cv2
    except ImportError as error:
        problem, hint = "OpenCV, which finds faces, cannot be imported.", "pip install 'hero-lightning[face]'"
        raise ConfigError(problem, expected="cv2", got=cause(error), where=WHERE, hint=hint) from error
    return cv2
