"""Samplers: the reference vectors, bounds for any length, what each reason means."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_lightning.errors import ConfigError, MediaError
from hero_lightning.media.frame_samplers import (
    All,
    Consecutive,
    EmotionPeak,
    Fps,
    FrameSampler,
    HeadTail,
    Uniform,
    legacy_peak_indices,
    peak_indices,
    spread,
)
from hero_lightning.media.types import ClipInfo
from hero_lightning.types import Sample

SAMPLE = Sample("c1", "train")
VECTORS = [  # spec of the fork's rule: pictures, peak -> indices
    (150, 97, [0, 48, 95, 96, 97, 98, 99, 101]),
    (150, 0, [0, 1, 2, 3, 32, 61, 91, 120]),
    (150, 149, [0, 29, 58, 88, 117, 147, 148, 149]),
    (150, 1, [0, 1, 2, 3, 4, 40, 77, 113]),
    (10, 3, [0, 1, 2, 3, 4, 5, 6, 8]),
    (8, 3, [0, 1, 2, 3, 4, 5, 6, 7]),
    (5, 2, [0, 0, 1, 1, 2, 2, 3, 4]),
    (3, 0, [0, 0, 0, 1, 1, 1, 2, 2]),
    (1, 0, [0] * 8),
]


def info(frames: int, fps: float = 10.0) -> ClipInfo:
    return ClipInfo(frames / fps, fps, frames, True, True)


def indices(sampler: FrameSampler, frames: int, sample: Sample = SAMPLE, fps: float = 10.0, **draw: int) -> list[int]:
    plan = sampler.plan(info(frames, fps), sample, draw.get("epoch", 0), draw.get("seed", 0))
    assert all(isinstance(t, float) for t in plan.times)
    return [round(t * fps) for t in plan.times]


def with_peaks(folder: Path, total: int | None, *peaks: int, fps: float | None = None, **intensity: float) -> Sample:
    path = folder / "au_info.json"
    listed = [{"peak_index": p, "intensity": intensity.get(f"at{p}", 1.0)} for p in peaks]
    path.write_text(json.dumps({"au_info": {"total_frames": total, "fps": fps, "peak_frames": listed}}))
    return Sample("c1", "train", files={"au_info": path})


@pytest.mark.parametrize(("total", "peak", "expected"), VECTORS)
def test_legacy_rule_repeats_the_reference(total: int, peak: int, expected: list[int], tmp_path: Path) -> None:
    assert legacy_peak_indices(total, peak, peak, total - 1 - peak) == expected
    assert indices(EmotionPeak(legacy=True), total, with_peaks(tmp_path, total, peak)) == expected


def test_legacy_without_peaks_is_a_rounded_line(tmp_path: Path) -> None:
    assert indices(EmotionPeak(legacy=True), 150) == [0, 21, 42, 63, 85, 106, 127, 149]
    with pytest.raises(ConfigError, match="legacy"):
        EmotionPeak(count=4, legacy=True)


def test_uniform_takes_starts_or_middles() -> None:
    assert indices(Uniform(8), 100) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert indices(Uniform(8, center=True), 100) == [6, 18, 31, 43, 56, 68, 81, 93]
    assert indices(Uniform(7), 17) == [0, 2, 4, 7, 9, 12, 14]  # a float step gives eight here
    assert indices(Uniform(5), 3) == [0, 1, 2, 2, 2]


@given(st.integers(1, 400), st.integers(1, 40), st.booleans())
def test_spread_is_exact_for_any_length(length: int, count: int, center: bool) -> None:
    chosen = spread(length, count, center)
    assert len(chosen) == count
    assert chosen == sorted(chosen)
    assert 0 <= chosen[0] <= chosen[-1] < length
    if length >= count:
        assert len(set(chosen)) == count


@given(st.data(), st.integers(1, 300), st.integers(1, 16), st.integers(0, 4), st.integers(1, 3))
def test_peak_plans_hold_for_any_clip(data: st.DataObject, length: int, count: int, width: int, number: int) -> None:
    peaks = data.draw(st.lists(st.integers(0, length - 1), min_size=number, max_size=number, unique=length >= number))
    chosen = peak_indices(length, peaks, count, width)
    assert len(chosen) == count
    assert chosen == sorted(chosen)
    assert 0 <= chosen[0] <= chosen[-1] < length
    if length > count:
        assert len(set(chosen)) == count
        assert peaks[0] in chosen


def test_peak_window_and_context_cover_the_clip() -> None:
    assert peak_indices(150, [97], 8, 2) == [24, 72, 95, 96, 97, 98, 99, 125]  # the tail is looked at too
    assert peak_indices(150, [97], 1, 2) == [97]
    assert peak_indices(150, [97], 3, 2) == [96, 97, 98]
    assert peak_indices(150, [0], 8, 2)[:3] == [0, 1, 2]
    assert peak_indices(150, [40, 100], 8, 2) == [24, 39, 40, 41, 75, 99, 100, 125]  # two peaks share five places
    assert peak_indices(5, [2], 8, 2) == [0, 0, 1, 1, 2, 3, 3, 4]


def test_the_strongest_peak_is_taken(tmp_path: Path) -> None:
    sample = with_peaks(tmp_path, 150, 20, 110, at20=1.0, at110=3.0)
    plan = EmotionPeak().plan(info(150), sample, 0, 0)
    assert plan.notes == {"peak": 110.0}
    assert plan.reason == "peak"
    assert 110 in indices(EmotionPeak(), 150, sample)
    assert 20 not in indices(EmotionPeak(), 150, sample)
    assert {20, 110} <= set(indices(EmotionPeak(peaks=2), 150, sample))


def test_reasons(tmp_path: Path) -> None:
    sampler, clip = EmotionPeak(), info(150)
    uniform = Uniform(8).plan(clip, SAMPLE, 0, 0).times
    bare = sampler.plan(clip, SAMPLE, 0, 0)
    assert (bare.reason, bare.times) == ("no_au", uniform)
    gone = Sample("c1", "train", files={"au_info": tmp_path / "gone.json"})
    assert sampler.plan(clip, gone, 0, 0).reason == "no_au"
    empty = sampler.plan(clip, with_peaks(tmp_path, 150), 0, 0)
    assert (empty.reason, empty.times) == ("no_peak", uniform)
    outside = sampler.plan(clip, with_peaks(tmp_path, 150, 190), 0, 0)
    assert (outside.reason, outside.times[-1]) == ("clamped", 14.9)


def test_another_picture_rate_scales_the_peak(tmp_path: Path) -> None:
    by_rate = EmotionPeak().plan(info(150, 25.0), with_peaks(tmp_path, 60, 20, fps=10.0), 0, 0)
    assert by_rate.notes == {"peak": 50.0}
    by_count = EmotionPeak().plan(info(150), with_peaks(tmp_path, 75, 20), 0, 0)
    assert by_count.notes == {"peak": 40.0}


def test_a_peak_with_a_time_needs_no_counting(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    listed = [{"peak_index": 300, "time": 2.0}]
    path.write_text(json.dumps({"au_info": {"total_frames": 999, "peak_frames": listed}}))
    plan = EmotionPeak().plan(info(150, 25.0), Sample("c1", "train", files={"au_info": path}), 0, 0)
    assert (plan.notes, plan.reason) == ({"peak": 50.0}, "peak")


def test_peaks_that_the_command_found(tmp_path: Path) -> None:
    sampler = EmotionPeak().with_peaks(tmp_path)
    assert sampler.peaks_folder == tmp_path
    assert Uniform(8).with_peaks(tmp_path).peaks_folder is None
    assert sampler.identity() == EmotionPeak().identity()
    assert sampler.plan(info(150), SAMPLE, 0, 0).reason == "no_au"
    (tmp_path / "c1.json").write_text(
        json.dumps({"au_info": {"total_frames": 150, "peak_frames": [{"peak_index": 9}]}})
    )
    assert sampler.plan(info(150), SAMPLE, 0, 0).notes == {"peak": 9.0}
    assert sampler.plan(info(150), with_peaks(tmp_path, 150, 20), 0, 0).notes == {"peak": 20.0}


def test_a_changed_file_is_read_again_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    sample = with_peaks(tmp_path, 150, 20)
    assert EmotionPeak().plan(info(150), sample, 0, 0).notes == {"peak": 20.0}
    with_peaks(tmp_path, 150, 30)
    os.utime(sample.files["au_info"], (1, 1))
    assert EmotionPeak().plan(info(150), sample, 0, 0).notes == {"peak": 30.0}
    sample.files["au_info"].write_text("{")
    os.utime(sample.files["au_info"], (2, 2))
    with pytest.raises(MediaError, match="cannot be read"):
        EmotionPeak().plan(info(150), sample, 0, 0)


def test_a_ready_made_peak_picture(tmp_path: Path) -> None:
    still = tmp_path / "c1_peak_frame.png"
    still.write_bytes(b"png")
    sample = Sample("c1", "train", files={"peak_frame": still})
    plan = EmotionPeak(1).plan(info(150), sample, 0, 0)
    assert (plan.times, plan.reason, plan.file) == ((0.0,), "peak_frame", still)
    assert EmotionPeak(8).plan(info(150), sample, 0, 0).file is None
    still.unlink()
    assert EmotionPeak(1).plan(info(150), sample, 0, 0).reason == "no_au"


def test_planning_takes_less_than_a_tenth_of_a_millisecond(tmp_path: Path) -> None:
    sample, sampler = with_peaks(tmp_path, 150, 20), EmotionPeak()
    spent = []
    for _ in range(30):
        begin = time.process_time()
        for _ in range(20):
            sampler.plan(info(150), sample, 0, 0)
        spent.append((time.process_time() - begin) / 20)
    assert min(spent) < 1e-4


def test_segments_are_the_video_loaders(tmp_path: Path) -> None:
    # VideoMAE's loader: tick = (T - 1) / 8, starts int(tick / 2 + tick * x), two pictures from each
    for length in (100, 17, 360):
        starts = [int((length - 2) / 8 / 2 + (length - 2) / 8 * x) for x in range(8)]
        chosen = indices(Consecutive(2, 8, center=True), length)
        assert chosen[::2] == starts
        assert chosen[1::2] == [s + 1 for s in starts]
    assert Consecutive(2, 8, center=True).identity() != Consecutive(2, 8).identity()


def test_fps_counts_seconds() -> None:
    assert Fps(2.0).plan(info(25), SAMPLE, 0, 0).times == (0.0, 0.5, 1.0, 1.5, 2.0)
    assert Fps(10.0, max_frames=4).plan(info(20), SAMPLE, 0, 0).times == (0.0, 0.5, 1.0, 1.5)
    assert Fps(1.0).plan(info(3), SAMPLE, 0, 0).times == (0.0,)


def test_consecutive_runs() -> None:
    assert indices(Consecutive(4, 1), 20) == [8, 9, 10, 11]
    assert indices(Consecutive(4, 3), 20) == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]
    assert indices(Consecutive(3, 2, stride=4), 20) == [0, 4, 8, 11, 15, 19]
    assert indices(Consecutive(4, 2), 2) == [0, 1, 1, 1, 0, 1, 1, 1]
    assert indices(All(), 4) == [0, 1, 2, 3]


def test_headtail_is_drawn_by_sample_epoch_and_seed() -> None:
    sampler = HeadTail(8)
    assert not sampler.deterministic
    first = indices(sampler, 100)
    assert first == indices(sampler, 100)
    assert first == sorted(first)
    assert sum(k < 50 for k in first) == 4
    others = [indices(sampler, 100, epoch=1), indices(sampler, 100, seed=1), indices(sampler, 100, Sample("c2", "x"))]
    assert all(first != other for other in others)
    assert len(indices(HeadTail(5), 100)) == 5
    assert indices(HeadTail(4), 1) == [0] * 4


@pytest.mark.parametrize("sampler", [Uniform(4), Fps(2.0), Consecutive(4), HeadTail(4), All(), EmotionPeak(4)])
def test_identity_is_plain_and_travels(sampler: FrameSampler) -> None:
    assert json.loads(json.dumps(sampler.identity())) == sampler.identity()
    assert pickle.loads(pickle.dumps(sampler)).identity() == sampler.identity()
    assert sampler.plan(info(0), SAMPLE, 0, 0).times[0] == 0.0


@pytest.mark.parametrize(
    "build",
    [
        lambda: Uniform(0),
        lambda: Fps(-1.0),
        lambda: Fps(1.0, 0),
        lambda: Consecutive(stride=0),
        lambda: EmotionPeak(width=-1),
    ],
)
def test_wrong_settings(build) -> None:
    with pytest.raises(ConfigError, match=r"sampler\."):
        build()
