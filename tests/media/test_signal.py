"""Measures of signals whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hero_lightning.media.signal import au_measures, audio_measures, motion_measures
from hero_lightning.media.types import ActionUnits, Frames, Waveform

RATE = 16_000


def sine(hertz: np.ndarray | float, seconds: float = 2.0, level: float = 0.3) -> torch.Tensor:
    phase = np.cumsum(np.broadcast_to(hertz, round(seconds * RATE))) / RATE
    return torch.from_numpy((level * np.sin(2 * np.pi * phase)).astype(np.float32))


@pytest.mark.parametrize("hertz", [70.0, 123.4, 220.0, 333.0, 450.0])
@pytest.mark.parametrize("buzz", [False, True])
def test_pitch_of_a_known_tone(hertz: float, buzz: bool) -> None:
    x = sine(hertz)
    if buzz:
        x = sum((sine(hertz * k, level=0.2 / k) for k in range(1, 8)), torch.zeros(2 * RATE))
    found = audio_measures(Waveform(x))
    assert found["pitch_hz"] == pytest.approx(hertz, rel=0.03)
    assert found["pitch_range_st"] < 0.5
    assert found["pause_share"] == 0.0


def test_pitch_range_in_semitones() -> None:
    glide = 150 * 2 ** np.linspace(0, 1, 2 * RATE)  # an octave
    assert audio_measures(Waveform(sine(glide)))["pitch_range_st"] == pytest.approx(0.8 * 12, rel=0.06)


def test_level_syllables_and_pauses() -> None:
    x = sine(200.0, 3.0, level=0.5)
    gate = torch.zeros(3 * RATE)
    for start in (0.2, 0.6, 1.0, 1.8, 2.2, 2.6):
        gate[int(start * RATE) : int((start + 0.2) * RATE)] = torch.hann_window(int(0.2 * RATE))
    found = audio_measures(Waveform(x * gate))
    assert found["syllables_per_s"] == pytest.approx(2.0)
    assert found["pause_share"] == pytest.approx(1 - 6 * 0.2 / 3, abs=0.08)
    assert audio_measures(Waveform(x))["energy_db"] == pytest.approx(20 * np.log10(0.5 / 2**0.5), abs=0.1)
    louder = audio_measures(Waveform(x * gate))["energy_db"] - audio_measures(Waveform(x * gate / 10))["energy_db"]
    assert louder == pytest.approx(20.0, abs=0.1)


def test_nothing_voiced_has_no_pitch() -> None:
    for x in (torch.zeros(RATE), torch.zeros(5), torch.randn(RATE, generator=torch.Generator().manual_seed(0)) * 0.1):
        found = audio_measures(Waveform(x))
        assert "pitch_hz" not in found
        assert all(np.isfinite(v) for v in found.values())
    assert audio_measures(Waveform(torch.zeros(RATE)))["pause_share"] == 1.0


def test_movement_is_the_change_between_pictures() -> None:
    pixels = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    pixels[2:] = 51  # a fifth of full brightness, all at once
    found = motion_measures(Frames(pixels, torch.arange(4) / 10))
    assert found == {"movement": pytest.approx(20 / 3), "movement_max": pytest.approx(20.0)}
    assert motion_measures(Frames(pixels[:1], torch.zeros(1))) == {}


def test_action_units_by_name() -> None:
    table = ActionUnits(
        torch.tensor([[1.0, 0.0, 1.0], [3.0, 0.5, 0.0]]), torch.tensor([0.0, 0.1]), ("AU12_r", "AU04_r", "AU12_c")
    )
    assert au_measures(table) == {"AU12": 2.0, "AU12_max": 3.0, "AU04": 0.25, "AU04_max": 0.5}
