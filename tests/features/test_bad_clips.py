"""Extraction of clips that would block or kill it, that are swapped under it, and by encoders that fail on all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hero_lightning.errors import FeatureError
from hero_lightning.features import extraction
from hero_lightning.features.extraction import fill
from hero_lightning.types import Media, Sample
from tests.features.conftest import make
from tests.features.test_extraction import bound
from tests.media.test_clip_limits import write_wav
from tests.tiny_encoders import TinyText


class Overflown(TinyText):
    """An encoder in a dtype that its numbers do not fit."""

    def forward(self, inputs):
        features = super().forward(inputs)
        return replace(features, x=features.x * float("nan"))


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_an_encoder_that_gives_nan_for_every_clip_stops(tmp_path, samples, batch_size):
    modalities = bound(tmp_path, text=make("text", encoder=Overflown))
    with pytest.raises(FeatureError, match=r"modality text fails on every clip[\s\S]*NaN or Inf[\s\S]*e\.g\. c"):
        fill(modalities, samples, batch_size=batch_size)
    assert not any(modalities["text"].store.fault(s) for s in samples)


def test_clips_that_would_block_or_kill_the_run_are_entered_in_the_ledger(tmp_path, samples):
    os.mkfifo(tmp_path / "pipe.mp4")
    write_wav(tmp_path / "slow.wav", 1, 20_000)
    paths = {"zero": "/dev/zero", "pipe": tmp_path / "pipe.mp4", "nul": "a\0b.mp4", "slow": tmp_path / "slow.wav"}
    paths |= {"long": tmp_path / ("a" * 300 + ".mp4")}
    bad = [Sample(id, "train", video=Media(Path(path))) for id, path in paths.items()]
    modalities = bound(tmp_path, frame=make("frame"), audio=make("audio"))
    summary = fill(modalities, [*samples[:2], *bad])
    assert summary.written == {"frame": 2, "audio": 2}
    assert set(summary.failed["audio"]) == set(paths)
    assert "device or pipe" in summary.failed["frame"]["zero"]
    assert "device or pipe" in summary.failed["frame"]["pipe"]
    assert "beyond limits.seconds=14400: 20000 s" in summary.failed["audio"]["slow"]


def test_a_clip_swapped_after_it_was_read_is_extracted_again(tmp_path, samples, monkeypatch):
    clip = tmp_path / "mine.mp4"
    clip.write_bytes(samples[0].video.path.read_bytes())
    one = [Sample("mine", "train", video=Media(clip))]
    modalities = bound(tmp_path, frame=make("frame"))
    real = extraction.read_clip

    def swapped(*args):
        rows = real(*args)
        clip.write_bytes(samples[1].video.path.read_bytes())
        return rows

    monkeypatch.setattr(extraction, "read_clip", swapped)
    fill(modalities, one)
    assert modalities["frame"].store.status(one[0]).reason == "extracted from another file or text"
    monkeypatch.setattr(extraction, "read_clip", real)
    assert fill(modalities, one).written == {"frame": 1}
    assert modalities["frame"].store.contains(one[0])
