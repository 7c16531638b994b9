"""Reading media: ClipReader against PyAV, OpenCV, decord and ffmpeg; emotion_peak against uniform sampling.

    python -m benchmarks.bench_media [--quick]

Data flow: clips written by PyAV (H.264 with B-frames and AAC; one key frame, and a long clip with many) -> times of the
frame samplers -> frames by every reader, asserted equal -> interleaved medians and ratios, one codec thread each.
Readers that are not installed are listed as absent. The limit is the time to decode all packets and keep nothing.

Shapes: T frames, H W image size. A ratio is how many times faster ClipReader is, in CPU time and in wall time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from benchmarks.common import Timing, measure, ratio, write

from hero_lightning.media.clip import ClipReader
from hero_lightning.media.frame_samplers import EmotionPeak, FrameSampler, Uniform
from hero_lightning.media.types import ClipInfo
from hero_lightning.types import Media, Sample

FPS = 25
COUNT = 8
SIZES = ((672, 378), (960, 540), (1280, 720))
"""Sizes of the clips, as in the datasets."""
Reader = Callable[[Path, Sequence[float]], np.ndarray]


def write_clip(path: Path, seconds: float, width: int, height: int, seed: int, key_every: int = 250) -> Path:
    """Writes a panning textured scene with a moving, changing patch, noise, and a voice-like sound."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 16 + 8, width // 16 + 16, 3), dtype=np.uint8)
    scene = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    scene = (scene // 2 + rng.integers(0, 100, scene.shape)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"g": str(key_every), "crf": "23"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        voice = container.add_stream("aac", rate=44_100, layout="stereo")
        for k in range(round(seconds * FPS)):
            x = round(60 + 50 * np.sin(k / 20))
            image = scene[40 : 40 + height, x : x + width].copy()
            at = round((width - 120) * (0.5 + 0.4 * np.sin(k / 15)))
            image[height // 3 : height // 3 + 90, at : at + 80] = rng.integers(80, 200, (90, 80, 3))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        t = np.arange(round(seconds * 44_100)) / 44_100
        wave = (0.3 * np.sin(2 * np.pi * 180 * t) * (1 + np.sin(2 * np.pi * 4 * t)) / 2).astype(np.float32)
        for start in range(0, len(wave), 1024):
            block = np.stack([wave[start : start + 1024]] * 2)
            part = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
            part.sample_rate, part.pts = 44_100, start
            container.mux(voice.encode(part))
        container.mux(voice.encode())
    return path


def ours(path: Path, times: Sequence[float]) -> np.ndarray:
    """[T, H, W, 3] by ClipReader."""
    with ClipReader(Media(path)) as clip:
        return clip.read({"frame": times})[0]["frame"].pixels.numpy()


def numbers(times: Sequence[float]) -> list[int]:
    """Frame numbers of times in a clip at FPS."""
    return [int((t + 2e-3) * FPS) for t in times]


def pyav_plain(path: Path, times: Sequence[float]) -> np.ndarray:
    """PyAV: decodes all frames up to the last wanted one and converts the wanted ones."""
    wanted, found = set(numbers(times)), {}
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for k, frame in enumerate(container.decode(video=0)):
            if k in wanted:
                found[k] = frame.to_ndarray(format="rgb24")
                if len(found) == len(wanted):
                    break
    return np.stack([found[k] for k in numbers(times)])


def pyav_seek(path: Path, times: Sequence[float]) -> np.ndarray:
    """PyAV: seeks to the key frame before every wanted frame."""
    out = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for k in numbers(times):
            container.seek(round(k / FPS / stream.time_base), stream=stream)
            frame = next(f for f in container.decode(stream) if f.time > k / FPS - 1e-3)
            out.append(frame.to_ndarray(format="rgb24"))
    return np.stack(out)


def opencv(path: Path, times: Sequence[float]) -> np.ndarray:
    """OpenCV: grabs all frames and retrieves the wanted ones."""
    import cv2

    capture, wanted, found, k = cv2.VideoCapture(str(path)), set(numbers(times)), {}, 0
    while len(found) < len(wanted) and capture.grab():
        if k in wanted:
            found[k] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
        k += 1
    capture.release()
    return np.stack([found[k] for k in numbers(times)])


def decord(path: Path, times: Sequence[float]) -> np.ndarray:
    """decord with one thread."""
    from decord import VideoReader

    return VideoReader(str(path), num_threads=1).get_batch(numbers(times)).asnumpy()


def all_packets(path: Path, times: Sequence[float]) -> None:
    """Decodes all packets up to the last wanted frame and converts nothing: the limit of any reader."""
    last = numbers(times)[-1]
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for k, _ in enumerate(container.decode(video=0)):
            if k == last:
                return


def readers() -> tuple[dict[str, Reader], list[str]]:
    """Installed readers, and the names of those that are not installed."""
    others = {"opencv": ("cv2", opencv), "decord": ("decord", decord)}
    installed = {name: reader for name, (module, reader) in others.items() if importlib.util.find_spec(module)}
    return {"ours": ours, "pyav": pyav_plain, **installed}, [name for name in others if name not in installed]


def differences(path: Path, times: Sequence[float], found: dict[str, Reader]) -> dict[str, float]:
    """Mean difference of every reader's frames from PyAV's, in grey levels.

    Raises:
        SystemExit: ours is not bit-identical, or another reader returns other frames (more than rounding).
    """
    truth = pyav_plain(path, times).astype(int)
    off = {name: float(np.abs(reader(path, times).astype(int) - truth).mean()) for name, reader in found.items()}
    if off["ours"] != 0 or max(off.values()) > 2:
        raise SystemExit(f"not the same frames: {off}")
    return off


def show(timings: dict[str, Timing], clips: int, best_of: Sequence[str]) -> dict[str, object]:
    """Prints and returns milliseconds per clip and how many times faster ours is."""
    result: dict[str, object] = {}
    for name, timing in timings.items():
        ms = {clock: timing.median(clock) / clips * 1e3 for clock in ("wall", "cpu")}
        faster = {clock: ratio(timings, "ours", name, clock) for clock in ("wall", "cpu")}
        result[name] = {"ms": ms, "ours_faster": faster}
        print(f"  {name:>12}: {ms['cpu']:7.1f} ms of CPU time, {ms['wall']:7.1f} ms; ours {faster['cpu']:.2f} x")
    best = min(best_of, key=lambda name: timings[name].median("cpu"))
    result["best"] = best
    result["ours against the best, cpu"] = ratio(timings, "ours", best, "cpu")
    return result


def frames(clips: list[Path], rounds: int) -> tuple[dict[str, object], list[str]]:
    """The same 8 uniform frames by every reader."""
    found, absent = readers()
    infos = {path: ClipReader(Media(path)).info for path in clips}
    plans = {p: Uniform(COUNT).plan(i, Sample("x", "train"), 0, 0).times for p, i in infos.items()}
    off = [differences(path, times, found) for path, times in plans.items()]
    cases = {n: (lambda r=r: [r(p, t) for p, t in plans.items()]) for n, r in {**found, "limit": all_packets}.items()}
    print(f"8 uniform frames, {len(clips)} clips with one key frame; absent: {', '.join(absent) or 'none'}")
    result = show(measure(cases, rounds), len(clips), [n for n in found if n != "ours"])
    return {**result, "difference": {n: max(o[n] for o in off) for n in found}}, absent


def sparse(path: Path, rounds: int) -> dict[str, object]:
    """8 frames of a long clip with a key frame every 2 s: ClipReader, seeking, and decoding everything."""
    times = Uniform(COUNT).plan(ClipReader(Media(path)).info, Sample("x", "train"), 0, 0).times
    found: dict[str, Reader] = {"ours": ours, "pyav": pyav_plain, "pyav seek": pyav_seek}
    differences(path, times, found)
    print("8 uniform frames of a long clip, key frame every 2 s")
    cases = {name: (lambda r=r: r(path, times)) for name, r in found.items()}
    return show(measure(cases, rounds), 1, ["pyav", "pyav seek"])


def peaks(clips: list[Path], folder: Path, rounds: int, places: int) -> dict[str, object]:
    """8 frames of emotion_peak against 8 uniform, peaks spread evenly over every clip."""
    jobs: list[tuple[Path, ClipInfo, Sample]] = []
    for path in clips:
        info = ClipReader(Media(path)).info
        for k in range(places):
            file = folder / f"{path.stem}_{k}.json"
            peak = round((k + 0.5) / places * info.num_frames)
            file.write_text(json.dumps({"total_frames": info.num_frames, "peak_frames": [{"peak_index": peak}]}))
            jobs.append((path, info, Sample(file.stem, "train", files={"au_info": file})))

    def fetch(sampler: FrameSampler) -> Callable[[], object]:
        plans = [(path, sampler.plan(info, sample, 0, 0).times) for path, info, sample in jobs]
        return lambda: [ours(path, times) for path, times in plans]

    timings = measure({"uniform": fetch(Uniform(COUNT)), "emotion_peak": fetch(EmotionPeak(COUNT))}, rounds)
    cost = {clock: ratio(timings, "uniform", "emotion_peak", clock) for clock in ("cpu", "wall")}
    print(f"emotion_peak costs {cost['cpu']:.3f} of uniform (CPU time), {cost['wall']:.3f} (wall); goal 1.05")
    per_clip = {name: t.median("cpu") / len(jobs) * 1e3 for name, t in timings.items()}
    return {"cost of uniform": cost, "goal": 1.05, "ms": per_clip, "peaks per clip": places}


def plans(folder: Path, info: ClipInfo) -> dict[str, float]:
    """Milliseconds of one plan: uniform, emotion_peak with a file not read before, and with a cached one."""
    described = [{"frame": k, "timestamp": k / FPS, "active_aus": {"AU12_r": 1.0}} for k in range(info.num_frames)]
    content = {"au_info": {"total_frames": info.num_frames, "peak_frames": [{"peak_index": 60}]}}
    text, samples, out = json.dumps({**content, "per_frame_au_descriptions": described}), [], {}
    for k in range(200):
        file = folder / f"plan_{k}.json"
        file.write_text(text)
        samples.append(Sample(file.stem, "train", files={"au_info": file}))
    sampler = EmotionPeak(COUNT)
    for name, rule in (("uniform", Uniform(COUNT)), ("emotion_peak first", sampler), ("emotion_peak", sampler)):
        begin = time.process_time()
        for sample in samples:
            rule.plan(info, sample, 0, 0)
        out[name] = (time.process_time() - begin) / len(samples) * 1e3
    print("index plan, ms:", ", ".join(f"{k} {v:.4f}" for k, v in out.items()), "(goal 0.1)")
    return out


def sound(clips: list[Path], rounds: int) -> dict[str, object]:
    """16 kHz mono by ClipReader, by PyAV and by an ffmpeg subprocess."""

    def by_clip_reader(path: Path) -> np.ndarray:
        with ClipReader(Media(path)) as clip:
            wave = clip.read({}, sound=True)[1]
        assert wave is not None
        return wave.x.numpy()

    def by_pyav(path: Path) -> np.ndarray:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
        with av.open(str(path)) as container:
            decoded = [*container.decode(audio=0), None]
            parts = [p.to_ndarray()[0] for f in decoded for p in resampler.resample(f)]
        return np.concatenate(parts) / np.float32(32_768)

    def by_ffmpeg(path: Path) -> np.ndarray:
        command = ["ffmpeg", "-v", "error", "-i", str(path), "-vn", "-ac", "1", "-ar", "16000", "-f", "s16le", "-"]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        return np.frombuffer(raw, np.int16) / np.float32(32_768)

    has_ffmpeg = bool(shutil.which("ffmpeg"))
    found = {"ours": by_clip_reader, "pyav": by_pyav, **({"ffmpeg": by_ffmpeg} if has_ffmpeg else {})}
    for name, reader in found.items():
        a, b = by_clip_reader(clips[0]), reader(clips[0])
        n = min(len(a), len(b))
        if abs(len(a) - len(b)) > 1600 or np.abs(a[:n] - b[:n]).max() > 2e-3:
            raise SystemExit(f"not the same sound: {name}")
    print(f"sound, 16 kHz mono{'' if has_ffmpeg else '; absent: ffmpeg'}")
    timings = measure({n: (lambda r=r: [r(p) for p in clips]) for n, r in found.items()}, rounds)
    result = show(timings, len(clips), [n for n in found if n != "ours"])
    if has_ffmpeg:
        result["goal"] = {"ffmpeg subprocess, wall": 5.0}
    return {**result, "absent": [] if has_ffmpeg else ["ffmpeg"]}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one small clip, two rounds, result not written")
    quick = parser.parse_args().quick
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"
    torch.set_num_threads(1)
    rounds, seconds = (2, 2.0) if quick else (9, 5.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = SIZES[:1] if quick else SIZES
        clips = [write_clip(folder / f"{w}x{h}.mp4", seconds, w, h, k) for k, (w, h) in enumerate(sizes)]
        long = write_clip(folder / "long.mp4", 10.0 if quick else 60.0, *SIZES[0], seed=9, key_every=2 * FPS)
        fetched, absent = frames(clips, rounds)
        result = {
            "frames": fetched,
            "absent": absent,
            "long clip": sparse(long, rounds),
            "emotion_peak": peaks(clips, folder, rounds, 8),
            "sound": sound(clips, rounds),
            "index plan ms": plans(folder, ClipReader(Media(clips[0])).info),
        }
    if not quick:
        print(write("media", {**result, "rounds": rounds, "clips": [f"{w}x{h}, {seconds} s" for w, h in SIZES]}))


if __name__ == "__main__":
    main()
