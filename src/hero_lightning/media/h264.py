"""Leaves out what an H.264 decoder need not see: a fifth of a usual file, with bit-identical pictures for the rest.

Data flow: packets of one pass + wanted times -> needed -> packets worth decoding.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any


def needed(packets: list[Any], stream: Any, times: Sequence[float]) -> list[Any]:
    """Drops packets of pictures that are shown at no wanted time and that no other picture refers to.

    Args:
        packets: of one video stream, in decoding order. Anything but H.264 in mp4, mov or mkv is returned as it is.
        stream: the video stream.
        times: wanted times in seconds on the file's clock.
    """
    header = stream.codec_context.extradata or b""
    shown = sorted(p.pts for p in packets if p.pts is not None)
    if stream.codec_context.name != "h264" or header[:1] != b"\x01" or not shown or len(shown) < len(packets):
        return packets
    length_bytes = (header[4] & 3) + 1  # of a NAL unit's length field (ISO 14496-15, avcC)
    ticks = [t / float(stream.time_base) for t in times]
    wanted = {shown[max(bisect_right(shown, t) - 1, 0)] for t in ticks}
    return [p for p in packets if p.pts in wanted or referred_to(bytes(p), length_bytes)]


def referred_to(data: bytes, length_bytes: int) -> bool:
    """Whether other pictures may refer to an AVCC packet's one: nal_ref_idc of its first slice is not 0."""
    at = 0
    while at + length_bytes < len(data):
        head = data[at + length_bytes]
        if head & 31 in (1, 5):  # a slice of a picture
            return bool(head & 0x60)
        at += length_bytes + int.from_bytes(data[at : at + length_bytes], "big")
    return True
