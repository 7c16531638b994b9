"""Reads pictures at chosen times and the sound of one clip, from one open file in one pass.

Data flow: Media -> ClipReader (one av.open) -> packets -> wanted pictures (dict of Frames), sound (Waveform).

Shapes: T pictures, H W picture size, N audio samples. Times are seconds from the clip's start: its span's start, counted
from the first picture of the file (from the first sample where there is no picture).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hero_lightning.data.types import Box, Media
from hero_lightning.errors import MediaError
from hero_lightning.media.types import SAMPLE_RATE, ClipInfo, Frames, Waveform

if TYPE_CHECKING:
    from av.container import InputContainer

EPSILON = 2e-3
"""Seconds a picture may come late and still count as shown: Matroska rounds times to 1 ms, plans are k / fps."""
SLACK = 0.5
"""Seconds that may be missing at the end before a file counts as cut off (labels and headers round)."""
LEAD = 0.5
"""Seconds decoded before a span, so that the audio decoder has settled when it starts."""
GAP = 0.04
"""Seconds between the end of one piece of sound and the start of the next that count as a hole in the recording."""


class ClipReader:
    """One clip of a media file: opened once, lazily; reads any set of picture times and the sound in one pass.

    Args:
        media: file, span in seconds and crop.
    """

    def __init__(self, media: Media) -> None:
        self.media = media
        self._container: InputContainer | None = None
        self._moved = False  # whether packets were taken, so that the next read must go back

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; a later read opens it again."""
        if self._container is not None:
            self._container.close()
        self._container, self._moved = None, False

    @property
    def info(self) -> ClipInfo:
        """What the file's header says of this clip; nothing is decoded. Width and height are before rotation."""
        self._open()
        start, end = self._bounds()
        known, video = max(end - start, 0.0), self._video
        if video is None:
            return ClipInfo(duration=known, has_audio=self._audio is not None)
        fps = float(video.average_rate or video.guessed_rate or 0)
        counted = self.media.span is None and video.frames > 0
        (x0, y0, x1, y1) = _pixels(self.media.crop, video.width, video.height)
        return ClipInfo(
            duration=known,
            fps=fps,
            num_frames=video.frames if counted else max(round(known * fps), 1),
            width=x1 - x0,
            height=y1 - y0,
            has_video=True,
            has_audio=self._audio is not None,
        )

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
            Frames [T, H, W, 3] by stream name, and the sound [N] of the clip or None when not asked for.

        Raises:
            MediaError: the file is missing, empty, broken, cut off, or holds no such stream.
        """
        self._open()
        times = sorted({float(t) for wanted in pictures.values() for t in wanted})
        if times and self._video is None:
            raise self._error("The file holds no picture.", "a video stream", "none")
        if sound and self._audio is None:
            raise self._error("The file holds no sound.", "an audio stream", "none")
        if not times and not sound:
            return {}, None
        from av.error import FFmpegError

        try:
            packets, pieces = self._demux(times[-1] if times else None, sound)
            shown = self._pictures(packets, times, size) if times else {}
        except FFmpegError as error:
            raise self._error("The file cannot be decoded.", "a whole media file", str(error)) from error
        frames = {
            name: Frames(
                torch.from_numpy(np.stack([shown[float(t)] for t in wanted])),  # [T, H, W, 3]
                torch.tensor([float(t) for t in wanted]),
            )
            for name, wanted in pictures.items()
            if len(wanted)
        }
        return frames, Waveform(self._aligned(pieces)) if sound else None

    def _error(self, problem: str, expected: str, got: str) -> MediaError:
        mend = "repair or replace the file, or leave the sample out"
        return MediaError(problem, expected=expected, got=got, where=self.media.path, mend=mend)

    def _open(self) -> None:
        if self._container is not None:
            return
        path = Path(self.media.path)
        if not path.is_file():
            raise self._error("The media file is missing.", "an existing file", "nothing there")
        if path.stat().st_size == 0:
            raise self._error("The media file is empty.", "a video or audio file", "0 bytes")
        import av
        from av.error import FFmpegError
        from av.stream import Disposition

        try:
            self._container = container = av.open(str(path))
        except FFmpegError as error:
            raise self._error("The media file cannot be opened.", "a whole video or audio file", str(error)) from error
        moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]  # no cover art
        self._video = moving[0] if moving else None
        self._audio = container.streams.audio[0] if container.streams.audio else None
        if self._video is None and self._audio is None:
            self.close()
            raise self._error("The file holds neither picture nor sound.", "a video or audio stream", "none")
        for stream in (self._video, self._audio):
            if stream is not None:
                stream.codec_context.thread_count = 1  # workers are the parallelism; codec threads only contend
        first = self._video or self._audio
        assert first is not None
        self._zero = float((first.start_time or 0) * first.time_base) if first.time_base else 0.0

    def _length(self, stream: Any) -> float:
        """Seconds a stream lasts according to the header: its own count, Matroska's tag, or the container's."""
        if stream.duration:
            return float(stream.duration * stream.time_base)
        if stream.metadata.get("DURATION"):
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        return (self._container.duration or 0) / 1e6 if self._container else 0.0

    def _bounds(self) -> tuple[float, float]:
        """Start and end of the clip on the file's clock in seconds; the end is the picture's where there is one."""
        length = self._length(self._video or self._audio)
        if self.media.span is None:
            return 0.0, length
        return self.media.span[0], min(self.media.span[1], length) if length else self.media.span[1]

    def _demux(self, last: float | None, sound: bool) -> tuple[list[Any], list[tuple[float, np.ndarray]]]:
        """One pass over the file: video packets up to the last wanted time, decoded sound as (start, samples)."""
        from av.audio.resampler import AudioResampler
        from av.error import InvalidDataError

        container, start = self._container, self._bounds()[0]
        assert container is not None
        if self._moved or start > 2 * LEAD:
            container.seek(int(max(self._zero + start - LEAD, 0.0) * 1e6) if start > 2 * LEAD else 0)
        self._moved = True
        picture_end = start + last + EPSILON if last is not None else -np.inf
        sound_end = (self.media.span[1] if self.media.span else np.inf) if sound else -np.inf
        open_streams = {s.index for s in (self._video if last is not None else None, self._audio if sound else None) if s}
        packets: list[Any] = []
        heard = _Sound(AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE))
        stream_list = [s for s in (self._video, self._audio) if s is not None and s.index in open_streams]
        try:
            for packet in container.demux(*stream_list):
                stream = packet.stream
                is_sound = stream.type == "audio"
                if stream.index in open_streams and packet.dts is not None:
                    at = float(packet.dts * stream.time_base) - self._zero
                    if at > (sound_end if is_sound else picture_end):
                        open_streams.discard(stream.index)  # nothing shown or heard in the clip comes later
                        if not open_streams:
                            break
                if stream.index not in open_streams:
                    continue
                if not is_sound:
                    packets.append(packet)
                    continue
                for frame in _decoded(packet.decode):
                    heard.add(frame, self._zero)
        except InvalidDataError:
            pass  # a file cut off inside a packet: what is missing is judged against the wanted times
        return packets, heard.finish()

    def _pictures(self, packets: list[Any], times: list[float], size: int | None) -> dict[float, np.ndarray]:
        """Decodes what the wanted times need; time -> picture [H, W, 3]."""
        from av.video.reformatter import VideoReformatter

        video, start, reformatter = self._video, self._bounds()[0], VideoReformatter()
        assert video is not None
        out: dict[float, np.ndarray] = {}
        waiting, shown, end = list(times), None, 0.0
        for frame in self._frames(_needed(packets, video, [t + start + self._zero for t in times])):
            at = frame.time - self._zero - start if frame.time is not None else end
            if waiting and shown is not None and waiting[0] + EPSILON < at:
                picture = self._rgb(shown, reformatter, size)
                while waiting and waiting[0] + EPSILON < at:
                    out[waiting.pop(0)] = picture
            if not waiting:
                return out
            shown, end = frame, at + float(frame.duration * frame.time_base if frame.duration else 1 / (video.average_rate or 25))
        if shown is None:
            raise self._error("No picture can be decoded.", f"pictures up to {times[-1]:.3f} s", "none")
        if waiting[-1] > end + SLACK:
            raise self._error("The file ends before the clip does.", f"a picture at {waiting[-1]:.3f} s", f"{end:.3f} s")
        picture = self._rgb(shown, reformatter, size)
        return out | dict.fromkeys(waiting, picture)

    def _frames(self, packets: list[Any]) -> Iterator[Any]:
        for packet in packets:
            yield from _decoded(packet.decode)
        if self._video is not None:
            yield from _decoded(self._video.codec_context.decode)  # what the decoder still holds

    def _rgb(self, frame: Any, reformatter: Any, size: int | None) -> np.ndarray:
        """One decoded frame -> [H, W, 3] uint8 RGB, scaled, turned upright and cropped."""
        x0, y0, x1, y1 = _pixels(self.media.crop, frame.width, frame.height)
        scale = min(size / min(x1 - x0, y1 - y0), 1.0) if size else 1.0
        width, height = max(round(frame.width * scale), 1), max(round(frame.height * scale), 1)
        picture = reformatter.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()
        picture = np.rot90(picture, round(frame.rotation / 90) % 4)  # counterclockwise
        x0, y0, x1, y1 = _pixels(self.media.crop, picture.shape[1], picture.shape[0])
        return np.ascontiguousarray(picture[y0:y1, x0:x1])

    def _aligned(self, pieces: list[tuple[float, np.ndarray]]) -> torch.Tensor:
        """Lays decoded pieces of sound on the clip's clock: [N] from the clip's start, silence where none was."""
        assert self._container is not None
        start, end = self._bounds()
        heard = max((at + len(x) / SAMPLE_RATE for at, x in pieces), default=0.0)
        promised = self._length(self._audio)
        wanted = min(self.media.span[1], promised) if self.media.span else promised
        guessed = self._container.format.name in ("mp3", "aac")  # their headers know no length
        if heard <= start or (wanted > heard + SLACK and not guessed):
            raise self._error("The sound ends before the clip does.", f"sound up to {wanted:.3f} s", f"{heard:.3f} s")
        stop = min(heard, self.media.span[1]) if self.media.span else heard
        out = np.zeros(max(round((stop - start) * SAMPLE_RATE), 1), dtype=np.float32)
        for at, x in pieces:
            first = round((at - start) * SAMPLE_RATE)
            x = x[max(-first, 0) :][: max(len(out) - max(first, 0), 0)]
            out[max(first, 0) : max(first, 0) + len(x)] = x
        return torch.from_numpy(out)


class _Sound:
    """Resamples decoded sound and keeps the times of its pieces, a new piece after every hole."""

    def __init__(self, resampler: Any) -> None:
        self.resampler = resampler
        self.pieces: list[tuple[float, list[np.ndarray]]] = []
        self.next = 0.0

    def add(self, frame: Any, zero: float) -> None:
        at = frame.time - zero if frame.time is not None else self.next
        if not self.pieces or abs(at - self.next) > GAP:
            self.flush()
            self.pieces.append((at, []))
        self.next = at + frame.samples / frame.sample_rate
        self.keep(frame)

    def keep(self, frame: Any | None) -> None:
        self.pieces[-1][1].extend(part.to_ndarray().reshape(-1) for part in self.resampler.resample(frame))

    def flush(self) -> None:
        if self.pieces:
            self.keep(None)

    def finish(self) -> list[tuple[float, np.ndarray]]:
        self.flush()
        return [(at, np.concatenate(parts)) for at, parts in self.pieces if parts]


def _decoded(decode: Any) -> list[Any]:
    """Frames of one packet; none where its bytes are damaged (the next ones may be whole)."""
    from av.error import InvalidDataError

    try:
        return list(decode())
    except InvalidDataError:
        return []


def _needed(packets: list[Any], video: Any, times: list[float]) -> list[Any]:
    """Leaves out the H.264 packets that no wanted picture needs: unreferenced ones shown at no wanted time.

    A fifth of a usual file, and bit-identical, for other pictures never refer to them (`nal_ref_idc` = 0).
    """
    header = video.codec_context.extradata or b""
    if video.codec_context.name != "h264" or header[:1] != b"\x01" or any(p.pts is None and p.size for p in packets):
        return packets
    width = (header[4] & 3) + 1  # bytes of a NAL unit's length (ISO 14496-15, avcC)
    shown = sorted(p.pts for p in packets if p.size)
    if not shown:
        return packets
    base = float(video.time_base)
    wanted = {shown[max(bisect_right(shown, (t + EPSILON) / base) - 1, 0)] for t in times}
    return [p for p in packets if not p.size or p.pts in wanted or _referenced(bytes(p), width)]


def _referenced(data: bytes, width: int) -> bool:
    """Whether an AVCC packet's picture may be referred to: nal_ref_idc of its first slice."""
    at = 0
    while at + width < len(data):
        head = data[at + width]
        if head & 31 in (1, 5):
            return bool(head & 0x60)
        at += width + int.from_bytes(data[at : at + width], "big")
    return True


def _pixels(crop: Box | None, width: int, height: int) -> tuple[int, int, int, int]:
    """A box in fractions -> whole pixels x0, y0, x1, y1, at least one wide and high."""
    x0, y0, x1, y1 = crop or (0.0, 0.0, 1.0, 1.0)
    left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
    return left, top, max(round(x1 * width), left + 1), max(round(y1 * height), top + 1)
