"""Files that take the memory, the time or the process of a run: each is an error of its clip."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hero_lightning.errors import MediaError
from hero_lightning.media.clip import ClipReader
from hero_lightning.types import Media
from tests.media_helpers import numbered_picture, tone, write_clip, write_sound


def sound(path: Path, span: tuple[float, float] | None = None) -> np.ndarray:
    with ClipReader(Media(path, span)) as clip:
        return clip.read({}, sound=True)[1].x.numpy()


def test_devices_and_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, got in (
        (Path("/dev/zero"), "device or pipe"),
        (tmp_path / "pipe.mp4", "device or pipe"),
        ("a\0b", "nothing"),
    ):
        with pytest.raises(MediaError, match=got):
            ClipReader(Media(path)).info  # noqa: B018


def write_wav(path: Path, rate: int, samples: int) -> Path:
    data = bytes(2 * samples)
    body = (
        b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def test_a_wav_of_one_sample_a_second_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "a.wav", 1, 20_000)
    clip = ClipReader(Media(path))
    for _ in range(2):
        with pytest.raises(MediaError, match=r"at most 14400 s[\s\S]*20000 s[\s\S]*limits\.seconds=28800"):
            clip.info  # noqa: B018
    monkeypatch.setenv("HERO_LIMIT_SECONDS", "28800")
    assert ClipReader(Media(path)).info.duration == 20_000
    monkeypatch.setenv("HERO_LIMIT_MEMORY_GB", "0.001")
    with pytest.raises(MediaError, match=r"limits\.memory_gb=0\.002"):
        sound(path)


def test_a_gap_of_days_in_the_time_stamps(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        voice = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for k in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 16_000, Fraction(1, 16_000)
            frame.pts = k * 1024 + (10**6 * 16_000 if k > 10 else 0)
            container.mux(voice.encode(frame))
    with pytest.raises(MediaError, match=r"limits\.seconds"):
        sound(path)


def test_pictures_beyond_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", size=(96, 64))
    monkeypatch.setenv("HERO_LIMIT_PIXELS", "6000")
    with pytest.raises(MediaError, match=r"96 x 64[\s\S]*limits\.pixels=12000"):
        ClipReader(Media(path)).info  # noqa: B018
    (tmp_path / "images").mkdir()
    av.VideoFrame.from_ndarray(numbered_picture(1, 96, 64), format="rgb24").save(str(tmp_path / "images" / "a.png"))
    with pytest.raises(MediaError, match="96 x 64"):
        ClipReader(Media(tmp_path / "images")).read({"frame": [0.0]})
    monkeypatch.setenv("HERO_LIMIT_PIXELS", "6144")
    monkeypatch.setenv("HERO_LIMIT_MEMORY_GB", "0.0001")
    with ClipReader(Media(path)) as clip:
        assert len(clip.read({"frame": [0.0]})[0]["frame"].pixels) == 1
        with pytest.raises(MediaError, match="GB of memory"):
            clip.read({"frame": [k / 10 for k in range(20)]})


def test_a_size_that_changes_in_mid_stream(tmp_path: Path) -> None:
    one, two = (
        write_clip(tmp_path / "one.ts", audio=False),
        write_clip(tmp_path / "two.ts", size=(48, 32), audio=False, start=20),
    )
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    with ClipReader(Media(both)) as clip:
        assert clip.read({"frame": [0.5]})[0]["frame"].pixels.shape == (1, 64, 96, 3)
        with pytest.raises(MediaError, match="differ in size"):
            clip.read({"frame": [0.5, 3.0]})


def test_memory_that_is_not_there_is_a_fault_of_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    path = write_clip(tmp_path / "a.mp4")
    monkeypatch.setattr(ClipReader, "_pictures", fails)
    with pytest.raises(MediaError, match="Unable to allocate 9 GiB"):
        ClipReader(Media(path)).read({"frame": [0.0]})


@pytest.mark.parametrize("ending", ["wav", "mp3", "avi"])
def test_a_truncated_file_is_not_whole(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "avi":
        write_clip(path, seconds=6.0)
    else:
        write_sound(path, tone(6.0))
    assert len(sound(path)) / 16_000 == pytest.approx(6, abs=0.2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="ends before the clip does"):
        sound(path)
    assert len(sound(path, (0.5, 1.5))) == 16_000
