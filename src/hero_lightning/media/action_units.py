"""Reads facial action units, face boxes and expressive peaks (au_info) from files.

Data flow: OpenFace or py-feat csv, MER-Factory json -> read_au_table -> ActionUnits; au_info or MER-Factory json ->
read_au_info -> au_info dict.

Shapes: T tracked pictures, C = 35 columns (17 intensities 0..5, 18 presences 0 or 1).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hero_lightning.errors import MediaError, cause
from hero_lightning.media.types import ActionUnits
from hero_lightning.types import Sample, file_name

AU_NUMBERS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
"""Units whose intensity OpenFace measures; of AU28 (lip suck) it measures only the presence."""
INTENSITIES = tuple(f"AU{n:02d}_r" for n in AU_NUMBERS)
PRESENCES = tuple(f"AU{n:02d}_c" for n in (*AU_NUMBERS[:-1], 28, 45))
AU_COLUMNS = INTENSITIES + PRESENCES
"""The 35 columns of ActionUnits, in OpenFace's order."""
PYFEAT = {name[:4]: name[:4] for name in AU_COLUMNS} | {"AU45": "AU43"}
"""OpenFace's unit -> py-feat's column; py-feat has closed eyes (AU43) instead of blinks (AU45)."""
LANDMARKS = tuple(f"{axis}_{k}" for axis in "xy" for k in range(68))
RECTANGLE = ("FaceRectX", "FaceRectWidth", "FaceRectY", "FaceRectHeight")
"""Columns with the position of the face, OpenFace's and py-feat's: first along x, then along y."""
PEAKS = "au_info"
"""Folder below features_root/<dataset> for the peaks found by `python -m hero_lightning.peaks`."""
AU_INFO = re.compile(r'"au_info"\s*:\s*')
JSON = json.JSONDecoder()
TRACKED = 0.5
"""Lowest confidence of a tracked face in a table without a `success` column."""


def read_au_table(path: Path, fps: Callable[[], float] | None = None) -> ActionUnits:
    """Reads the action units of the pictures with a tracked face, of several faces the one with highest confidence.

    OpenFace csv: column names may have blanks (it writes ", "). Rows with success = 0 or NaN are left out. py-feat csv:
    probabilities 0..1 are scaled to OpenFace's intensities 0..5; units are present from 0.5 on. MER-Factory json: units
    that are not listed are 0.

    Args:
        path: csv or json.
        fps: returns the clip's picture rate; called only if a table counts pictures instead of seconds (py-feat).

    Returns:
        x [T, 35] in the order of AU_COLUMNS, with the times of the table.

    Raises:
        MediaError: the file is missing, empty or malformed, lacks columns or times, or has no row with a tracked face.
    """
    if path.suffix == ".json":
        time, x = _listed(path)
    else:
        expected = "timestamp, 17 AU.._r and 18 AU.._c columns (OpenFace); frame, FaceScore and 20 AU.. (py-feat)"
        units = [PYFEAT[name[:4]] for name in AU_COLUMNS]
        time, x, pyfeat = _tracked(path, AU_COLUMNS, units, fps, expected, "OpenFace FeatureExtraction -aus")
        if pyfeat:
            x[:, :17], x[:, 17:] = x[:, :17] * 5, x[:, 17:] >= 0.5
    if len(x) == 0:
        expected = "a row with success = 1"
        raise MediaError("The AU table holds no tracked face.", expected=expected, got="none", where=path)
    return ActionUnits(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(time.astype(np.float32)), AU_COLUMNS)


def read_face_boxes(path: Path, fps: Callable[[], float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Face boxes of the pictures with a tracked face, from a table of action units.

    py-feat: FaceRectX, -Y, -Width, -Height. OpenFace: bounding box of the landmarks x_0 .. y_67 (FeatureExtraction
    -2Dfp).

    Args:
        path, fps: see `read_au_table`.

    Returns:
        Seconds [T] and corners x0, y0, x1, y1 [T, 4] in pixels of the video.

    Raises:
        MediaError: the file is missing or malformed, or lacks columns or times.
    """
    expected = "x_0 .. x_67, y_0 .. y_67 (OpenFace) or FaceRectX, -Y, -Width, -Height (py-feat)"
    time, x, pyfeat = _tracked(path, LANDMARKS, RECTANGLE, fps, expected, "OpenFace FeatureExtraction -aus -2Dfp")
    x, y = np.split(x, 2, axis=1)
    if pyfeat:  # start, length -> start, end
        x, y = np.cumsum(x, axis=1), np.cumsum(y, axis=1)
    return time, np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)


def _tracked(
    path: Path,
    openface: Sequence[str],
    pyfeat: Sequence[str],
    fps: Callable[[], float] | None,
    expected: str,
    command: str,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Seconds [T] and columns [T, C] of the pictures with a face, one face each; whether py-feat wrote the table."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        wanted = "an OpenFace or py-feat csv"
        raise MediaError("The AU table cannot be read.", expected=wanted, got=cause(error), where=path) from error
    if "FaceScore" in names:
        rows = _numbers(path, names, ("frame", *pyfeat, "FaceScore"), expected, command)
        if not (rate := fps() if fps is not None else 0.0):
            wanted = "the video it was made from"
            raise MediaError("A py-feat table counts pictures, not seconds.", expected=wanted, where=path)
        rows[:, 0] /= rate
    else:
        valid = next((n for n in ("success", "confidence") if n in names), "timestamp")
        best = "confidence" if "confidence" in names else valid
        rows = _numbers(path, names, ("timestamp", *openface, valid, best), expected, command)
        if valid != "timestamp":
            rows = rows[rows[:, -2] > (TRACKED if valid == "confidence" else 0)]
        rows = np.delete(rows, -2, axis=1)
    rows = rows[np.lexsort((-rows[:, -1], rows[:, 0]))]
    rows = rows[np.unique(rows[:, 0], return_index=True)[1]]
    return rows[:, 0], rows[:, 1:-1], "FaceScore" in names


def _numbers(path: Path, names: Sequence[str], wanted: Sequence[str], expected: str, command: str) -> np.ndarray:
    """[rows, wanted] of a csv; rows with NaN or empty cells are left out."""
    missing = [name for name in wanted if name not in names]
    if missing:
        got = f"no {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}"
        hint = f"write it with {command}, or py-feat"
        raise MediaError("The AU table lacks columns.", expected=expected, got=got, where=path, hint=hint)
    try:
        rows = np.loadtxt(
            path,
            delimiter=",",
            skiprows=1,
            usecols=[names.index(n) for n in wanted],
            ndmin=2,
            encoding="utf-8-sig",
            quotechar='"',
            converters=(lambda s: float(s.strip() or "nan")) if "FaceScore" in names else None,  # empty without a face
        )
    except ValueError as error:
        raise MediaError("The AU table cannot be parsed.", expected="numbers", got=cause(error), where=path) from error
    return rows[np.isfinite(rows).all(axis=1)]


def _listed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Units that a MER-Factory json lists for every picture, or only for the overall peak."""
    content = _json(path)
    peak = content.get("overall_peak_frame_info")
    out = []
    try:
        for row in content.get("per_frame_au_descriptions") or ([peak] if peak else []):
            units: Mapping[str, float] = row.get("active_aus") or row.get("top_aus_intensities") or {}
            level = [float(units.get(name, 0.0)) for name in INTENSITIES]
            present = [float(any(k[:4] == name[:4] for k in units)) for name in PRESENCES]
            out.append([float(row["timestamp"]), *level, *present])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "{timestamp, active_aus: {AU12_r: 1.3, ...}}"
        raise MediaError("The AU table cannot be parsed.", expected=expected, got=cause(error), where=path) from error
    rows = np.array(sorted(out), dtype=float).reshape(-1, 36)
    return rows[:, 0], rows[:, 1:]


def _json(path: Path, only_au_info: bool = False) -> dict[str, Any]:
    """Content of a json file; `only_au_info` skips the much longer list of all pictures if the file has au_info."""
    try:
        text = path.read_text(encoding="utf-8")
        part = AU_INFO.search(text) if only_au_info else None
        content = {"au_info": JSON.raw_decode(text, part.end())[0]} if part else json.loads(text)
    except (OSError, ValueError) as error:
        raise MediaError("The au_info file cannot be read.", expected="json", got=cause(error), where=path) from error
    if not isinstance(content, dict):
        raise _malformed(path, type(content).__name__)
    return content


def _malformed(path: Path, got: str) -> MediaError:
    expected = "{total_frames, peak_frames: [{peak_index, ...}]}"
    return MediaError("The au_info file has another form.", expected=expected, got=got, where=path)


def au_info_file(sample: Sample, folder: Path | None) -> Path | None:
    """File with the peaks of a clip: the dataset's own, else the one in `folder`."""
    own = sample.files.get("au_info")
    return own if own is not None or folder is None else folder / f"{file_name(sample.id)}.json"


def read_au_info(path: Path) -> dict[str, Any]:
    """Reads the expressive peaks of a clip: au_info itself, or an analysis of MER-Factory that may contain it.

    The public MER-Factory gives one peak (`overall_peak_frame_info`, pictures counted from 1); the patched version also
    flags pictures (`is_peak_frame`). An analysis in words only has no peaks.

    Returns:
        {total_frames?, fps?, peak_frames: [{peak_index from 0, time? in seconds, intensity?, ...}]}.
    """
    content = _json(path, only_au_info=True)
    info = content.get("au_info", content)
    if not isinstance(info, dict):
        raise _malformed(path, type(info).__name__)
    if "peak_frames" not in info:
        content = _json(path) if "au_info" in content else content
        flagged = [p for p in content.get("per_frame_au_descriptions") or () if p.get("is_peak_frame")]
        best = content.get("overall_peak_frame_info")
        info = {**info, "peak_frames": [_peak(p) for p in flagged or ([best] if best else [])]}
    peaks = info["peak_frames"] = info["peak_frames"] or []
    if not isinstance(peaks, list) or not all(isinstance(p, dict) and _is_index(p.get("peak_index")) for p in peaks):
        raise _malformed(path, f"peak_frames: {str(peaks)[:80]}")
    return info


def _peak(peak: Mapping[str, Any]) -> dict[str, Any]:
    """A picture of a MER-Factory analysis (counted from 1) as a peak (counted from 0)."""
    number, units = peak.get("frame_number", peak.get("frame")), peak.get("top_aus_intensities", peak.get("active_aus"))
    time = {"time": float(peak["timestamp"])} if "timestamp" in peak else {}
    return {"peak_index": int(number or 0) - 1, **time, "intensity": float(sum((units or {}).values()))}


def _is_index(number: Any) -> bool:
    return isinstance(number, int | float) and float(number).is_integer() and number >= 0
