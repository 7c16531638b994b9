"""Writes the demo dataset: MP4 files, OpenFace-style tables, labels and the ground truth.

Data flow: seed -> draw -> per clip (in processes) film + speak -> mp4, action units -> csv, au_info json -> labels.csv,
descriptions.json, truth.json -> folder, renamed into place when whole.

Shapes: T pictures, C action unit columns.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hero_lightning.datasets.demo.picture import SIZE, film
from hero_lightning.datasets.demo.traits import TRAITS
from hero_lightning.datasets.demo.truth import CARRIERS, Clip, draw
from hero_lightning.datasets.demo.voice import RATE, speak
from hero_lightning.datasets.demo.words import describe, utterance
from hero_lightning.errors import DataError
from hero_lightning.features.files import write_csv
from hero_lightning.media.action_units import AU_COLUMNS, INTENSITIES, PRESENCES
from hero_lightning.media.peaks import find_peaks
from hero_lightning.media.types import ActionUnits

log = logging.getLogger(__name__)

VERSION = 2
"""Version of the files, in the name of their folder."""
MARKER = "demo.json"
COLUMNS = ("id", "split", "speaker", "dialogue", "turn", "emotion", "valence", "text", "x0", "y0", "x1", "y1")
"""Columns of labels.csv."""
UNIT_NOISE = {0.0: 0.08, 0.33: 0.4, 0.67: 0.85, 1.0: 3.5}
"""Noise level -> standard deviation of an intensity over clips; half as much from row to row."""


def generate(root: Path, seed: int = 0, clips: int = 900, workers: int | None = None) -> None:
    """Generates the dataset in `root`, unless it exists with the same seed, size and version.

    Args:
        root: folder, written atomically.
        clips: number of clips in all splits.
        workers: processes; None = number of processors.

    Raises:
        DataError: `root` holds other files, or a demo dataset of another seed, size or version.
    """
    wanted = {"version": VERSION, "seed": seed, "clips": clips}
    if _found(root) == wanted:
        return
    if root.exists() and any(root.iterdir()):
        expected, got = f"a folder that is empty, absent, or a demo dataset of {wanted}", _found(root) or "other files"
        problem, hint = "The demo dataset's folder has other files.", "dataset.root=ANOTHER_FOLDER"
        raise DataError(problem, expected=expected, got=got, where=root, hint=hint)
    log.info("generating the demo dataset: %d clips in %s", clips, root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as place:
        made = Path(place) / "made"
        _write(made, seed, clips, workers)
        (made / MARKER).write_text(json.dumps(wanted), encoding="utf-8")
        if _found(root) != wanted:  # else another process has written it meanwhile
            os.rename(made, root)


def _found(root: Path) -> dict[str, Any] | None:
    path = root / MARKER
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write(root: Path, seed: int, clips: int, workers: int | None) -> None:
    from rich.progress import track

    (root / "clips").mkdir(parents=True)
    (root / "au").mkdir()
    drawn = draw(seed, clips)
    for clip in drawn:
        clip.text = utterance(clip, seed)
    workers = min(workers or os.cpu_count() or 1, 1 + clips // 32)
    job = partial(_make, root, seed)
    if workers == 1:
        boxes = [job(clip) for clip in drawn]
    else:
        # On Linux a fork starts at once; a fresh interpreter would import torch and the caller's main module.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            results = pool.map(job, drawn, chunksize=8)
            boxes = list(track(results, "demo dataset", total=clips, transient=True, disable=not sys.stderr.isatty()))
    rows: list[Sequence[object]] = []
    for c, box in zip(drawn, boxes, strict=True):
        text, face = "" if "text" in c.missing else c.text, ("",) * 4 if "face" in c.missing else box
        rows.append((c.id, c.split, f"S{c.speaker:02d}", c.dialogue, c.turn, c.emotion, c.valence, text, *face))
    write_csv(root / "labels.csv", COLUMNS, rows)
    _dump(root / "descriptions.json", {clip.id: describe(clip) for clip in drawn})
    _dump(root / "truth.json", {clip.id: truth(clip) for clip in drawn})


def truth(clip: Clip) -> dict[str, Any]:
    """The ground truth of a clip beyond its labels, see Clip.

    Beside fields of Clip: informative_modalities, those of the informative channels that are present; noise, the level
    by modality; audio_says, the emotion that the sound shows.
    """
    known = asdict(clip)
    kept = ("informative", "shows", "missing", "conflict", "intensity", "peak", "syllables", "voiced")
    return {
        **{key: known[key] for key in kept},
        "informative_modalities": [m for c in clip.informative for m in CARRIERS[c] if m not in clip.missing],
        "noise": {m: clip.noise_of(m) for carried in CARRIERS.values() for m in carried},
        "audio_says": clip.shows["audio"],
    }


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _make(root: Path, seed: int, clip: Clip) -> Sequence[float]:
    """Writes one clip's files and returns its face box."""
    pictures, box = film(clip, seed)
    sound = None if "audio" in clip.missing else speak(clip, seed)
    write_mp4(root / "clips" / f"{clip.id}.mp4", pictures, Fraction(*clip.rate), sound)
    if "au" not in clip.missing:
        table = action_units(clip, seed)
        _write_table(root / "au" / f"{clip.id}.csv", table)
        peaks = find_peaks(table, clip.rate[0] / clip.rate[1], len(table.x))
        _dump(root / "au" / f"{clip.id}_au_info.json", peaks)
    return box


def write_mp4(path: Path, pictures: np.ndarray, rate: Fraction, sound: np.ndarray | None) -> None:
    """Writes pictures [T, H, W, 3] uint8 as H.264 and sound [N] float32 at RATE as AAC."""
    import av

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "22"})
        video.width, video.height, video.pix_fmt = SIZE, SIZE, "yuv420p"
        video.codec_context.thread_count = 1
        options = {"aac_coder": "fast"}
        voice = sound is not None and container.add_stream("aac", RATE, layout="mono", bit_rate=64_000, options=options)
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = k, 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if voice and sound is not None:
            for start in range(0, len(sound), 1024):
                part = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts = RATE, start
                container.mux(voice.encode(part))
            container.mux(voice.encode())


def action_units(clip: Clip, seed: int) -> ActionUnits:
    """OpenFace-like measurements: the expression's units, speech at the mouth, blinks, and measurement noise."""
    rng = np.random.default_rng([seed, clip.number, 4])
    time, level = clip.times, clip.noise["au"]
    x = np.zeros((len(time), len(AU_COLUMNS)), np.float32)  # [T, C]
    strength, column = clip.profile(time), {name: k for k, name in enumerate(AU_COLUMNS)}
    for unit, peak in TRAITS[clip.shows["expression"]].units.items():
        x[:, column[unit]] += peak * strength * rng.uniform(0.8, 1.15)
    x[:, column["AU25_r"]] += 0.9 * clip.beats(time)
    x[:, column["AU26_r"]] += 0.5 * clip.beats(time)
    x[:, column["AU45_r"]] += 2.0 * (np.abs(time - rng.uniform(0, clip.seconds)) < 0.12)
    n = len(INTENSITIES)
    x[:, :n] *= 1 - 0.6 * level**2
    x[:, :n] += np.abs(rng.normal(0, UNIT_NOISE[level], n)) * (rng.random(n) < 0.6)  # constant over the clip
    x[:, :n] += rng.normal(0, UNIT_NOISE[level] / 2, (len(time), n))
    x[:, :n] = np.clip(x[:, :n], 0, 5)
    for k, name in enumerate(PRESENCES, start=n):
        intensity = column.get(f"{name[:4]}_r")  # AU28 has none
        x[:, k] = x[:, intensity] > 0.8 if intensity is not None else 0
    return ActionUnits(x=torch.from_numpy(x), time=torch.from_numpy(time.astype(np.float32)), names=AU_COLUMNS)


def _write_table(path: Path, table: ActionUnits) -> None:
    lines = [", ".join(("frame", "face_id", "timestamp", "confidence", "success", *table.names))]
    for k, (at, row) in enumerate(zip(table.time.tolist(), table.x.tolist(), strict=True)):
        lines.append(f"{k + 1}, 0, {at:.3f}, 0.98, 1, " + ", ".join(f"{value:.2f}" for value in row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
