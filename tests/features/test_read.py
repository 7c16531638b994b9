from __future__ import annotations

import os
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from hero_lightning.data.availability import Entry
from hero_lightning.data.collate import ItemDataset
from hero_lightning.errors import ConfigError, MediaError
from hero_lightning.features import read
from hero_lightning.features.extraction import fill
from hero_lightning.features.fingerprint import SourceFingerprint
from hero_lightning.features.read import NO_FACE, read_clip
from hero_lightning.features.source import Availability
from hero_lightning.media.action_units import read_au_table
from hero_lightning.media.face import FaceCropper, YuNet
from hero_lightning.media.frame_samplers import EmotionPeak
from hero_lightning.media.types import Frames
from hero_lightning.types import EncoderInput, Media, Sample
from tests.features.conftest import make
from tests.media_helpers import numbered_picture, write_clip, write_sound


def realtime(modalities):
    return dict.fromkeys(modalities, Availability("realtime"))


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


def test_one_pass_serves_all_modalities(modalities, samples, opened):
    rows = read_clip(modalities, realtime(modalities), samples[5])
    assert opened == {"open": ["c5.mp4"], "read": ["c5.mp4"]}
    assert all(isinstance(row, EncoderInput) for row in rows.values())
    steps = {name: len(row.inputs["x"]) for name, row in rows.items()}
    assert (steps["frame"], steps["face"], steps["motion"], steps["au"]) == (4, 3, 10, 20)
    assert 44 <= steps["audio"] <= 46  # 2.3 s, and what the codec adds at the end
    assert rows["audio"].measures["pitch_hz"] == pytest.approx(320, abs=5)
    assert "movement" in rows["motion"].measures
    assert rows["au"].measures["AU12"] == pytest.approx(2.5)
    assert rows["frame"].measures == {}


def test_sound_of_its_own_file(modalities, samples, opened, tmp_path):
    own = Sample("x", "train", video=samples[0].video, audio=Media(write_sound(tmp_path / "x.wav")))
    some = {n: modalities[n] for n in ("frame", "audio")}
    rows = read_clip(some, realtime(some), own)
    assert sorted(opened["open"]) == ["c0.mp4", "x.wav"]
    assert len(rows["audio"].inputs["x"]) == 19  # 1 s, not the 0.8 s of the film


def test_text_and_tables_open_no_clip(modalities, samples, opened):
    some = {n: modalities[n] for n in ("au", "text")}
    read_clip(some, realtime(some), samples[0])
    assert opened == {"open": [], "read": []}


def test_absent_and_broken_modalities_have_no_row(modalities, samples):
    found = realtime(modalities) | {"face": Availability("absent"), "au": Availability("broken")}
    rows = read_clip(modalities, found, samples[0])
    assert list(rows) == list(modalities)
    assert rows["face"] is rows["au"] is None


class Sees(FaceCropper):
    """Finds a face in the first picture of every other clip."""

    detects = True

    def _detected(self, frames: Frames, sample: Sample) -> Frames | None:
        return Frames(frames.pixels[:1, 8:24, 8:24], frames.time[:1]) if frames.pixels[0, 0, 0, 0] < 128 else None


def test_a_detector_serves_clips_without_a_box(samples, tmp_path):
    modality = make("face", detector=Sees())
    bare = replace(samples[4], boxes={})
    found = modality.media_availability(bare)
    assert (found.mode, found.reason) == ("realtime", "uniform")
    rows = read_clip({"face": modality}, {"face": found}, bare)
    assert len(rows["face"].inputs["x"]) == 1  # one picture of three shows a face
    assert make("face").media_availability(bare).mode == "absent"
    assert modality.identity() == make("face").identity()  # Sees has no options; a real one names itself


def test_a_detector_without_its_model_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match=r"no model file[\s\S]*modality\.face\.detector\.model=FILE"):
        make("face", detector=YuNet())
    assert make("face", "preextracted", detector=YuNet()).identity()["options"]["detector"] == "YuNet"


def test_no_face_is_no_picture(samples, tmp_path):
    white = write_clip(tmp_path / "white.mp4", pictures=[np.full((64, 96, 3), 250, np.uint8)] * 10)
    nobody = Sample("nobody", "train", video=Media(white))
    modalities = {"face": make("face", detector=Sees()), "audio": make("audio")}
    rows = read_clip(modalities, realtime(modalities), nobody)
    assert rows["face"] is None
    assert rows["audio"] is not None
    rows, failures = ItemDataset([nobody], [(0,)], modalities, {"nobody": realtime(modalities)}).read(nobody)
    assert rows["face"] is None
    assert failures == [Entry("nobody", "train", "face", "absent", NO_FACE)]
    for modality in modalities.values():
        modality.bind(tmp_path, "demo")
    done = fill(modalities, [nobody])
    assert (done.absent["face"], done.written["audio"], done.failed["face"]) == (1, 1, {})


def test_face_crops_from_a_file(samples, tmp_path):
    np.save(tmp_path / "c.npy", np.full((8, 32, 32, 3), (10, 20, 200), np.uint8))
    given = replace(samples[1], files={"face": tmp_path / "c.npy"})
    modalities = {n: make(n) for n in ("face", "audio")}
    assert modalities["face"].media_availability(given).mode == "realtime"
    rows = read_clip(modalities, realtime(modalities), given)
    assert len(rows["face"].inputs["x"]) == 3
    empty = replace(given, files={"face": tmp_path / "none.npy"})
    np.save(tmp_path / "none.npy", np.zeros(0))
    assert modalities["face"].media_availability(empty) == Availability("absent", "no picture")
    gone = replace(given, files={"face": tmp_path / "gone.npy"})
    assert modalities["face"].media_availability(gone).mode == "broken"


def test_the_stamp_follows_the_crops(samples, tmp_path):
    (tmp_path / "crops").mkdir()
    given = replace(samples[1], files={"face": tmp_path / "crops"})
    before = SourceFingerprint("face")(given)
    assert before != SourceFingerprint("face")(samples[1])
    (tmp_path / "crops" / "f1.bmp").write_bytes(b"1")
    os.utime(tmp_path / "crops", (1, 1))
    assert SourceFingerprint("face")(given) != before
    assert SourceFingerprint("frame")(given) == SourceFingerprint("frame")(samples[1])


def test_peaks_found_later_make_features_anew_only_where_a_sampler_follows_them(samples, tmp_path):
    modalities = [make("frame"), make("frame", sampler=EmotionPeak(4))]
    for modality in modalities:
        modality.bind(tmp_path, "demo")
    bare = replace(samples[0], files={})
    before = [s.store.fingerprint(bare) for s in modalities]
    folder = tmp_path / "demo" / "au_info"
    folder.mkdir(parents=True)
    (folder / "c0.json").write_text('{"au_info": {"peak_frames": [{"peak_index": 3}]}}')
    assert [s.store.fingerprint(bare) == b for s, b in zip(modalities, before, strict=True)] == [True, False]
    assert modalities[1].media_availability(bare) == Availability("realtime", "peak")


def test_a_ready_made_peak_picture_is_looked_at(samples, opened, tmp_path):
    still = tmp_path / "c0_peak_frame.png"
    av.VideoFrame.from_ndarray(numbered_picture(200), format="rgb24").save(str(still))
    modality = make("frame", sampler=EmotionPeak(1))
    given = replace(samples[0], files={"peak_frame": still})
    both = [read_clip({"frame": modality}, realtime({"frame": 0}), s)["frame"].inputs["x"] for s in (given, samples[0])]
    assert opened["read"] == ["c0_peak_frame.png", "c0.mp4"]
    assert both[0].shape == both[1].shape
    assert not torch.equal(*both)


def test_every_modality_has_its_own_size(samples):
    def inputs(**sizes):
        modalities = {n: make(n, size=size) for n, size in sizes.items()}
        return read_clip(modalities, realtime(modalities), samples[0])["frame"].inputs["x"]

    assert torch.equal(inputs(frame=16), inputs(frame=16, motion=None))  # whoever else looks changes nothing


def test_a_table_without_a_clock_asks_the_video(samples, monkeypatch):
    asked = []
    monkeypatch.setattr(read, "read_au_table", lambda path, fps: asked.append(fps()) or read_au_table(path))
    read_clip({"au": make("au")}, realtime({"au": 0}), samples[0])
    assert asked == [10.0]


def test_context_turns_reach_the_text(samples):
    lengths = []
    for turns in (0, 1, 2):
        modality = {"text": make("text", context_turns=turns)}
        lengths.append(len(read_clip(modality, realtime(modality), samples[2])["text"].inputs["x"]))
    # "so happy to see you" three times; "<speaker> well ?" and own speaker; "<speaker> hello there"
    assert lengths == [15, 15 + 3 + 1, 15 + 3 + 1 + 3]


def test_a_clip_without_media_is_named(modalities):
    some = {"audio": modalities["audio"]}
    with pytest.raises(MediaError, match="no media file"):
        read_clip(some, realtime(some), Sample("lonely", "train"))
