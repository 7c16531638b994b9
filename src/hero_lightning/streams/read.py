"""Reads one clip for all its streams in the loader's worker.

Data flow: Sample + Resolutions -> Ready rows from their source; one pass over the media file -> Encoder.preprocess
-> Raw rows.

Shapes: T pictures, H W picture size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from hero_lightning.data.types import Box, Media, Raw, Row, Sample
from hero_lightning.errors import MediaError
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.measures import au_measures, audio_measures, motion_measures
from hero_lightning.media.openface import read_au_table
from hero_lightning.media.types import Frames, Words
from hero_lightning.streams.source import Resolution
from hero_lightning.streams.stream import PICTURES, Stream

MEASURED: dict[str, Callable[[Any], dict[str, float]]] = {
    "audio": audio_measures,
    "motion": motion_measures,
    "au": au_measures,
}
"""Streams whose raw material yields numbers that evidence is written from."""


def read_clip(
    streams: Mapping[str, Stream], resolutions: Mapping[str, Resolution], sample: Sample, epoch: int = 0, seed: int = 0
) -> dict[str, Row]:
    """One clip's rows of all streams; each media file is opened once.

    Args:
        streams: by name.
        resolutions: by stream name, from Stream.resolve.
        sample: the clip.
        epoch, seed: what a sampler with chance depends on.

    Returns:
        Ready, Raw or None (absent, broken) by stream name.

    Raises:
        MediaError, FeatureError: a file that looked sound at index time cannot be read.
    """
    rows: dict[str, Row] = dict.fromkeys(streams)
    live: dict[str, Stream] = {}
    for name, stream in streams.items():
        if resolutions[name].mode == "preextracted":
            rows[name] = stream.stored(sample)
        elif resolutions[name].mode == "realtime":
            live[name] = stream
    for name, material in _materials(live, sample, epoch, seed).items():
        encoder = live[name].encoder
        assert encoder is not None
        rows[name] = Raw(encoder.preprocess(material), MEASURED[name](material) if name in MEASURED else {})
    return rows


def _materials(live: Mapping[str, Stream], sample: Sample, epoch: int, seed: int) -> dict[str, Any]:
    """Raw material by stream: Frames, Waveform, Table, Words."""
    out: dict[str, Any] = {}
    if "text" in live:
        turns = live["text"].context_turns
        out["text"] = Words(sample.text or "", sample.speaker, sample.turns[-turns:] if turns else ())
    if "au" in live:
        out["au"] = read_au_table(sample.files["au"])
    pictures = [live[name] for name in PICTURES if name in live]
    with ExitStack() as files:
        if pictures:
            clip = files.enter_context(ClipReader(_media(sample.video, sample)))
            times = {}
            for stream in pictures:
                assert stream.sampler is not None
                times[stream.name] = stream.sampler.plan(clip.info, sample, epoch, seed).times
            sizes = [stream.size for stream in pictures]
            size = None if None in sizes else max(s for s in sizes if s)
            frames, sound = clip.read(times, sound="audio" in live and sample.audio is None, size=size)
            out.update(frames)
            if "face" in frames:
                out["face"] = cropped(frames["face"], sample.boxes["face"])
        elif "audio" in live:
            sound = None
        if "audio" in live:
            if sound is None:
                clip = files.enter_context(ClipReader(_media(sample.audio or sample.video, sample)))
                sound = clip.read({}, sound=True)[1]
            out["audio"] = sound
    return out


def _media(media: Media | None, sample: Sample) -> Media:
    if media is None:
        raise MediaError("The clip has no media file.", expected="a video or audio file", got="none", where=sample.id)
    return media


def cropped(frames: Frames, box: Box) -> Frames:
    """Cuts a box, given in fractions of the picture, out of every picture: [T, H, W, 3] -> [T, h, w, 3]."""
    height, width = frames.pixels.shape[1:3]
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    right, bottom = max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)
    return Frames(frames.pixels[:, max(top, 0) : bottom, max(left, 0) : right], frames.time)
