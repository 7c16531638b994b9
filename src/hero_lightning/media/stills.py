"""Reads folders of images and arrays of pictures like a video; scales and crops decoded pictures.

Data flow: Media -> ImageSequence -> pictures at wanted times (Frames); no others are read.

Shapes: T pictures, H W picture size.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hero_lightning.errors import MediaError, cause
from hero_lightning.media.limits import limit, raised
from hero_lightning.media.npy import read_header
from hero_lightning.media.types import ClipInfo
from hero_lightning.types import Box, Media

IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
RATE = 25.0
"""Pictures per second of a folder or array, unless the dataset gives the rate."""
EPSILON = 2e-3
"""Seconds by which a picture may appear late: Matroska rounds times to 1 ms, plans are k / fps."""


def is_stills(path: Path) -> bool:
    """Whether a path is a folder of images or an array."""
    return path.suffix == ".npy" or os.path.isdir(path)


class ImageSequence:
    """The images of a folder in natural order, or an array [T, H, W, 3] uint8, of which only wanted pictures are read.

    Picture k is shown at k / rate. An empty array is a valid sequence: OpenFace writes one if it finds no face.

    Args:
        media: folder or .npy file, span, crop, rate, channel order.

    Raises:
        MediaError: the array cannot be read or has another shape.
    """

    def __init__(self, media: Media) -> None:
        self.media, self.rate = media, media.rate or RATE
        path = Path(media.path)
        self.pictures: Any
        if path.is_dir():
            files = [p for p in path.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith(".")]
            self.pictures = sorted(files, key=_natural)
        else:
            self.pictures = _Pictures(path)
        total = len(self.pictures)
        start, end = media.span or (0.0, total / self.rate)
        self.first, self.last = round(start * self.rate), min(round(end * self.rate), total)

    @property
    def info(self) -> ClipInfo:
        """Header of the sequence; no picture is read."""
        count = max(self.last - self.first, 0)
        if count == 0:
            return ClipInfo(0.0)
        return ClipInfo(count / self.rate, self.rate, count, has_video=True)

    def read(self, times: Sequence[float], size: int | None = None) -> tuple[np.ndarray, list[float]]:
        """Pictures at these times (any order): [T, H, W, 3] uint8 RGB, and when each appears in seconds."""
        count = self.last - self.first
        if count <= 0:
            raise self._error("There is no picture.", "at least one", "none")
        index = [min(max(int((t + EPSILON) * self.rate), 0), count - 1) for t in times]
        pictures = {k: self._picture(self.first + k, size) for k in sorted(set(index))}
        if len(sizes := {p.shape[:2] for p in pictures.values()}) > 1:
            raise self._error("The pictures differ in size.", "one size", sorted(sizes))
        return np.stack([pictures[k] for k in index]), [k / self.rate for k in index]

    def _error(self, problem: str, expected: object, got: object) -> MediaError:
        hint = "repair or replace the file, or leave the sample out"
        return MediaError(problem, expected=expected, got=got, where=self.media.path, hint=hint)

    def _check(self, stream: Any) -> None:
        """MediaError for a picture beyond the limit, before it is decoded."""
        if (stream.width or 0) * (stream.height or 0) > limit("pixels"):
            got = f"{stream.width} x {stream.height}"
            problem = f"A picture is beyond limits.pixels={limit('pixels'):g}: {got}."
            expected, hint = f"at most {limit('pixels'):g} pixels", f"leave the sample out, or {raised('pixels')}"
            raise MediaError(problem, expected=expected, got=got, where=self.media.path, hint=hint)

    def _picture(self, k: int, size: int | None) -> np.ndarray:
        import av
        from av.error import FFmpegError
        from av.video.reformatter import VideoReformatter

        if isinstance(self.pictures, _Pictures):
            array = self.pictures[k]
            array = np.ascontiguousarray(array[..., ::-1] if self.media.bgr else array)
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
        else:
            try:
                with av.open(str(self.pictures[k])) as image:
                    self._check(image.streams.video[0])
                    frame = next(image.decode(video=0))
            except (FFmpegError, StopIteration, IndexError) as error:
                got = f"{self.pictures[k].name}: {cause(error)}"
                raise self._error("A picture cannot be read.", "a complete image", got) from error
        return rgb(frame, self.media.crop, size, VideoReformatter())


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts frame2 before frame10."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]


class _Pictures:
    """The pictures of a .npy file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                header, self.offset = read_header(file), file.tell()
            left = path.stat().st_size - self.offset
        except (OSError, ValueError) as error:
            raise MediaError(
                "The array cannot be read.", expected="a .npy file", got=cause(error), where=path
            ) from error
        self.shape = header.shape
        if header.nbytes == 0:
            self.shape = (0, 1, 1, 3)
        elif len(self.shape) != 4 or self.shape[3] != 3 or header.dtype != np.uint8 or header.fortran:
            expected, got = "[T, H, W, 3] uint8", f"{list(self.shape)} {header.dtype}"
            raise MediaError("The array holds no pictures.", expected=expected, got=got, where=path)
        elif header.nbytes > left:
            raise MediaError("The array is truncated.", expected=f"{header.nbytes} bytes", got=left, where=path)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, k: int) -> np.ndarray:
        size = math.prod(self.shape[1:])
        raw = np.fromfile(self.path, np.uint8, size, offset=self.offset + k * size)
        if len(raw) < size:  # truncated since it was opened
            raise MediaError("The array is truncated.", expected=f"picture {k}", got="its end", where=self.path)
        return raw.reshape(self.shape[1:])


def rgb(frame: Any, crop: Box | None, size: int | None, reformatter: Any) -> np.ndarray:
    """One decoded frame -> [H, W, 3] uint8 RGB, scaled, turned upright and cropped.

    Args:
        frame: PyAV's frame.
        crop: part to keep; None = all.
        size: shortest side of the (cropped) picture in pixels, aspect kept, never enlarged; None = unchanged.
        reformatter: PyAV's; creating one is as slow as using it, so the caller reuses it.
    """
    x0, y0, x1, y1 = pixels(crop, frame.width, frame.height)
    scale = min(size / min(x1 - x0, y1 - y0), 1.0) if size else 1.0
    width, height = max(round(frame.width * scale), 1), max(round(frame.height * scale), 1)
    picture = reformatter.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()
    picture = np.rot90(picture, round(frame.rotation / 90) % 4)  # rotation counts counterclockwise
    x0, y0, x1, y1 = pixels(crop, picture.shape[1], picture.shape[0])
    return np.ascontiguousarray(picture[y0:y1, x0:x1])


def pixels(crop: Box | None, width: int, height: int) -> tuple[int, int, int, int]:
    """Box in fractions -> integer pixels x0, y0, x1, y1, at least one wide and high."""
    x0, y0, x1, y1 = crop or (0.0, 0.0, 1.0, 1.0)
    left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
    return left, top, max(round(x1 * width), left + 1), max(round(y1 * height), top + 1)
