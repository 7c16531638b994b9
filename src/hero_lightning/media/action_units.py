"""Facial action units from files, and where in a clip the face is most expressive (au_info).

Data flow: OpenFace or py-feat csv, MER-Factory json -> read_au_table -> ActionUnits -> find_peaks -> au_info dict;
au_info or MER-Factory json -> read_au_info -> au_info dict.

Shapes: T tracked pictures, C = 35 columns (17 intensities 0..5, 18 presences 0 or 1), S values over time.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from hero_lightning.errors import MediaError
from hero_lightning.media.types import ActionUnits
from hero_lightning.types import Sample

AU_NUMBERS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
"""Units whose intensity OpenFace measures; AU28 (lip suck) it only detects."""
INTENSITIES = tuple(f"AU{n:02d}_r" for n in AU_NUMBERS)
PRESENCES = tuple(f"AU{n:02d}_c" for n in (*AU_NUMBERS[:-1], 28, 45))
AU_COLUMNS = INTENSITIES + PRESENCES
"""The 35 columns of a ActionUnits, in OpenFace's order."""
PYFEAT = {name[:4]: name[:4] for name in AU_COLUMNS} | {"AU45": "AU43"}
"""Our unit -> py-feat's column: it sees closed eyes (AU43), not the blink."""
LANDMARKS = tuple(f"{axis}_{k}" for axis in "xy" for k in range(68))
RECTANGLE = ("FaceRectX", "FaceRectWidth", "FaceRectY", "FaceRectHeight")
"""Where OpenFace (points) and py-feat say the face is: first what lies along x, then along y."""
PEAKS = "au_info"
"""Folder below features_root/<dataset> of the peaks that `python -m hero_lightning.peaks` found."""
AU_INFO = re.compile(r'"au_info"\s*:\s*')
JSON = json.JSONDecoder()
TRACKED = 0.5
"""Least confidence of a tracked face in a table without a `success` column."""


def read_au_table(path: Path, fps: Callable[[], float] | None = None) -> ActionUnits:
    """Reads the action units of the pictures in which the face was tracked; of several faces the surest.

    OpenFace csv: names may carry blanks (it writes ", "). Rows with success = 0 or an unreadable number are left out.
    py-feat csv: its probabilities 0..1 are stretched to OpenFace's intensities 0..5, and count as present from 0.5
    on. MER-Factory json: units that a picture does not list are 0.

    Args:
        path: csv or json.
        fps: gives the clip's picture rate, asked only where a table counts pictures instead of seconds (py-feat).

    Returns:
        ActionUnits x [T, 35] in the order of AU_COLUMNS, with the times of the table.

    Raises:
        MediaError: the file is missing or empty, lacks columns or a clock, or no row was tracked.
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
    """Where the face is in the pictures in which it was tracked, by the table that also holds its action units.

    py-feat: FaceRectX, -Y, -Width, -Height. OpenFace: what its 68 landmarks x_0 .. y_67 span (FeatureExtraction -2Dfp).

    Args:
        path, fps: see `read_au_table`.

    Returns:
        Seconds [T] and corners x0, y0, x1, y1 [T, 4] in pixels of the video.

    Raises:
        MediaError: the file is missing, or lacks columns or a clock.
    """
    expected = "x_0 .. x_67, y_0 .. y_67 (OpenFace) or FaceRectX, -Y, -Width, -Height (py-feat)"
    time, x, pyfeat = _tracked(path, LANDMARKS, RECTANGLE, fps, expected, "OpenFace FeatureExtraction -aus -2Dfp")
    x, y = np.split(x, 2, axis=1)
    if pyfeat:  # start, length
        x, y = np.cumsum(x, axis=1), np.cumsum(y, axis=1)
    return time, np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)


def _tracked(
    path: Path, openface: Sequence[str], pyfeat: Sequence[str], fps: Callable[[], float] | None, *said: str
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Seconds [T], columns [T, C] of a csv's pictures with a face, of several the surest; whether py-feat made it."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = [name.strip() for name in next(csv.reader(file), [])]
    except OSError as error:
        expected = "an OpenFace or py-feat csv"
        raise MediaError("The AU table cannot be read.", expected=expected, got=error, where=path) from error
    if "FaceScore" in names:
        rows = _numbers(path, names, ("frame", *pyfeat, "FaceScore"), *said)
        if not (rate := fps() if fps is not None else 0.0):
            expected = "the clip that it was made from"
            raise MediaError("A py-feat table counts pictures, not seconds.", expected=expected, where=path)
        rows[:, 0] /= rate
    else:
        sure = next((n for n in ("success", "confidence") if n in names), "timestamp")
        best = "confidence" if "confidence" in names else sure
        rows = _numbers(path, names, ("timestamp", *openface, sure, best), *said)
        if sure != "timestamp":
            rows = rows[rows[:, -2] > (TRACKED if sure == "confidence" else 0)]
        rows = np.delete(rows, -2, axis=1)
    rows = rows[np.lexsort((-rows[:, -1], rows[:, 0]))]
    rows = rows[np.unique(rows[:, 0], return_index=True)[1]]
    return rows[:, 0], rows[:, 1:-1], "FaceScore" in names


def _numbers(path: Path, names: Sequence[str], wanted: Sequence[str], expected: str, maker: str) -> np.ndarray:
    """[rows, wanted] of a csv, rows without a number left out."""
    lacking = [name for name in wanted if name not in names]
    if lacking:
        raise MediaError(
            "The AU table lacks columns.",
            expected=expected,
            got=f"no {', '.join(lacking[:4])}{' ...' if len(lacking) > 4 else ''}",
            where=path,
            hint=f"write it with {maker}, or py-feat",
        )
    try:
        rows = np.loadtxt(
            path,
            delimiter=",",
            skiprows=1,
            usecols=[names.index(n) for n in wanted],
            ndmin=2,
            encoding="utf-8-sig",
            quotechar='"',
            converters=(lambda s: float(s.strip() or "nan")) if "FaceScore" in names else None,  # no face: empty
        )
    except ValueError as error:
        raise MediaError("The AU table is broken.", expected="numbers", got=error, where=path) from error
    return rows[np.isfinite(rows).all(axis=1)]


def _listed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Units that a MER-Factory json lists per picture, or only for the overall peak."""
    found = _json(path)
    one = found.get("overall_peak_frame_info")
    rows = found.get("per_frame_au_descriptions") or ([one] if one else [])
    out = []
    try:
        for row in rows:
            units: Mapping[str, float] = row.get("active_aus") or row.get("top_aus_intensities") or {}
            level = [float(units.get(name, 0.0)) for name in INTENSITIES]
            present = [float(any(k[:4] == name[:4] for k in units)) for name in PRESENCES]
            out.append([float(row["timestamp"]), *level, *present])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "{timestamp, active_aus: {AU12_r: 1.3, ...}}"
        raise MediaError("The AU table is broken.", expected=expected, got=repr(error), where=path) from error
    rows = np.array(sorted(out), dtype=float).reshape(-1, 36)
    return rows[:, 0], rows[:, 1:]


def _json(path: Path, alone: bool = False) -> dict[str, Any]:
    """The file; with `alone` only its {"au_info": ...} where it has one: a list of all pictures costs far more."""
    try:
        text = path.read_text(encoding="utf-8")
        part = AU_INFO.search(text) if alone else None
        found = {"au_info": JSON.raw_decode(text, part.end())[0]} if part else json.loads(text)
    except (OSError, ValueError) as error:
        raise MediaError("The au_info file cannot be read.", expected="json", got=error, where=path) from error
    if not isinstance(found, dict):
        raise _shape(path, type(found).__name__)
    return found


def _shape(path: Path, got: str) -> MediaError:
    expected = "{total_frames, peak_frames: [{peak_index, ...}]}"
    return MediaError("The au_info file has another shape.", expected=expected, got=got, where=path)


def au_info_file(sample: Sample, folder: Path | None) -> Path | None:
    """The file of a clip's peaks: the dataset' own, else the one in the folder of those we found."""
    own = sample.files.get("au_info")
    return own if own is not None or folder is None else folder / f"{quote(sample.id, safe='')}.json"


def read_au_info(path: Path) -> dict[str, Any]:
    """Reads where the expressive peaks of a clip are: au_info by itself or inside an analysis of MER-Factory.

    The public MER-Factory names one peak (`overall_peak_frame_info`, pictures counted from 1), its patched producer
    also flags pictures (`is_peak_frame`). An analysis in words alone has no peaks.

    Returns:
        {total_frames?, fps?, peak_frames: [{peak_index from 0, time? in seconds, intensity?, ...}]}.
    """
    found = _json(path, alone=True)
    info = found.get("au_info", found)
    if not isinstance(info, dict):
        raise _shape(path, type(info).__name__)
    if "peak_frames" not in info:
        found = _json(path) if "au_info" in found else found
        marked = [p for p in found.get("per_frame_au_descriptions") or () if p.get("is_peak_frame")]
        best = found.get("overall_peak_frame_info")
        info = {**info, "peak_frames": [_from_one(p) for p in marked or ([best] if best else [])]}
    peaks = info["peak_frames"] = info["peak_frames"] or []
    if not isinstance(peaks, list) or not all(isinstance(p, dict) and _whole(p.get("peak_index")) for p in peaks):
        raise _shape(path, f"peak_frames: {str(peaks)[:80]}")
    return info


def _from_one(peak: Mapping[str, Any]) -> dict[str, Any]:
    number, units = peak.get("frame_number", peak.get("frame")), peak.get("top_aus_intensities", peak.get("active_aus"))
    time = {"time": float(peak["timestamp"])} if "timestamp" in peak else {}
    return {"peak_index": int(number or 0) - 1, **time, "intensity": float(sum((units or {}).values()))}


def _whole(number: Any) -> bool:
    return isinstance(number, int | float) and float(number).is_integer() and number >= 0
