from __future__ import annotations

import pytest
import torch

from hero_lightning.data.types import Media, Raw, Sample
from hero_lightning.errors import MediaError
from hero_lightning.media.types import Frames
from hero_lightning.streams import read
from hero_lightning.streams.read import cropped, read_clip
from hero_lightning.streams.source import Resolution
from tests.media_helpers import write_sound
from tests.streams.conftest import make


def realtime(streams):
    return dict.fromkeys(streams, Resolution("realtime"))


@pytest.fixture
def opened(monkeypatch):
    """Paths that ClipReader was asked to open by the reader, and read calls."""
    calls = {"open": [], "read": []}

    class Counting(read.ClipReader):
        def __init__(self, media):
            calls["open"].append(media.path.name)
            super().__init__(media)

        def read(self, *args, **options):
            calls["read"].append(self.media.path.name)
            return super().read(*args, **options)

    monkeypatch.setattr(read, "ClipReader", Counting)
    return calls


def test_one_pass_serves_all_streams(streams, samples, opened):
    rows = read_clip(streams, realtime(streams), samples[5])
    assert opened == {"open": ["c5.mp4"], "read": ["c5.mp4"]}
    assert all(isinstance(row, Raw) for row in rows.values())
    steps = {name: len(row.inputs["x"]) for name, row in rows.items()}
    assert (steps["frame"], steps["face"], steps["motion"], steps["au"]) == (4, 3, 10, 20)
    assert 44 <= steps["audio"] <= 46  # 2.3 s, and what the codec adds at the end
    assert rows["audio"].measures["pitch_hz"] == pytest.approx(320, abs=5)
    assert "movement" in rows["motion"].measures
    assert rows["au"].measures["AU12"] == pytest.approx(2.5)
    assert rows["frame"].measures == {}


def test_sound_of_its_own_file(streams, samples, opened, tmp_path):
    own = Sample("x", "train", video=samples[0].video, audio=Media(write_sound(tmp_path / "x.wav")))
    some = {n: streams[n] for n in ("frame", "audio")}
    rows = read_clip(some, realtime(some), own)
    assert sorted(opened["open"]) == ["c0.mp4", "x.wav"]
    assert len(rows["audio"].inputs["x"]) == 19  # 1 s, not the 0.8 s of the film


def test_text_and_tables_open_no_clip(streams, samples, opened):
    some = {n: streams[n] for n in ("au", "text")}
    read_clip(some, realtime(some), samples[0])
    assert opened == {"open": [], "read": []}


def test_absent_and_broken_streams_have_no_row(streams, samples):
    found = realtime(streams) | {"face": Resolution("absent"), "au": Resolution("broken")}
    rows = read_clip(streams, found, samples[0])
    assert list(rows) == list(streams)
    assert rows["face"] is rows["au"] is None


def test_face_is_cut_out_of_the_picture():
    pixels = torch.arange(4 * 8).view(1, 4, 8, 1).expand(1, 4, 8, 3).byte()
    frames = Frames(pixels, torch.zeros(1))
    assert cropped(frames, (0.25, 0.5, 0.75, 1.0)).pixels[0, :, :, 0].tolist() == [[18, 19, 20, 21], [26, 27, 28, 29]]
    assert cropped(frames, (0.99, 0.99, 0.99, 0.99)).pixels.shape == (1, 1, 1, 3)
    assert cropped(frames, (-0.5, -0.5, 1.5, 1.5)).pixels.shape == (1, 4, 8, 3)


def test_context_turns_reach_the_text(samples):
    lengths = []
    for turns in (0, 1, 2):
        stream = {"text": make("text", context_turns=turns)}
        lengths.append(len(read_clip(stream, realtime(stream), samples[2])["text"].inputs["x"]))
    # "so happy to see you" three times; "<speaker> well ?" and own speaker; "<speaker> hello there"
    assert lengths == [15, 15 + 3 + 1, 15 + 3 + 1 + 3]


def test_a_clip_without_media_is_named(streams):
    some = {"audio": streams["audio"]}
    with pytest.raises(MediaError, match="no media file"):
        read_clip(some, realtime(some), Sample("lonely", "train"))
