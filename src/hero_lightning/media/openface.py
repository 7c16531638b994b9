"""Facial action units from files: OpenFace tables, and where in a clip the face is most expressive (au_info).

Data flow: OpenFace csv -> read_au_table -> Table -> find_peaks -> au_info dict; json -> read_au_info -> au_info dict.

Shapes: T tracked pictures, C = 35 columns (17 intensities 0..5, 18 presences 0 or 1).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hero_lightning.errors import MediaError
from hero_lightning.media.types import Table

AU_NUMBERS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
"""Units whose intensity OpenFace measures; AU28 (lip suck) it only detects."""
INTENSITIES = tuple(f"AU{n:02d}_r" for n in AU_NUMBERS)
PRESENCES = tuple(f"AU{n:02d}_c" for n in (*AU_NUMBERS[:-1], 28, 45))
AU_COLUMNS = INTENSITIES + PRESENCES
"""The 35 columns of a Table, in OpenFace's order."""


def read_au_table(path: Path) -> Table:
    """Reads an OpenFace csv: the action units of the pictures in which the face was tracked.

    Column names may carry blanks (OpenFace writes ", "). Rows with success = 0 or an unreadable number are left out.

    Returns:
        Table x [T, 35] in the order of AU_COLUMNS, with the times OpenFace wrote.

    Raises:
        MediaError: the file is missing or empty, lacks columns, or no row was tracked.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = [name.strip() for name in next(csv.reader(file), [])]
    except OSError as error:
        raise MediaError("The AU table cannot be read.", expected="an OpenFace csv", got=error, where=path) from error
    wanted = ("timestamp", *AU_COLUMNS, *(("success",) if "success" in names else ()))
    lacking = [name for name in wanted if name not in names]
    if lacking:
        raise MediaError(
            "The AU table lacks columns.",
            expected="timestamp, 17 AU.._r and 18 AU.._c columns",
            got=f"no {', '.join(lacking[:4])}{' ...' if len(lacking) > 4 else ''}",
            where=path,
            mend="write it with OpenFace FeatureExtraction -aus",
        )
    try:
        rows = np.loadtxt(
            path, delimiter=",", skiprows=1, usecols=[names.index(n) for n in wanted], ndmin=2, encoding="utf-8-sig"
        )  # [rows, 1 + 35 (+ 1)]
    except ValueError as error:
        raise MediaError("The AU table is broken.", expected="numbers", got=error, where=path) from error
    tracked = np.isfinite(rows).all(axis=1)
    if "success" in names:
        tracked &= rows[:, -1] > 0
    rows = rows[tracked]
    if len(rows) == 0:
        expected = "a row with success = 1"
        raise MediaError("The AU table holds no tracked face.", expected=expected, got="none", where=path)
    x = torch.from_numpy(rows[:, 1:36].astype(np.float32))
    return Table(x=x, time=torch.from_numpy(rows[:, 0].astype(np.float32)), names=AU_COLUMNS)


def read_au_info(path: Path) -> dict[str, Any]:
    """Reads where the expressive peaks of a clip are: au_info by itself, or inside a MER-Factory style analysis.

    Returns:
        {total_frames, fps?, peak_frames: [{peak_index, frames_before_peak, frames_after_peak, intensity?}]}.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MediaError("The au_info file cannot be read.", expected="json", got=error, where=path) from error
    found = found.get("au_info", found) if isinstance(found, dict) else found
    if not isinstance(found, dict):
        expected = "{total_frames, peak_frames: [{peak_index, ...}]}"
        raise MediaError("The au_info file has another shape.", expected=expected, got=type(found).__name__, where=path)
    return found


def find_peaks(
    table: Table, fps: float, total_frames: int | None = None, height: float = 0.8, distance: float = 0.5
) -> dict[str, Any]:
    """Finds where the face is most expressive: the highest sums of intensities, strongest first.

    Blinks (AU45) do not count: they come every few seconds and mean nothing here.

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
    total = table.x[:, columns].sum(dim=1).numpy().copy()
    time = table.time.numpy()
    index = np.round(time * fps).astype(int)
    last = int(index.max()) + 1 if total_frames is None else total_frames
    peaks = []
    while (best := int(total.argmax())) >= 0 and total[best] >= height:
        at = min(int(index[best]), last - 1)
        peaks.append(
            {
                "peak_index": at,
                "frames_before_peak": at,
                "frames_after_peak": last - 1 - at,
                "intensity": round(float(total[best]), 4),
            }
        )
        total[np.abs(time - time[best]) < distance] = -1.0
    return {"total_frames": last, "fps": fps, "peak_frames": peaks}
