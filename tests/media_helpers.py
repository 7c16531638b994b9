"""Synthetic media for tests: clips whose pictures carry their number, sounds and AU tables, written in milliseconds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from hero_lightning.media.action_units import AU_COLUMNS

BITS = 8


def numbered_picture(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """[H, W, 3] uint8: eight bars, white where the bit of `number` is set; read back by `picture_number`."""
    bars = np.array([200 if number >> bit & 1 else 40 for bit in range(BITS)], dtype=np.uint8)
    return np.broadcast_to(np.repeat(bars, width // BITS)[None, :, None], (height, width, 3)).copy()


def picture_number(pixels: np.ndarray) -> int:
    """The number in a picture [H, W, 3] (any size) of `numbered_picture`."""
    grey = np.asarray(pixels, dtype=float).mean(axis=(0, 2))
    bars = grey.reshape(BITS, -1).mean(axis=1)
    return sum(1 << bit for bit in range(BITS) if bars[bit] > 120)


def tone(seconds: float, rate: int = 44_100, hertz: float = 220.0, level: float = 0.4) -> np.ndarray:
    """[N] float32 sine."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_clip(
    path: Path,
    seconds: float = 2.0,
    fps: int = 10,
    size: tuple[int, int] = (96, 64),
    audio: bool = True,
    vfr: bool = False,
    sound: np.ndarray | None = None,
    sound_rate: int = 44_100,
    hole: tuple[float, float] | None = None,
    pictures: list[np.ndarray] | None = None,
    rotation: int = 0,
    codec: str | None = None,
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    start: int = 0,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes a video whose picture k shows the number k, with a sine of 220 Hz.

    Args:
        path: the ending chooses the container: mp4, mov, mkv (H.264 + AAC) or avi (MPEG-4 + MP3).
        seconds: length.
        fps: pictures per second.
        size: width (a multiple of 8) and height.
        audio: whether there is a sound track.
        vfr: every third picture is left out and its neighbour shown longer.
        sound: [N] samples at `sound_rate` instead of the sine.
        sound_rate: Hz.
        hole: seconds between which the sound track holds no packet.
        pictures: [H, W, 3] uint8 instead of the numbers.
        rotation: degrees counterclockwise that a player turns the picture.
        codec: video codec instead of the usual one.
        options: of the video codec.
        pix_fmt: its pixels; only some of them allow odd sizes.
        start: number of the tick that shows the first picture; below 0 an edit list hides the pictures before 0 (mp4).
        container_options: of the container.
    """
    import av

    avi = path.suffix == ".avi"
    pictures = pictures or [numbered_picture(k, *size) for k in range(round(seconds * fps))]
    hidden = {"use_editlist": "1", "avoid_negative_ts": "disabled"} if start < 0 else {}
    with av.open(str(path), "w", options=hidden | (container_options or {})) as container:
        video = container.add_stream(codec or ("mpeg4" if avi else "libx264"), rate=fps, options=options or {})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = pix_fmt
        if rotation:
            video.set_display_rotation(rotation)
        voice = container.add_stream("libmp3lame" if avi else "aac", rate=sound_rate, layout="mono") if audio else None
        for k, pixels in enumerate(pictures):
            if vfr and k % 3 == 2:
                continue
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = k + start, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if voice is not None:
            _encode(container, voice, tone(seconds, sound_rate) if sound is None else sound, sound_rate, hole)
    return path


def write_sound(path: Path, samples: np.ndarray | None = None, rate: int = 44_100) -> Path:
    """Writes mono sound; wav, flac, mp3 or m4a by the ending. Without samples, a sine of 220 Hz for 1 s."""
    import av

    codec = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".m4a": "aac"}[path.suffix]
    with av.open(str(path), "w") as container:
        voice = container.add_stream(codec, rate=rate, layout="mono")
        _encode(container, voice, tone(1.0, rate) if samples is None else samples, rate)
    return path


write_wav = write_sound


def _encode(container, voice, samples: np.ndarray, rate: int, hole: tuple[float, float] | None = None) -> None:
    import av

    def mux(packets) -> None:
        for packet in packets:
            at = float(packet.pts * packet.time_base)
            if hole is None or not hole[0] <= at < hole[1]:
                container.mux(packet)

    frame = av.AudioFrame.from_ndarray(np.asarray(samples, dtype=np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    resampler = av.AudioResampler(format=voice.format, layout="mono", rate=rate, frame_size=voice.frame_size or 1024)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        mux(voice.encode(part))
    mux(voice.encode())


def write_au_csv(
    path: Path,
    frames: int = 20,
    fps: float = 10.0,
    values: dict[str, np.ndarray] | None = None,
    lost: tuple[int, ...] = (),
) -> Path:
    """Writes an OpenFace style table (names with blanks).

    Args:
        path: csv file.
        frames: rows.
        fps: picture rate behind the timestamps.
        values: column name -> [frames] values; others are 0.
        lost: rows whose face was not tracked.
    """
    header = ["frame", "face_id", "timestamp", "confidence", "success", *AU_COLUMNS]
    lines = [", ".join(header)]
    for k in range(frames):
        tracked = k not in lost
        row = [k + 1, 0, k / fps, 0.98 if tracked else 0.0, int(tracked)]
        row += [float((values or {}).get(name, np.zeros(frames))[k]) for name in AU_COLUMNS]
        lines.append(", ".join(f"{v:g}" for v in row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
