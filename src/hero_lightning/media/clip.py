"""Reads pictures at chosen times and the sound of one clip, from one open file in one pass.

Data flow: Media -> ClipReader (one av.open) -> packets -> wanted pictures (dict of Frames), sound (Waveform).

Shapes: T pictures, H W picture size, N audio samples. Times are seconds from the clip's start: its span's start,
counted from the first picture of the file (from the first sample of sound where there is no picture).
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hero_lightning.errors import MediaError, cause
from hero_lightning.media.h264 import needed
from hero_lightning.media.limits import limit, raised
from hero_lightning.media.sound import declared_size, mono, on_clock
from hero_lightning.media.stills import EPSILON, ImageSequence, is_stills, rgb
from hero_lightning.media.types import SAMPLE_RATE, ClipInfo, Frames, Waveform
from hero_lightning.types import Media

SLACK = 0.5
"""Seconds that may be missing at the end before a file counts as truncated (labels and headers round)."""
LEAD = 0.5
"""Seconds decoded before a span: the audio decoder needs them to settle."""
NO_LENGTH = ("mp3", "aac")
"""Containers whose header does not hold the length of the sound."""


class ClipReader:
    """One clip of a media file: opened once, lazily; reads any set of picture times and the sound in one pass.

    Args:
        media: file, span in seconds and crop.
    """

    def __init__(self, media: Media) -> None:
        self.media = media
        self._container: Any = None
        self._stills: ImageSequence | None = None
        self._video: Any = None
        self._audio: Any = None
        self._fresh = True  # no packet was read yet

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; a later read opens it again."""
        if self._container is not None:
            self._container.close()
        self._container, self._stills, self._fresh = None, None, True

    @property
    def info(self) -> ClipInfo:
        """Header of the clip. Nothing is decoded."""
        self._open()
        if self._stills is not None:
            return self._stills.info
        video, sound = self._video, self._audio is not None
        duration = max(self._end - self._start, 0.0)
        if video is None:
            return ClipInfo(duration=duration, has_audio=sound)
        fps = float(video.average_rate or video.guessed_rate or 0)
        expected = max(round(duration * fps), 1)
        counted = video.frames if abs(video.frames - expected) <= 1 else 0  # an edit list or a span hides pictures
        return ClipInfo(duration, fps, counted or expected, True, sound)

    def read(
        self,
        pictures: Mapping[str, Sequence[float]],
        sound: bool = False,
        size: int | Mapping[str, int | None] | None = None,
    ) -> tuple[dict[str, Frames], Waveform | None]:
        """Reads the pictures of all modalities, and the sound, in one pass.

        Args:
            pictures: modality name -> times in seconds. The picture at time t is the last one that appears by t; times
                before the first picture give the first one, times after the end the last one.
            sound: whether to read the sound too.
            size: shortest side of the (cropped) pictures in pixels, aspect kept, never enlarged; None = as stored. One
                value for all, or by modality name.

        Returns:
            Frames [T, H, W, 3] by modality name with the times at which these pictures appear, and the sound [N] of the
            clip, or None without `sound`.

        Raises:
            MediaError: the file is missing, empty, broken, truncated, or lacks the stream.
        """
        from av.error import FFmpegError

        if not self._fresh:
            self.close()  # seeking back would leave the decoders in another state than a new start
        self._open()
        sizes = {name: size.get(name) if isinstance(size, Mapping) else size for name, w in pictures.items() if len(w)}
        if sound and (self._stills is not None or self._audio is None):
            raise self._error("The file holds no sound.", "an audio stream", "none")
        if self._stills is not None:
            still = {name: self._stills.read(pictures[name], side) for name, side in sizes.items()}
            return {name: Frames(torch.from_numpy(x), torch.tensor(at)) for name, (x, at) in still.items()}, None
        if sizes and self._video is None:
            raise self._error("The file holds no picture.", "a video stream", "none")
        wanted: dict[float, set[int | None]] = {}  # time -> sizes asked for
        for name, side in sizes.items():
            for t in pictures[name]:
                wanted.setdefault(float(t), set()).add(side)
        self._held = 0  # bytes
        try:
            packets, audio_frames, continues = self._demux(sorted(wanted), sound)
            decoded = self._pictures(packets, dict(sorted(wanted.items())), continues) if wanted else {}
            wave = Waveform(self._sound(audio_frames)) if sound else None
        except MemoryError as error:
            raise self._error("The clip needs more memory than there is.", "a smaller clip", cause(error)) from error
        except FFmpegError as error:
            raise self._error("The file cannot be decoded.", "a complete media file", cause(error)) from error
        frames = {
            name: Frames(
                torch.from_numpy(np.stack([decoded[float(t)][1][side] for t in pictures[name]])),  # [T, H, W, 3]
                torch.tensor([max(decoded[float(t)][0], 0.0) for t in pictures[name]]),
            )
            for name, side in sizes.items()
        }
        return frames, wave

    def _hold(self, size: float) -> None:
        """Counts memory that the clip takes. MediaError beyond the limit."""
        self._held += int(size)
        if self._held > (most := limit("memory_gb")) * 1e9:
            raise self._beyond("memory_gb", f"{most:g} GB of memory", f"more, {self._held / 1e9:.3g} GB so far")

    def _beyond(self, name: str, expected: str, got: object) -> MediaError:
        hint = f"leave the sample out, or {raised(name)}"
        problem = f"The clip is beyond limits.{name}={limit(name):g}: {got}."
        return MediaError(problem, expected=expected, got=got, where=self.media.path, hint=hint)

    def _check_seconds(self, seconds: float) -> None:
        if seconds > limit("seconds"):
            raise self._beyond("seconds", f"at most {limit('seconds'):g} s", f"{seconds:.0f} s")

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > limit("pixels"):
            raise self._beyond("pixels", f"at most {limit('pixels'):g} pixels", f"{width} x {height}")

    def _error(self, problem: str, expected: object, got: object) -> MediaError:
        hint = "repair or replace the file, or leave the sample out"
        return MediaError(problem, expected=expected, got=got, where=self.media.path, hint=hint)

    def _open(self) -> None:
        if self._container is not None or self._stills is not None:
            return
        path = Path(self.media.path)
        if is_stills(path):
            self._stills = ImageSequence(self.media)
            return
        if not os.path.isfile(path):  # other than Path.is_file without an error for any path
            got = "a device or pipe" if os.path.exists(path) else "nothing there"
            raise self._error("The media file is missing.", "a video or audio file", got)
        if path.stat().st_size == 0:
            raise self._error("The media file is empty.", "a video or audio file", "0 bytes")
        import av
        from av.error import FFmpegError
        from av.stream import Disposition

        try:
            # titles may be in GBK instead of UTF-8
            container = av.open(_address(self.media), metadata_errors="replace")
        except FFmpegError as error:
            expected = "a complete video or audio file"
            raise self._error("The media file cannot be opened.", expected, cause(error)) from error
        usable = [s for s in container.streams if s.codec_context is not None]  # FFmpeg has a decoder
        videos = (s for s in usable if s.type == "video" and not s.disposition & Disposition.attached_pic)  # no covers
        self._video = next(videos, None)
        self._audio = next((s for s in usable if s.type == "audio"), None)
        first: Any = self._video or self._audio
        if first is None:
            container.close()
            raise self._error("The file holds neither picture nor sound.", "a video or audio stream", "none")
        for stream in filter(None, (self._video, self._audio)):
            stream.codec_context.thread_count = 1  # clips are read in parallel by the loader's workers
        self._container, self._whole = container, declared_size(path, self.media.part)
        self._zero = float((first.start_time or 0) * first.time_base)  # zero of the clip's clock on the file's clock
        length = self._length(first)
        self._start, end = self.media.span or (0.0, length)
        self._end = min(end, length) if length else end
        try:
            self._check_seconds(self._end - self._start)
            if self._video is not None:
                self._check_pixels(self._video.width, self._video.height)
        except MediaError:
            self.close()
            raise

    def _length(self, stream: Any) -> float:
        """Duration in seconds by the stream, by Matroska's tag, or by the container; 0 = unknown.

        FFmpeg takes the length of a truncated wav, avi or mp3 from what is left; it is as long as its header says.
        """
        if stream.duration:
            return float(stream.duration * stream.time_base) * self._whole
        if tag := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
            hours, minutes, seconds = map(float, tag.groups())
            return 3600 * hours + 60 * minutes + seconds
        return (self._container.duration or 0) / 1e6 * self._whole

    def _demux(self, times: list[float], sound: bool) -> tuple[list[Any], list[Any], bool]:
        """One pass over the file.

        Returns:
            Video packets up to the last wanted time, decoded audio frames of the clip, whether more pictures follow.
        """
        from av.error import InvalidDataError

        last = {}  # stream -> seconds on the clip's clock after which it is not needed
        if times:
            last[self._video] = times[-1] + EPSILON
        if sound:
            last[self._audio] = self._end - self._start if self.media.span else np.inf
        if self._start > 2 * LEAD:
            self._container.seek(int((self._zero + self._start - LEAD) * 1e6))
        self._fresh = False
        packets: list[Any] = []
        audio_frames: list[Any] = []
        continues, seconds = False, 0.0
        try:
            for packet in self._container.demux(*last) if last else ():
                stream = packet.stream
                if stream not in last:
                    continue
                if packet.dts is not None and self._clock(packet.dts * stream.time_base) > last[stream]:
                    del last[stream]  # pictures appear after their decoding time: none of the clip's follow
                    continues = continues or stream is self._video
                    if not last:
                        break
                elif packet.is_corrupt and not stream.codec_context.name.startswith("pcm"):
                    continue  # truncated: a decoder would invent the rest
                elif stream is self._audio:
                    for frame in _decoded(packet.decode):
                        seconds += frame.samples / frame.sample_rate
                        self._check_seconds(seconds)
                        # as decoded, and three times as mono: 16 bit, 32 bit, on the clock
                        self._hold(sum(p.buffer_size for p in frame.planes))
                        self._hold(10 * SAMPLE_RATE * frame.samples / frame.sample_rate)
                        audio_frames.append(frame)
                elif packet.size:
                    self._hold(packet.size)
                    packets.append(packet)
        except InvalidDataError:  # truncated inside a packet: the wanted times decide whether that is an error
            pass
        return packets, audio_frames, continues

    def _clock(self, seconds: Any) -> float:
        return float(seconds) - self._zero - self._start

    def _pictures(
        self, packets: list[Any], wanted: Mapping[float, set[int | None]], continues: bool
    ) -> dict[float, tuple[float, dict[int | None, np.ndarray]]]:
        """Decodes the pictures at ascending times: time -> (when it appears, size -> picture [H, W, 3] uint8)."""
        from av.video.reformatter import VideoReformatter

        video, times = self._video, list(wanted)
        clock = sorted(self._clock(p.pts * video.time_base) for p in packets if p.pts is not None and not p.is_discard)
        reformatters = {size: VideoReformatter() for sizes in wanted.values() for size in sizes}
        chosen = needed(packets, video, [t + EPSILON + self._zero + self._start for t in times])
        decoders = [p.decode for p in chosen] + [video.codec_context.decode]  # the last flushes the decoder
        out: dict[float, tuple[float, dict[int | None, np.ndarray]]] = {}
        shapes: set[tuple[int, int]] = set()

        def add(due: list[float], frame: Any, at: float) -> None:
            if due and clock and clock[max(bisect_right(clock, due[-1] + EPSILON) - 1, 0)] > at + SLACK:
                raise self._error("Pictures of the clip are damaged.", f"one at {due[-1]:.3f} s", f"{at:.3f} s")
            sizes = {size for t in due for size in wanted[t]}
            self._check_pixels(frame.width, frame.height)
            shapes.add((frame.height, frame.width))
            if len(shapes) > 1:
                raise self._error("The pictures differ in size.", "one size", sorted(shapes))
            pictures = {size: rgb(frame, self.media.crop, size, reformatters[size]) for size in sizes}
            self._hold(2 * sum(p.nbytes for p in pictures.values()))
            out.update(dict.fromkeys(due, (at, pictures)))

        current, at, end = None, 0.0, 0.0
        for frame in (f for decode in decoders for f in _decoded(decode) if not f.is_corrupt):
            following = self._clock(frame.pts * video.time_base) if frame.pts is not None else end
            due: list[float] = [t for t in times[len(out) :] if current is not None and t + EPSILON < following]
            if due:
                add(due, current, at)
                if len(out) == len(times):
                    return out
            current, at = frame, following
            end = at + float(frame.duration * video.time_base or 1 / (video.average_rate or 25))
        if current is None or (not continues and times[-1] > max(end, *clock[-1:]) + SLACK):
            raise self._error("The pictures end before the clip does.", f"one at {times[-1]:.3f} s", f"{end:.3f} s")
        add(times[len(out) :], current, at)
        return out

    def _sound(self, audio_frames: list[Any]) -> torch.Tensor:
        """Decoded audio frames -> [N] mono at SAMPLE_RATE on the clip's clock, silent in gaps of the recording."""
        segments = [(self._clock(at), x) for at, x in mono(audio_frames)]
        end = max((at + len(x) / SAMPLE_RATE for at, x in segments), default=0.0)
        self._check_seconds(end)  # times may leap ahead of the sound
        expected = self._length(self._audio) - self._start
        if self.media.span:
            expected = min(expected, self.media.span[1] - self._start)
            end = min(end, self.media.span[1] - self._start)
        if end <= 0 or (expected > end + SLACK and (self._whole > 1 or self._container.format.name not in NO_LENGTH)):
            raise self._error("The sound ends before the clip does.", f"{expected:.3f} s of sound", f"{end:.3f} s")
        return torch.from_numpy(on_clock(segments, end))


def _decoded(decode: Callable[[], Any]) -> list[Any]:
    """Frames of one packet; none if its bytes are damaged, since the next packets may be intact."""
    from av.error import InvalidDataError

    try:
        return list(decode())
    except InvalidDataError:
        return []


def _address(media: Media) -> str:
    """URL for FFmpeg: the file, or the byte range of the clip inside it."""
    if media.part is None:
        return str(media.path)
    start, size = media.part
    return f"subfile,,start,{start},end,{start + size},,:{media.path}"
