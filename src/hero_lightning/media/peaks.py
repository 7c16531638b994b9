"""Finds the expressive peaks of a clip, by its action units or, where there are none, by what moves.

Data flow: Sample -> AU table | face crops | small pictures -> a curve over time -> au_info with the name of its method.

Shapes: S looked-at pictures, H W picture size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hero_lightning.errors import ConfigError, MediaError
from hero_lightning.media.action_units import read_au_table
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.face import FaceCropper, picture_rate
from hero_lightning.media.types import ActionUnits, Frames
from hero_lightning.types import Sample

METHODS = ("au", "face_change", "motion")
"""From the surest to the roughest."""
SMALL = 64
"""Pixels of the shorter side at which movement is measured."""
PATCH = 24
"""Pixels of a face whose change is measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PeakFinder:
    """How the peaks of a clip are found.

    Attributes:
        method: one of METHODS, or auto: the first that the clip has the material for.
        height: au only: least sum of intensities of a peak.
        distance: least seconds between two peaks.
        fps: face_change and motion: pictures per second that are looked at.
        faces: face_change: where faces come from.
    """

    method: str = "auto"
    height: float = 0.8
    distance: float = 0.5
    fps: float = 10.0
    faces: FaceCropper = field(default_factory=FaceCropper)

    def __post_init__(self) -> None:
        checks = (
            ("method", self.method in ("auto", *METHODS), f"auto, {', '.join(METHODS)}"),
            ("height", self.height >= 0, "0 or more"),
            ("distance", self.distance >= 0, "0 or more"),
            ("fps", self.fps > 0, "more than 0"),
        )
        for key, good, expected in checks:
            if not good:
                raise ConfigError(f"{key} has a wrong value.", expected=expected, got=getattr(self, key), where=key)

    def inputs(self, sample: Sample) -> dict[str, Any]:
        """What decides the result, plain builtins: method, settings, and the file it reads with size and time.

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
        expected = "an AU table, a face or a video" if self.method == "auto" else f"what method={self.method} reads"
        raise MediaError("Nothing shows where the peaks of a clip are.", expected=expected, where=sample.id)

    def find(self, sample: Sample) -> dict[str, Any]:
        """{au_info, method, inputs} of a clip. Where method auto finds no face, movement is measured.

        Raises:
            MediaError: its file cannot be read, or there is none.
        """
        inputs = self.inputs(sample)
        method = inputs["method"]
        if method == "au":
            return {"au_info": self._by_units(sample), "method": method, "inputs": inputs}
        found = self._by_change(sample, method)
        if found is None and self.method == "auto":
            method, found = "motion", self._by_change(sample, "motion")
        if found is None:
            raise MediaError("No picture shows a face.", expected="one at least", got="none", where=sample.id)
        return {"au_info": found, "method": method, "inputs": inputs}

    def _by_units(self, sample: Sample) -> dict[str, Any]:
        fps = picture_rate(sample.video)  # an OpenFace table needs no video
        table = read_au_table(sample.files["au"], lambda: fps or 0.0)
        if fps is None:
            step = float(table.time.diff().median()) if len(table.time) > 1 else 0.0
            return find_peaks(table, round(1 / step, 3) if step > 0 else 25.0, None, self.height, self.distance)
        assert sample.video is not None
        with ClipReader(sample.video) as clip:
            return find_peaks(table, fps, clip.info.num_frames, self.height, self.distance)

    def _by_change(self, sample: Sample, method: str) -> dict[str, Any] | None:
        """au_info from how much changes; None without a face."""
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
        value = _change(frames) if method == "face_change" else _movement(frames)
        value = np.convolve(np.pad(value, 1, mode="edge"), np.ones(3) / 3, mode="valid")  # one picture may be a blink
        high = float(value.mean() + value.std())  # a unit of its own, so the clip is measured against itself
        return au_info(value, frames.time.numpy(), info.fps, info.num_frames, max(high, 1e-6), self.distance)


def _movement(frames: Frames) -> np.ndarray:
    """How much each picture differs from the one before, percent of full brightness: [S]."""
    grey = frames.pixels.float().mean(dim=-1)  # [S, H, W]
    change = grey.diff(dim=0).abs().mean(dim=(1, 2)) * (100 / 255)
    return np.concatenate([[0.0], change.numpy()])


def _change(frames: Frames) -> np.ndarray:
    """How much each face differs from the clip's median face, light evened out: [S]."""
    grey = frames.pixels.float().mean(dim=-1)[:, None]  # [S, 1, H, W]
    patch = torch.nn.functional.adaptive_avg_pool2d(grey, PATCH).flatten(1)  # [S, PATCH * PATCH]
    patch = (patch - patch.mean(dim=1, keepdim=True)) / patch.std(dim=1, keepdim=True).clamp(min=1.0)
    return (patch - patch.median(dim=0).values).abs().mean(dim=1).numpy()


def find_peaks(
    table: ActionUnits, fps: float, total_frames: int | None = None, height: float = 0.8, distance: float = 0.5
) -> dict[str, Any]:
    """Finds where the face is most expressive: the highest sums of intensities, strongest first.

    Blinks (AU45) do not count: they come every few seconds and mean nothing here. Neither do pictures in which the
    face was not tracked: a ActionUnits does not hold them.

    Args:
        table: action units of the clip.
        fps: picture rate of the clip.
        total_frames: pictures of the clip; None = up to the last row.
        height: least sum of intensities of a peak (MER-Factory's threshold).
        distance: least seconds between two peaks.

    Returns:
        au_info as `read_au_info` gives it.
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
    walled = np.concatenate([[-np.inf], value, [-np.inf]])
    top = np.flatnonzero((value >= walled[:-2]) & (value >= walled[2:]) & (value >= height))
    peaks: list[dict[str, Any]] = []
    for k in top[np.argsort(-value[top], kind="stable")]:
        if any(abs(time[k] - p["time"]) < distance for p in peaks):
            continue
        at = min(max(round(float(time[k]) * fps), 0), last - 1)
        around = {"peak_index": at, "frames_before_peak": at, "frames_after_peak": last - 1 - at}
        peaks.append(around | {"time": round(float(time[k]), 4), "intensity": round(float(value[k]), 4)})
    return {"total_frames": last, "fps": round(fps, 4), "peak_frames": peaks}
