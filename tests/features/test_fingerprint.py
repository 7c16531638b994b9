from __future__ import annotations

from dataclasses import replace

import pytest

from hero_lightning.features.fingerprint import SourceFingerprint
from hero_lightning.types import Media, Sample, Turn


@pytest.fixture
def sample(tmp_path) -> Sample:
    for name in ("a.mp4", "a.wav", "a.csv", "a.json"):
        (tmp_path / name).write_bytes(name.encode() * 3000)
    return Sample(
        "a",
        "train",
        video=Media(tmp_path / "a.mp4", (0.0, 2.0)),
        files={"au": tmp_path / "a.csv", "au_info": tmp_path / "a.json"},
        boxes={"face": (0, 0, 1, 1)},
        text="hello",
        speaker="Ann",
        turns=(Turn("Bob", "oh"), Turn("Eve", "well")),
    )


MODALITIES = ("frame", "face", "motion", "audio", "au", "text")


def moved(sample: Sample, modality: str, change) -> bool:
    stamp = SourceFingerprint(modality, context_turns=1)
    before = stamp(sample)
    assert before is not None
    return stamp(change(sample)) != before


def test_each_modality_sees_what_it_reads_and_nothing_else(sample, tmp_path):
    def append(name):
        def change(s):
            with (tmp_path / name).open("ab") as file:
                file.write(b"x")
            return s

        return change

    video = sample.video
    seen = {
        "frame face motion audio": lambda s: replace(s, video=replace(video, span=(0.0, 1.5))),
        "frame face motion audio ": lambda s: replace(s, video=replace(video, crop=(0, 0, 0.5, 1))),
        " frame face motion audio": append("a.mp4"),
        "audio": lambda s: replace(s, audio=Media(tmp_path / "a.wav")),
        "frame face motion": append("a.json"),
        "face": lambda s: replace(s, boxes={"face": (0, 0, 0.5, 1)}),
        "au": append("a.csv"),
        "text": lambda s: replace(s, text="hallo"),
        "text ": lambda s: replace(s, turns=(s.turns[0], Turn("Eve", "why"))),
        " text": lambda s: replace(s, speaker="Zoe"),
        "": lambda s: replace(s, id="b", split="test", labels={"emotion": "sad"}, turns=(Turn("X", "y"), s.turns[1])),
    }
    for names, change in seen.items():
        assert [n for n in MODALITIES if moved(sample, n, change)] == names.split(), names


def test_a_change_in_place_is_seen(sample, tmp_path):
    def flip(s):
        data = bytearray((tmp_path / "a.csv").read_bytes())
        data[-10] ^= 1
        (tmp_path / "a.csv").write_bytes(data)
        return s

    assert moved(sample, "au", flip)


def test_what_is_not_at_hand_cannot_be_compared(sample, tmp_path):
    gone = replace(sample, video=Media(tmp_path / "gone.mp4"), files={})
    for other in (gone, replace(gone, video=None)):
        assert [SourceFingerprint(n)(other) for n in MODALITIES[:5]] == [None] * 5


def test_what_a_clip_lacks_is_a_fact(sample):
    assert moved(sample, "au", lambda s: replace(s, files={}))
    assert moved(sample, "text", lambda s: replace(s, text=None))
    assert moved(sample, "face", lambda s: replace(s, boxes={}))


def test_without_context_neither_turns_nor_speaker_count(sample):
    assert SourceFingerprint("text")(replace(sample, turns=(), speaker=None)) == SourceFingerprint("text")(sample)
