"""The demo dataset's pictures, voice and action units carry what the truth says, and noise takes it away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hero_lightning.datasets.demo.generate import action_units
from hero_lightning.datasets.demo.picture import SIZE, film
from hero_lightning.datasets.demo.traits import EMOTIONS, TRAITS
from hero_lightning.datasets.demo.truth import CARRIERS, Clip, draw
from hero_lightning.datasets.demo.voice import base_pitch, speak
from hero_lightning.media.signal import audio_measures
from hero_lightning.media.types import Waveform


@pytest.fixture(scope="module")
def plain() -> Clip:
    clip = draw(0, 24)[0]
    return replace(clip, noise=dict.fromkeys(clip.noise, 0.0), shows=dict.fromkeys(CARRIERS, "neutral"), missing=[])


def showing(clip: Clip, channel: str, emotion: str) -> Clip:
    return replace(clip, shows={**clip.shows, channel: emotion})


def pictures(clip: Clip) -> np.ndarray:
    return film(clip, 0)[0].astype(float)


def test_each_cue_stays_in_its_place(plain: Clip) -> None:
    base, (x0, y0, x1, y1) = pictures(plain), film(plain, 0)[1]
    face = np.zeros((SIZE, SIZE), bool)
    face[int(y0 * SIZE) : int(y1 * SIZE), int(x0 * SIZE) : int(x1 * SIZE)] = True
    for emotion in EMOTIONS[1:]:
        smiling = np.abs(pictures(showing(plain, "expression", emotion)) - base).max(axis=(0, 3)) > 20
        assert smiling[face].sum() > 30
        assert not smiling[~face].any()
        moving = np.abs(pictures(showing(plain, "motion", emotion)) - base).max(axis=(0, 3)) > 20
        assert moving.sum() > 60
        assert not moving[: SIZE // 2].any()
    for emotion in EMOTIONS[1:]:
        scene = np.abs(pictures(showing(plain, "frame", emotion)).mean(axis=0) - base.mean(axis=0)).max(axis=2) > 20
        assert scene.sum() > 100


def test_hands_move_on_the_syllables(plain: Clip) -> None:
    change = np.abs(np.diff(pictures(plain)[:, SIZE // 2 :], axis=0)).mean(axis=(1, 2, 3))
    beat = np.abs(np.diff(plain.beats(plain.times)))
    assert np.corrcoef(change, beat)[0, 1] > 0.8


def test_noise_drowns_the_picture(plain: Clip) -> None:
    loud = replace(plain, noise={**plain.noise, "picture": 1.0})
    gain = [
        np.abs(pictures(showing(c, "expression", "surprise")) - pictures(c)).mean() / pictures(c).std()
        for c in (plain, loud)
    ]
    assert gain[1] < gain[0] / 10


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_the_voice_has_its_manner(plain: Clip, emotion: str) -> None:
    found = audio_measures(Waveform(torch.from_numpy(speak(showing(plain, "audio", emotion), 0))))
    calm = audio_measures(Waveform(torch.from_numpy(speak(plain, 0))))
    manner = TRAITS[emotion].voice
    assert found["energy_db"] - calm["energy_db"] == pytest.approx(manner.level, abs=3.0)
    assert found["pitch_hz"] == pytest.approx(base_pitch(plain.speaker) * manner.pitch, rel=0.12)
    if emotion in ("happy", "surprise"):
        assert found["pitch_range_st"] > calm["pitch_range_st"] + 2


def test_the_voice_follows_its_own_syllables(plain: Clip) -> None:
    sound = speak(plain, 0)
    level = lambda start, end: np.abs(sound[int(start * 16_000) : int(end * 16_000)]).mean()  # noqa: E731
    inside = np.mean([level(start, end) for start, end in plain.voiced])
    outside = np.mean([level(a[1] + 0.01, b[0]) for a, b in zip(plain.voiced, plain.voiced[1:], strict=False)])
    assert inside > 10 * outside
    hissing = speak(replace(plain, noise={**plain.noise, "sound": 1.0}), 0)
    assert np.abs(hissing).mean() > 3 * inside


def test_action_units_peak_with_the_face(plain: Clip) -> None:
    table = action_units(showing(plain, "expression", "happy"), 0)
    smile = table.x[:, table.names.index("AU12_r")]
    assert abs(float(table.time[smile.argmax()]) - plain.peak) < 0.25
    assert smile.max() > 1.5
    assert table.x[:, table.names.index("AU12_c")].max() == 1
    assert action_units(plain, 0).x[:, table.names.index("AU12_r")].max() < 0.6
    assert torch.equal(action_units(plain, 0).x, action_units(plain, 0).x)
