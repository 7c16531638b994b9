"""Finds the expressive peaks of a clip, from its action units or, where there are none, from changes in the picture.

Data flow: Sample -> AU table | face crops | small pictures -> a curve over time -> au_info with the name of the method.

Shapes: S sampled pictures, H W picture size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hero_lightning.errors import MediaError, in_range, one_of
from hero_lightning.media.action_units import read_au_table
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.face import FaceCropper, picture_rate
from hero_lightning.media.signal import movement
from hero_lightning.media.types import ActionUnits, Frames
from hero_lightning.types import Sample

METHODS = ("au", "face_change", "motion")
"""In order of preference."""
SMALL = 64
"""Pixels of the shorter side at which movement is measured."""
PATCH = 24
"""Side in pixels of the face patches that are compared."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PeakFinder:
    """Finds the peaks of a clip.

    Attributes:
        method: one of METHODS, or auto: the first for which the clip has the files.
        height: au only: lowest sum of intensities of a peak.
        distance: shortest time between two peaks in seconds.
        fps: face_change and motion: pictures per second.
        faces: face_change: where faces come from.
    """

    method: str = "auto"
    height: float = 0.8
    distance: float = 0.5
    fps: float = 10.0
    faces: FaceCropper = field(default_factory=FaceCropper)

    def __post_init__(self) -> None:
        one_of("method", self.method, ("auto", *METHODS))
        in_range("height", self.height, "[0, inf)")
        in_range("distance", self.distance, "[0, inf)")
        in_range("fps", self.fps, "(0, inf)")

    def inputs(self, sample: Sample) -> dict[str, Any]:
        """Everything the result depends on, in builtins: method, settings, size and time of the file that is read.

        Raises:
            MediaError: the clip has no file for the method.
        """
        media = {"au": None, "face_change": self.faces.media(sample), "motion": sample.video}
        files: dict[str, Path | None] = {name: m.path if m is not None else None for name, m in media.items()}
        files["au"] = sample.files.get("au")
        for method in METHODS if self.method == "auto" else (self.method,):
            if (path := files[method]) is not None and path.exists():
                own = {"height": self.height} if method == "au" else {"fps": self.fps, "faces": self.faces.identity()}
                state = {"size": path.stat().st_size, "time": path.stat().st_mtime_ns}
                return {"method": method, "distance": self.distance, **own, **state}
        expected = "an AU table, a face or a video" if self.method == "auto" else f"the input of method={self.method}"
        raise MediaError("The clip has no file to find peaks in.", expected=expected, where=sample.id)

    def find(self, sample: Sample) -> dict[str, Any]:
        """{au_info, method, inputs} of a clip. Method auto falls back to movement where no face is found.

        Raises:
            MediaError: the file is missing or cannot be read.
        """
        inputs = self.inputs(sample)
        method = inputs["method"]
        if method == "au":
            return {"au_info": self._from_action_units(sample), "method": method, "inputs": inputs}
        info = self._from_change(sample, method)
        if info is None and self.method == "auto":
            method, info = "motion", self._from_change(sample, "motion")
        if info is None:
            raise MediaError("No picture shows a face.", expected="at least one", got="none", where=sample.id)
        return {"au_info": info, "method": method, "inputs": inputs}

    def _from_action_units(self, sample: Sample) -> dict[str, Any]:
        fps = picture_rate(sample.video)  # an OpenFace table needs no video
        table = read_au_table(sample.files["au"], lambda: fps or 0.0)
        if fps is None:
            step = float(table.time.diff().median()) if len(table.time) > 1 else 0.0
            return find_peaks(table, round(1 / step, 3) if step > 0 else 25.0, None, self.height, self.distance)
        assert sample.video is not None
        with ClipReader(sample.video) as clip:
            return find_peaks(table, fps, clip.info.num_frames, self.height, self.distance)

    def _from_change(self, sample: Sample, method: str) -> dict[str, Any] | None:
        """au_info from the amount of change in the picture; None if no face is found."""
        media = self.faces.media(sample) if method == "face_change" else sample.video
        if media is None:
            raise MediaError("The clip has no video.", expected="a video", got="none", where=sample.id)
        with ClipReader(media) as clip:
            info = clip.info
            times = [k / self.fps for k in range(max(int(info.duration * self.fps), 1))]
            size = SMALL if method == "motion" else None
            frames: Frames | None = clip.read({"frame": times}, size=size)[0]["frame"]
        assert frames is not None
        if method == "face_change":
            frames = self.faces.crops(frames, sample)
            if frames is None:
                return None
            value = _face_change(frames)
        else:
            value = np.concatenate([[0.0], movement(frames.pixels).numpy()])
        value = np.convolve(np.pad(value, 1, mode="edge"), np.ones(3) / 3, mode="valid")  # blinks last one picture
        high = float(value.mean() + value.std())  # relative to the clip: changes have no absolute scale
        return au_info(value, frames.time.numpy(), info.fps, info.num_frames, max(high, 1e-6), self.distance)


def _face_change(frames: Frames) -> np.ndarray:
    """Difference of each face from the clip's median face, brightness and contrast normalised: [S]."""
    grey = frames.pixels.float().mean(dim=-1)[:, None]  # [S, 1, H, W]
    patch = torch.nn.functional.adaptive_avg_pool2d(grey, PATCH).flatten(1)  # [S, PATCH * PATCH]
    patch = (patch - patch.mean(dim=1, keepdim=True)) / patch.std(dim=1, keepdim=True).clamp(min=1.0)
    return (patch - patch.median(dim=0).values).abs().mean(dim=1).numpy()


def find_peaks(
    table: ActionUnits, fps: float, total_frames: int | None = None, height: float = 0.8, distance: float = 0.5
) -> dict[str, Any]:
    """Peaks of facial expression: maxima of the sum of intensities, strongest first.

    Blinks (AU45) do not count: they recur every few seconds and are not part of an expression.

    Args:
        table: action units of the pictures in which the face was tracked.
        fps: picture rate of the clip.
        total_frames: pictures of the clip; None = up to the last row.
        height: lowest sum of intensities of a peak (MER-Factory's threshold).
        distance: shortest time between two peaks in seconds.

    Returns:
        au_info in the form of `read_au_info`.
    """
    columns = [k for k, name in enumerate(table.names) if name.endswith("_r") and name != "AU45_r"]
    total = table.x[:, columns].sum(dim=1).numpy()
    return au_info(total, table.time.numpy(), fps, total_frames, height, distance)


def au_info(
    value: np.ndarray, time: np.ndarray, fps: float, total_frames: int | None, height: float, distance: float
) -> dict[str, Any]:
    """The local maxima of a curve as au_info, strongest first.

    Args:
        value: [S].
        time: [S] seconds, ascending.
        fps, total_frames, height, distance: see `find_peaks`.
    """
    last = round(float(time.max()) * fps) + 1 if total_frames is None else total_frames
    padded = np.concatenate([[-np.inf], value, [-np.inf]])
    top = np.flatnonzero((value >= padded[:-2]) & (value >= padded[2:]) & (value >= height))
    peaks: list[dict[str, Any]] = []
    for k in top[np.argsort(-value[top], kind="stable")]:
        if any(abs(time[k] - p["time"]) < distance for p in peaks):
            continue
        index = min(max(round(float(time[k]) * fps), 0), last - 1)
        around = {"peak_index": index, "frames_before_peak": index, "frames_after_peak": last - 1 - index}
        peaks.append(around | {"time": round(float(time[k]), 4), "intensity": round(float(value[k]), 4)})
    return {"total_frames": last, "fps": round(fps, 4), "peak_frames": peaks}
