from __future__ import annotations

from pathlib import Path

import pytest

from hero_lightning.datasets.clips import find_clips
from hero_lightning.errors import DataError


def made(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("hello\n")


def test_files_of_one_stem_are_one_clip(tmp_path):
    made(tmp_path, "b.MP4", "a.mp4", "a.wav", "a.txt", "a.csv", "a_au_analysis.json", "a_peak_frame.png", "c.flac")
    a, b, c = find_clips(tmp_path)
    assert [s.id for s in (a, b, c)] == ["a", "b", "c"]
    assert (a.video.path.name, a.audio.path.name, a.text) == ("a.mp4", "a.wav", "hello")
    expected = {"au": "a.csv", "au_info": "a_au_analysis.json", "peak_frame": "a_peak_frame.png"}
    assert {kind: path.name for kind, path in a.files.items()} == expected
    assert (b.audio, b.text, b.files) == (None, None, {})
    assert c.video is None
    assert [s.id for s in find_clips(tmp_path / "*.mp4")] == ["a"]
    made(tmp_path, "shots/frame1.png", "shots/frame2.png")
    (shots,) = find_clips(tmp_path / "shots")
    assert (shots.id, shots.video.path) == ("shots", tmp_path / "shots")
    (one,) = find_clips(tmp_path / "a.wav")
    assert (one.video, one.audio.path.name, one.text) == (None, "a.wav", "hello")


def test_nothing_there_and_a_name_twice(tmp_path):
    for where in (tmp_path, tmp_path / "x.mp4", tmp_path / "*.mp4"):
        with pytest.raises(DataError, match="There is no such file"):
            find_clips(where)
    made(tmp_path, "one/a.mp4", "two/a.mp4")
    with pytest.raises(DataError):
        find_clips(f"{tmp_path}/**/*.mp4")
