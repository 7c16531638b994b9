"""Packets left out change no picture."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.media import clip as clip_module
from hero_lightning.media.clip import ClipReader
from hero_lightning.media.h264 import needed, referred_to
from hero_lightning.types import Media
from tests.media_helpers import write_clip


def test_fewer_packets_same_pictures(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (64, 200, 3), dtype=np.uint8)
    pictures = [np.ascontiguousarray(scene[:, k : k + 96]) for k in range(75)]
    path = write_clip(tmp_path / "clip.mp4", 3.0, 25, pictures=pictures)
    times, kept = [0.0, 0.52, 1.32, 2.0, 2.96], []

    def counted(packets, stream, wanted):
        out = needed(packets, stream, wanted)
        kept.append((len(packets), len(out)))
        return out

    monkeypatch.setattr(clip_module, "needed", counted)
    fast = ClipReader(Media(path)).read({"frame": times})[0]["frame"].pixels
    monkeypatch.setattr(clip_module, "needed", lambda packets, stream, wanted: packets)
    full = ClipReader(Media(path)).read({"frame": times})[0]["frame"].pixels
    assert torch.equal(fast, full)
    assert kept[0][1] < 0.8 * kept[0][0]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(0, 9.9), min_size=1, max_size=5))
def test_groups_without_a_wanted_picture_are_not_decoded(long: tuple[Path, torch.Tensor], times: list[float]) -> None:
    path, full = long
    frames = ClipReader(Media(path)).read({"frame": times})[0]["frame"]
    assert torch.equal(frames.pixels, full[[int((t + 2e-3) * 25) for t in times]])


def test_skipping_costs_what_seeking_costs(long: tuple[Path, torch.Tensor], monkeypatch) -> None:
    kept = []

    def counted(packets, stream, wanted):
        kept.append(needed(packets, stream, wanted))
        return kept[-1]

    monkeypatch.setattr(clip_module, "needed", counted)
    ClipReader(Media(long[0])).read({"frame": [0.0, 9.0]})
    assert len(kept[0]) <= 1 + 25  # of 226: the first picture, and one group up to 9.0 s


@pytest.fixture(scope="module", params=["mp4", "mkv"])
def long(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A clip of 10 s with a key picture every second, and all its pictures, fully decoded."""
    path = tmp_path_factory.mktemp("long") / f"long.{request.param}"
    write_clip(path, 10.0, 25, options={"g": "25", "sc_threshold": "0"})
    with av.open(str(path)) as container:
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return path, torch.from_numpy(np.stack(pictures))


def test_the_first_slice_tells() -> None:
    def unit(head: int) -> bytes:
        return (3).to_bytes(4, "big") + bytes([head, 0, 0])

    assert referred_to(unit(0x65), 4)  # IDR slice, nal_ref_idc 3
    assert not referred_to(unit(0x01), 4)  # slice, nal_ref_idc 0
    assert not referred_to(unit(0x06) + unit(0x01), 4)  # after SEI, whose own 0 means nothing
    assert referred_to(unit(0x06), 4)  # no slice: keep
    assert referred_to(b"", 4)


def test_other_codecs_are_left_alone(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", 1.0, 10, codec="mpeg4")
    assert len(ClipReader(Media(path)).read({"frame": [0.0, 0.9]})[0]["frame"].pixels) == 2
