"""Drops the packets that are not needed to decode the wanted pictures bit-identically.

Data flow: packets of one pass + wanted times -> needed -> packets to decode.

Dropped are groups of pictures without a wanted one and what follows the last wanted picture of a group (decoding
restarts at the next key picture, as after a seek), and, in H.264, pictures to which no other picture refers (about a
fifth of a typical file).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

RESTARTS = ("h264", "mjpeg", "vp8", "vp9")
"""Codecs in which no picture after a key picture (H.264: an IDR picture) refers to, or is shown, before it."""


def needed(packets: list[Any], stream: Any, times: Sequence[float]) -> list[Any]:
    """The packets that have to be decoded to show the pictures at the wanted times.

    Args:
        packets: of one video stream, in decoding order. Returned unchanged for other codecs, for H.264 outside mp4, mov
            and mkv, and without time stamps.
        stream: the video stream.
        times: wanted times in seconds on the file's clock.
    """
    codec, header = stream.codec_context.name, stream.codec_context.extradata or b""
    shown = sorted(p.pts for p in packets if p.pts is not None and not p.is_discard)
    if codec not in RESTARTS or (codec == "h264" and header[:1] != b"\x01") or not shown:
        return packets
    if any(p.pts is None for p in packets):
        return packets
    ticks = [t / float(stream.time_base) for t in times]
    wanted = {shown[max(bisect_right(shown, t) - 1, 0)] for t in ticks}
    if codec != "h264":
        return [packets[k] for k in _kept(packets, wanted, [p.is_keyframe for p in packets])]
    size = (header[4] & 3) + 1  # bytes of a NAL unit's length field (ISO 14496-15, avcC)
    kept = _kept(packets, wanted, [p.is_keyframe and slice_head(bytes(p), size) & 31 == 5 for p in packets])
    return [packets[k] for k in kept if packets[k].pts in wanted or referred_to(bytes(packets[k]), size)]


def _kept(packets: list[Any], wanted: set[int], restart: list[bool]) -> list[int]:
    """Indices of the packets from each key picture to the last wanted one that is decoded from it."""
    ends: dict[int, int] = {}
    begin = 0
    for k, packet in enumerate(packets):
        begin = k if restart[k] else begin
        if packet.pts in wanted:
            ends[begin] = k
    return [k for begin, end in ends.items() for k in range(begin, end + 1)]


def slice_head(data: bytes, length_bytes: int) -> int:
    """Header byte of the first slice of an AVCC packet; 0 if there is none."""
    at = 0
    while at + length_bytes < len(data):
        head = data[at + length_bytes]
        if head & 31 in (1, 5):  # a slice of a picture; 5: of an IDR picture
            return head
        at += length_bytes + int.from_bytes(data[at : at + length_bytes], "big")
    return 0


def referred_to(data: bytes, length_bytes: int) -> bool:
    """Whether other pictures may refer to the picture of an AVCC packet: nal_ref_idc of its first slice is not 0."""
    head = slice_head(data, length_bytes)
    return head == 0 or bool(head & 0x60)
