"""Reads pictures at chosen times and the sound of one clip, from one open file in one pass.

Data flow: Media -> ClipReader (one av.open) -> packets -> wanted pictures (dict of Frames), sound (Waveform).

Shapes: T pictures, H W picture size, N audio samples. Times are seconds from the clip's start: its span's start,
counted from the first picture of the file (from the first sample of sound where there is no picture).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hero_lightning.data.types import Box, Media
from hero_lightning.errors import MediaError
from hero_lightning.media.h264 import needed
from hero_lightning.media.sound import laid_out, mono
from hero_lightning.media.types import SAMPLE_RATE, ClipInfo, Frames, Waveform

EPSILON = 2e-3
"""Seconds a picture may come late and still count as shown: Matroska rounds times to 1 ms, plans are k / fps."""
SLACK = 0.5
"""Seconds that may be missing at the end before a file counts as cut off (labels and headers round)."""
LEAD = 0.5
"""Seconds decoded before a span, so that the audio decoder has settled when it starts."""
NO_LENGTH = ("mp3", "aac")
"""Containers whose header does not know how long the sound is."""


class ClipReader:
    """One clip of a media file: opened once, lazily; reads any set of picture times and the sound in one pass.

    Args:
        media: file, span in seconds and crop.
    """

    def __init__(self, media: Media) -> None:
        self.media = media
        self._container: Any = None
        self._fresh = True  # no packet was taken yet

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; a later read opens it again."""
        if self._container is not None:
            self._container.close()
        self._container, self._fresh = None, True

    @property
    def info(self) -> ClipInfo:
        """What the file's header says of this clip. Nothing is decoded, so width and height are before rotation."""
        self._open()
        video, sound = self._video, self._audio is not None
        duration = max(self._end - self._start, 0.0)
        if video is None:
            return ClipInfo(duration=duration, has_audio=sound)
        fps = float(video.average_rate or video.guessed_rate or 0)
        counted = video.frames if self.media.span is None else 0
        x0, y0, x1, y1 = _pixels(self.media.crop, video.width, video.height)
        return ClipInfo(duration, fps, counted or max(round(duration * fps), 1), x1 - x0, y1 - y0, True, sound)

    def read(
        self, pictures: Mapping[str, Sequence[float]], sound: bool = False, size: int | None = None
    ) -> tuple[dict[str, Frames], Waveform | None]:
        """Reads the pictures of all streams, and the sound, in one pass.

        Args:
            pictures: stream name -> times in seconds. The picture at time t is the last one shown by then, so a time
                before the first picture gives the first, one after the end the last.
            sound: whether the sound is read too.
            size: shortest side of the (cropped) pictures in pixels, aspect kept, never enlarged; None = as stored.

        Returns:
            Frames [T, H, W, 3] by stream name with the times at which these pictures appear, and the sound [N] of the
            clip or None when not asked for.

        Raises:
            MediaError: the file is missing, empty, broken, cut off, or holds no such stream.
        """
        from av.error import FFmpegError

        if not self._fresh:
            self.close()  # winding back would leave the decoders in another state than a fresh start
        self._open()
        times = sorted({float(t) for wanted in pictures.values() for t in wanted})
        if times and self._video is None:
            raise self._error("The file holds no picture.", "a video stream", "none")
        if sound and self._audio is None:
            raise self._error("The file holds no sound.", "an audio stream", "none")
        try:
            packets, heard = self._demux(times, sound)
            shown = self._pictures(packets, times, size) if times else {}
            wave = Waveform(self._sound(heard)) if sound else None
        except FFmpegError as error:
            raise self._error("The file cannot be decoded.", "a whole media file", error) from error
        frames = {
            name: Frames(
                torch.from_numpy(np.stack([shown[float(t)][1] for t in wanted])),  # [T, H, W, 3]
                torch.tensor([max(shown[float(t)][0], 0.0) for t in wanted]),
            )
            for name, wanted in pictures.items()
            if len(wanted)
        }
        return frames, wave

    def _error(self, problem: str, expected: object, got: object) -> MediaError:
        mend = "repair or replace the file, or leave the sample out"
        return MediaError(problem, expected=expected, got=got, where=self.media.path, mend=mend)

    def _open(self) -> None:
        if self._container is not None:
            return
        path = Path(self.media.path)
        if not path.is_file():
            raise self._error("The media file is missing.", "a video or audio file", "nothing there")
        if path.stat().st_size == 0:
            raise self._error("The media file is empty.", "a video or audio file", "0 bytes")
        import av
        from av.error import FFmpegError
        from av.stream import Disposition

        try:
            container = av.open(str(path))
        except FFmpegError as error:
            raise self._error("The media file cannot be opened.", "a whole video or audio file", error) from error
        moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]  # no cover art
        self._video: Any = moving[0] if moving else None
        self._audio: Any = container.streams.audio[0] if container.streams.audio else None
        first: Any = self._video or self._audio
        if first is None:
            container.close()
            raise self._error("The file holds neither picture nor sound.", "a video or audio stream", "none")
        for stream in filter(None, (self._video, self._audio)):
            stream.codec_context.thread_count = 1  # the workers are the parallelism; codec threads only contend
        self._container = container
        self._zero = float((first.start_time or 0) * first.time_base)  # the clip's clock on the file's
        length = self._length(first)
        self._start, end = self.media.span or (0.0, length)
        self._end = min(end, length) if length else end

    def _length(self, stream: Any) -> float:
        """Seconds a stream lasts by its own count, by Matroska's tag, or by the container's count; 0 = unknown."""
        if stream.duration:
            return float(stream.duration * stream.time_base)
        if tag := stream.metadata.get("DURATION"):
            hours, minutes, seconds = tag.split(":")
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        return (self._container.duration or 0) / 1e6

    def _demux(self, times: list[float], sound: bool) -> tuple[list[Any], list[Any]]:
        """One pass over the file: video packets up to the last wanted time, decoded audio frames of the clip."""
        from av.error import InvalidDataError

        last = {}  # stream -> seconds on the clip's clock after which nothing of it is needed
        if times:
            last[self._video] = times[-1] + EPSILON
        if sound:
            last[self._audio] = self._end - self._start if self.media.span else np.inf
        if self._start > 2 * LEAD:
            self._container.seek(int((self._zero + self._start - LEAD) * 1e6))
        self._fresh = False
        packets: list[Any] = []
        heard: list[Any] = []
        try:
            for packet in self._container.demux(*last) if last else ():
                stream = packet.stream
                if stream not in last:
                    continue
                if packet.dts is not None and self._clock(packet.dts * stream.time_base) > last[stream]:
                    del last[stream]  # pictures come after their decoding time, so none of the clip's follow
                    if not last:
                        break
                elif stream is self._audio:
                    heard += _decoded(packet.decode)
                elif packet.size:
                    packets.append(packet)
        except InvalidDataError:  # cut off inside a packet: what is missing is judged against the wanted times
            pass
        return packets, heard

    def _clock(self, seconds: Any) -> float:
        return float(seconds) - self._zero - self._start

    def _pictures(
        self, packets: list[Any], times: list[float], size: int | None
    ) -> dict[float, tuple[float, np.ndarray]]:
        """Decodes the pictures at ascending times: wanted time -> (time it appears, picture [H, W, 3] uint8)."""
        from av.video.reformatter import VideoReformatter

        reformatter, video = VideoReformatter(), self._video
        chosen = needed(packets, video, [t + EPSILON + self._zero + self._start for t in times])
        decoders = [p.decode for p in chosen] + [video.codec_context.decode]  # the last: what the decoder still holds
        out: dict[float, tuple[float, np.ndarray]] = {}
        shown, at, end = None, 0.0, 0.0
        for frame in (f for decode in decoders for f in _decoded(decode)):
            following = self._clock(frame.pts * video.time_base) if frame.pts is not None else end
            due: list[float] = [t for t in times[len(out) :] if shown is not None and t + EPSILON < following]
            if due:
                out |= dict.fromkeys(due, (at, self._rgb(shown, reformatter, size)))
                if len(out) == len(times):
                    return out
            shown, at = frame, following
            end = at + float(frame.duration * video.time_base or 1 / (video.average_rate or 25))
        if shown is None or times[-1] > end + SLACK:
            raise self._error("The pictures end before the clip does.", f"one at {times[-1]:.3f} s", f"{end:.3f} s")
        return out | dict.fromkeys(times[len(out) :], (at, self._rgb(shown, reformatter, size)))

    def _rgb(self, frame: Any, reformatter: Any, size: int | None) -> np.ndarray:
        """One decoded frame -> [H, W, 3] uint8 RGB, scaled, turned upright and cropped."""
        x0, y0, x1, y1 = _pixels(self.media.crop, frame.width, frame.height)
        scale = min(size / min(x1 - x0, y1 - y0), 1.0) if size else 1.0
        width, height = max(round(frame.width * scale), 1), max(round(frame.height * scale), 1)
        picture = reformatter.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()
        picture = np.rot90(picture, round(frame.rotation / 90) % 4)  # rotation counts counterclockwise
        x0, y0, x1, y1 = _pixels(self.media.crop, picture.shape[1], picture.shape[0])
        return np.ascontiguousarray(picture[y0:y1, x0:x1])

    def _sound(self, heard: list[Any]) -> torch.Tensor:
        """Decoded audio frames -> [N] mono at SAMPLE_RATE on the clip's clock, silent where nothing was recorded."""
        pieces = [(self._clock(at), x) for at, x in mono(heard)]
        end = max((at + len(x) / SAMPLE_RATE for at, x in pieces), default=0.0)
        promised = self._length(self._audio) - self._start
        if self.media.span:
            promised = min(promised, self.media.span[1] - self._start)
            end = min(end, self.media.span[1] - self._start)
        if end <= 0 or (promised > end + SLACK and self._container.format.name not in NO_LENGTH):
            raise self._error("The sound ends before the clip does.", f"{promised:.3f} s of sound", f"{end:.3f} s")
        return torch.from_numpy(laid_out(pieces, end))


def _decoded(decode: Callable[[], Any]) -> list[Any]:
    """Frames of one packet; none where its bytes are damaged, for the next ones may be whole."""
    from av.error import InvalidDataError

    try:
        return list(decode())
    except InvalidDataError:
        return []


def _pixels(crop: Box | None, width: int, height: int) -> tuple[int, int, int, int]:
    """A box in fractions -> whole pixels x0, y0, x1, y1, at least one wide and high."""
    x0, y0, x1, y1 = crop or (0.0, 0.0, 1.0, 1.0)
    left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
    return left, top, max(round(x1 * width), left + 1), max(round(y1 * height), top + 1)
