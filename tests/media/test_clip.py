"""ClipReader: exact pictures, aligned sound, spans, crops, one open, and what it says of broken files."""

from __future__ import annotations

import pickle
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.errors import MediaError
from hero_lightning.media.clip import ClipReader
from hero_lightning.types import Media
from tests.media_helpers import numbered_picture, picture_number, tone, write_clip, write_sound

FPS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def mp4(folder: Path) -> Path:
    return write_clip(folder / "clip.mp4", 4.0, FPS)


def numbers(frames) -> list[int]:
    return [picture_number(picture) for picture in frames.pixels.numpy()]


def read(path: Path, times, **options):
    with ClipReader(Media(path, options.pop("span", None), options.pop("crop", None))) as clip:
        return clip.read({"frame": times}, **options)[0]["frame"]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_every_picture_is_exact(folder: Path, ending: str) -> None:
    frames = read(write_clip(folder / f"exact.{ending}", 3.0, 25), [k / 25 for k in range(75)])
    assert numbers(frames) == list(range(75))
    assert frames.pixels.dtype == torch.uint8
    np.testing.assert_allclose(frames.time, np.arange(75) / 25, atol=1e-3)


def test_avi_is_read_by_its_own_times(folder: Path) -> None:
    path = write_clip(folder / "old.avi", 2.0, FPS)
    with av.open(str(path)) as container:
        shown = {float(f.time): picture_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)}
    assert numbers(read(path, list(shown))) == list(shown.values())


def test_the_picture_shown_is_the_last_one_that_came(mp4: Path) -> None:
    frames = read(mp4, [0.0, 0.09, 0.101, 0.55, 1.0, 9.9 / FPS, 3.9, 4.3])
    assert numbers(frames) == [0, 0, 1, 5, 10, 9, 39, 39]
    np.testing.assert_allclose(frames.time, [0, 0, 0.1, 0.5, 1.0, 0.9, 3.9, 3.9], atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(times=st.lists(st.floats(0, 4.2), min_size=1, max_size=6))
def test_any_times_in_any_order(mp4: Path, times: list[float]) -> None:
    expected = [min(int((t + 2e-3) * FPS), 39) for t in times]
    assert numbers(read(mp4, times)) == expected


def test_pictures_of_changing_length(folder: Path) -> None:
    path = write_clip(folder / "vfr.mp4", 3.0, FPS, vfr=True)  # numbers 2, 5, 8, ... are not there
    assert numbers(read(path, [k / FPS for k in range(12)])) == [0, 1, 1, 3, 4, 4, 6, 7, 7, 9, 10, 10]


def test_a_span_counts_from_its_start(mp4: Path) -> None:
    with ClipReader(Media(mp4, span=(2.0, 3.0))) as clip:
        assert (clip.info.duration, clip.info.num_frames) == (1.0, 10)
        frames, sound = clip.read({"frame": [0.0, 0.5, 0.9]}, sound=True)
    assert numbers(frames["frame"]) == [20, 25, 29]
    np.testing.assert_allclose(frames["frame"].time, [0.0, 0.5, 0.9], atol=1e-6)
    whole = ClipReader(Media(mp4)).read({}, sound=True)[1].x
    assert len(sound.x) == 16_000
    np.testing.assert_allclose(sound.x, whole[32_000:48_000], atol=1e-3)


def test_a_span_is_found_behind_key_frames(folder: Path) -> None:
    pictures = [numbered_picture(k) for k in range(250)]
    path = write_clip(folder / "long.mkv", 10.0, 25, pictures=pictures, options={"g": "20"})
    assert numbers(read(path, [0.0, 0.2, 1.0], span=(6.4, 8.0))) == [160, 165, 185]


def test_a_crop_cuts_the_picture(mp4: Path) -> None:
    left, right = (read(mp4, [0.5], crop=box).pixels for box in ((0, 0, 0.5, 1), (0.5, 0.25, 1, 1)))
    whole = read(mp4, [0.5]).pixels
    assert left.shape == (1, 64, 48, 3)
    assert torch.equal(left, whole[:, :, :48])
    assert torch.equal(right, whole[:, 16:, 48:])


def test_size_is_the_shortest_side_and_never_enlarges(mp4: Path) -> None:
    assert read(mp4, [1.0], size=32).pixels.shape == (1, 32, 48, 3)
    assert read(mp4, [1.0], size=500).pixels.shape == (1, 64, 96, 3)
    assert read(mp4, [1.0], size=24, crop=(0, 0, 0.5, 1)).pixels.shape == (1, 32, 24, 3)
    assert numbers(read(mp4, [1.0], size=32)) == [10]


def test_a_turned_phone_is_upright(folder: Path) -> None:
    picture = np.full((64, 96, 3), 30, np.uint8)
    picture[:16] = 220
    frames = read(write_clip(folder / "turned.mp4", pictures=[picture] * 5, rotation=90), [0.2])
    assert frames.pixels.shape == (1, 96, 64, 3)
    bright = frames.pixels[0].float().mean(-1) > 128
    assert bright[:, :14].all()  # the top edge, turned counterclockwise, is the left one
    assert not bright[:, 20:].any()


@pytest.mark.parametrize("ending", ["mp4", "mkv", "wav", "flac", "mp3", "m4a"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_sound_lies_on_the_clock(folder: Path, ending: str, rate: int) -> None:
    click = np.zeros(2 * rate, np.float32)
    click[rate : rate + rate // 1000] = 0.9
    path = folder / f"click{rate}.{ending}"
    if ending in ("mp4", "mkv"):
        write_clip(path, 2.0, FPS, sound=click, sound_rate=rate)
    else:
        write_sound(path, click, rate)
    sound = ClipReader(Media(path)).read({}, sound=True)[1]
    assert sound.x.dtype == torch.float32
    assert abs(len(sound.x) / 16_000 - 2.0) < 0.05
    assert sound.x.abs().argmax().item() / 16_000 == pytest.approx(1.0005, abs=0.002)


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "m4a"])
def test_a_span_of_a_sound_file(folder: Path, ending: str) -> None:
    x = np.random.default_rng(0).normal(0, 0.01, 16_000 * 8).astype(np.float32)
    x[int(5.25 * 16_000) :][:16] = 0.9
    path = write_sound(folder / f"long.{ending}", x, 16_000)
    sound = ClipReader(Media(path, span=(5.0, 6.0))).read({}, sound=True)[1].x
    assert len(sound) == 16_000
    assert sound.abs().argmax().item() / 16_000 == pytest.approx(0.2505, abs=0.002)


def test_holes_in_the_recording_stay_silent(folder: Path) -> None:
    path = write_clip(folder / "hole.mkv", 3.0, FPS, hole=(1.0, 2.0))
    sound = ClipReader(Media(path)).read({}, sound=True)[1].x
    level = torch.tensor([sound[int(t * 16_000) :][:1600].abs().max() for t in (0.5, 1.4, 2.5)])
    assert (level > 0.2).tolist() == [True, False, True]


def test_stereo_is_mixed_down(folder: Path) -> None:
    path = folder / "stereo.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="stereo")
        samples = np.stack([np.full(16_000, 8000), np.full(16_000, 16_000)], axis=1).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    sound = ClipReader(Media(path)).read({}, sound=True)[1]
    assert sound.x.mean().item() == pytest.approx(12_000 / 32_768, rel=0.02)


def test_one_open_serves_all_streams(mp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, real = [], av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    with ClipReader(Media(mp4)) as clip:
        assert clip.info.num_frames == 40
        frames, sound = clip.read({"frame": [0.0, 1.0], "face": [1.0, 2.0], "motion": []}, sound=True)
        assert len(opened) == 1
    assert frames.keys() == {"frame", "face"}
    assert torch.equal(frames["frame"].pixels[1], frames["face"].pixels[0])
    assert len(sound.x) >= 64_000


def test_reading_twice_gives_the_same(mp4: Path) -> None:
    with ClipReader(Media(mp4)) as clip:
        (first, one), (second, two) = (clip.read({"frame": [0.3, 2.2]}, sound=True) for _ in range(2))
    assert torch.equal(first["frame"].pixels, second["frame"].pixels)
    assert torch.equal(one.x, two.x)


def test_info_decodes_nothing(mp4: Path, folder: Path) -> None:
    info = ClipReader(Media(mp4, crop=(0, 0, 0.5, 1))).info
    assert (info.duration, info.fps, info.num_frames) == (4.0, 10.0, 40)
    assert (info.has_video, info.has_audio) == (True, True)
    quiet = ClipReader(Media(write_clip(folder / "quiet.mp4", 1.0, FPS, audio=False))).info
    assert (quiet.has_video, quiet.has_audio) == (True, False)
    heard = ClipReader(Media(write_sound(folder / "heard.wav"))).info
    assert (heard.has_video, heard.has_audio, heard.num_frames) == (False, True, 0)
    assert heard.duration == pytest.approx(1.0)


def fails(path: Path, match: str, span=None, times=(0.0,), sound=False) -> MediaError:
    with pytest.raises(MediaError, match=match) as caught:
        ClipReader(Media(path, span)).read({"frame": list(times)}, sound=sound)
    assert str(path) in str(caught.value)
    return pickle.loads(pickle.dumps(caught.value))


def test_what_it_says_of_broken_files(mp4: Path, folder: Path) -> None:
    fails(folder / "none.mp4", "missing")
    (folder / "empty.mp4").write_bytes(b"")
    fails(folder / "empty.mp4", "empty")
    (folder / "junk.mp4").write_bytes(b"no video at all" * 50)
    fails(folder / "junk.mp4", "cannot be opened")
    fails(write_sound(folder / "only.wav"), "no picture")
    fails(write_clip(folder / "mute.mp4", 1.0, FPS, audio=False), "no sound", sound=True)
    fails(mp4, "pictures end before", times=[9.0])
    fails(mp4, "pictures end before", span=(30.0, 31.0))
    whole = mp4.read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # the index was at its end
    fails(folder / "cut.mp4", "cannot be opened")


def test_a_file_that_was_cut_off(folder: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(30)]
    whole = write_clip(folder / "whole.mkv", 3.0, FPS, pictures=pictures).read_bytes()
    cut = folder / "cut.mkv"
    cut.write_bytes(whole[: len(whole) // 2])
    assert read(cut, [0.5]).pixels.shape == (1, 64, 96, 3)  # what is there can be read
    fails(cut, "pictures end before", times=[2.9])
    with pytest.raises(MediaError, match="sound ends before"):
        ClipReader(Media(cut)).read({}, sound=True)


CONTAINERS = {
    "mkv": {},
    "avi": {},
    "mp4": {"movflags": "faststart"},
    "mov": {"movflags": "frag_keyframe+empty_moov"},
    "mp3": {},
    "flac": {},
    "wav": {},
}


@pytest.mark.parametrize("ending", CONTAINERS)
def test_cut_at_any_byte_it_invents_nothing(folder: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    path = folder / f"any.{ending}"
    if ending in ("mp3", "flac", "wav"):
        write_sound(path, rng.normal(0, 0.1, 32_000).astype(np.float32), 16_000)
        times, truth = [], None
    else:
        pictures = [np.clip(numbered_picture(k) + rng.normal(0, 20, (64, 96, 3)), 0, 255) for k in range(20)]
        pictures = [p.astype(np.uint8) for p in pictures]
        write_clip(path, 2.0, FPS, pictures=pictures, container_options=CONTAINERS[ending], options={"g": "8"})
        times = [k / FPS for k in range(20)]
        truth = read(path, times)
    whole, heard, cut = path.read_bytes(), ClipReader(Media(path)).read({}, sound=True)[1].x, folder / f"cut.{ending}"
    for end in sorted(rng.integers(1, len(whole), 25).tolist()):
        cut.write_bytes(whole[:end])
        for wanted in ([t for t in times if t <= last] for last in (0.4, 1.2, 1.9)):
            try:
                frames = ClipReader(Media(cut)).read({"frame": wanted})[0].get("frame")
            except MediaError:
                continue
            for t, at, picture in zip(wanted, frames.time, frames.pixels, strict=True) if frames else ():
                assert t - at < 0.501 + 1 / FPS  # the last one that is there
                assert torch.equal(picture, truth.pixels[torch.isclose(truth.time, at, atol=1e-3)][0])
        try:
            sound = ClipReader(Media(cut)).read({}, sound=True)[1].x
        except MediaError:
            continue
        assert len(sound) <= len(heard) + 800
        n = max(min(len(sound), len(heard)) - 1600, 0)  # the codec's last block
        assert torch.allclose(sound[:n], heard[:n], atol=1e-4)


def test_an_edit_list_hides_pictures(folder: Path) -> None:
    path = write_clip(folder / "edited.mp4", 3.0, FPS, start=-7)
    info = ClipReader(Media(path)).info
    assert (info.duration, info.num_frames) == (pytest.approx(2.3), 23)
    frames = read(path, [0.0, 0.1, 2.2])
    assert numbers(frames) == [7, 8, 29]
    np.testing.assert_allclose(frames.time, [0.0, 0.1, 2.2], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("o.mp4", "libx264", "yuv444p"), ("o.mkv", "ffv1", "bgr0"), ("o.avi", "mpeg4", "yuv420p")],
)
def test_odd_sizes(folder: Path, name: str, codec: str, pix_fmt: str) -> None:
    grey = [np.full((65, 97, 3), 40 * k, np.uint8) for k in range(5)]
    path = write_clip(folder / name, pictures=grey, codec=codec, pix_fmt=pix_fmt, audio=False)
    pixels = read(path, [0.2]).pixels
    assert pixels.shape == (1, 65, 97, 3)
    assert abs(pixels.float().mean() - 80) < 4
    assert read(path, [0.2], size=33).pixels.shape == (1, 33, 49, 3)


def test_each_stream_has_its_own_size(mp4: Path) -> None:
    with ClipReader(Media(mp4)) as clip:
        frames, _ = clip.read({"frame": [0.0, 1.0], "face": [1.0]}, size={"frame": 32, "face": None})
    assert torch.equal(frames["frame"].pixels, read(mp4, [0.0, 1.0], size=32).pixels)
    assert torch.equal(frames["face"].pixels, read(mp4, [1.0]).pixels)


def test_a_gap_in_the_recording_is_no_end(folder: Path) -> None:
    pictures = [numbered_picture(k) for k in range(30)]
    path = write_clip(folder / "steady.mkv", pictures=pictures, options={"g": "1", "bf": "0"})
    gap = folder / "gap.mkv"
    with av.open(str(path)) as source, av.open(str(gap), "w") as task:
        video = task.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and not 1000 < packet.pts <= 2800:
                packet.stream = video
                task.mux(packet)
    with pytest.raises(MediaError, match="end before"):
        read(gap, [4.5])
    with ClipReader(Media(gap)) as clip:
        assert clip.read({"frame": [1.9]})[0]["frame"].time.item() == pytest.approx(1.0)  # still shown


def test_a_picture_alone_is_a_clip_of_one(folder: Path) -> None:
    path = folder / "clip_peak_frame.png"
    av.VideoFrame.from_ndarray(numbered_picture(77), format="rgb24").save(str(path))
    assert ClipReader(Media(path)).info.num_frames == 1
    assert numbers(read(path, [0.0])) == [77]


def test_an_unknown_codec_is_no_stream(folder: Path) -> None:
    whole = write_sound(folder / "fine.wav").read_bytes()
    (folder / "odd.wav").write_bytes(whole[:20] + b"\xfe\x12" + whole[22:])
    with pytest.raises(MediaError, match=r"neither picture nor sound|no sound|cannot be decoded"):
        ClipReader(Media(folder / "odd.wav")).read({}, sound=True)


def test_cover_art_is_no_picture(folder: Path) -> None:
    path = folder / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        voice = container.add_stream("aac", rate=16_000, layout="mono")
        art = container.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt = 96, 64, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        container.mux(art.encode(av.VideoFrame.from_ndarray(numbered_picture(1), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(tone(1.0, 16_000)[None, :1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(voice.encode(frame))
        container.mux(voice.encode())
    assert not ClipReader(Media(path)).info.has_video
