"""What the demo dataset draws: balance, decidability, conflicts, noise that is independent of the emotion."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest

from hero_lightning.datasets.demo.traits import EMOTIONS, TRAITS
from hero_lightning.datasets.demo.truth import CARRIERS, LEVELS, Clip, draw
from hero_lightning.datasets.demo.words import describe, utterance


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return draw(0, 900)


def test_the_seed_decides(clips: list[Clip]) -> None:
    assert [asdict(c) for c in draw(0, 900)] == [asdict(c) for c in clips]
    assert draw(1, 900)[0] != clips[0]


def test_classes_and_channels_come_equally_often(clips: list[Clip]) -> None:
    assert Counter(c.split for c in clips) == {"train": 576, "val": 99, "test": 225}
    for split in ("train", "test"):
        members = [c for c in clips if c.split == split]
        emotions = Counter(c.emotion for c in members)
        assert max(emotions.values()) - min(emotions.values()) <= 1
        channels = Counter(name for c in members for name in c.informative)
        assert set(channels) == set(CARRIERS)
        assert max(channels.values()) / min(channels.values()) < 1.15
        assert {len(c.informative) for c in members if c.emotion != "neutral"} == {1, 2}


def test_every_label_can_be_found_out(clips: list[Clip]) -> None:
    for c in clips:
        assert any(map(c.readable, CARRIERS))
        if c.emotion != "neutral":
            assert any(map(c.readable, c.informative)), c.id
        for channel in CARRIERS:
            if channel not in c.informative and not (c.conflict and channel == "audio"):
                assert c.shows[channel] == "neutral"


def test_conflicts_mislead_by_ear_only(clips: list[Clip]) -> None:
    clashing = [c for c in clips if c.conflict]
    assert len(clashing) / len(clips) == pytest.approx(0.15, abs=0.04)
    for c in clashing:
        assert "audio" not in c.informative + c.missing
        assert c.shows["audio"] == "neutral" or c.shows["audio"] != c.emotion
        assert max(c.noise["picture"], c.noise["sound"]) < 1
    assert 0.4 < np.mean([c.shows["audio"] != "neutral" for c in clashing]) < 0.8
    assert any(c.emotion == "neutral" for c in clashing)


def test_hands_and_voice_keep_one_clock_unless_there_is_a_conflict(clips: list[Clip]) -> None:
    def agreement(c: Clip) -> float:
        grid = np.arange(0, c.seconds, 0.02)
        voice = sum(((grid >= start) & (grid < end)).astype(float) for start, end in c.voiced)
        return float(np.corrcoef(voice, c.beats(grid))[0, 1])

    matched = [agreement(c) for c in clips if not c.conflict]
    clashing = [agreement(c) for c in clips if c.conflict]
    assert np.quantile(matched, 0.01) > np.quantile(clashing, 0.99)
    assert len({c.syllables[0] for c in clips}) > 300  # random times: no clip has another's clock


def test_noise_and_gaps_say_nothing_of_the_emotion(clips: list[Clip]) -> None:
    for source in ("picture", "sound", "au"):
        found = Counter(c.noise[source] for c in clips)
        assert set(found) == set(LEVELS)
        assert found[0.0] > found[0.33] > found[1.0]
        means = [np.mean([c.noise[source] for c in clips if c.emotion == e]) for e in EMOTIONS]
        assert np.ptp(means) < 0.15
    gaps = [np.mean([len(c.missing) for c in clips if c.emotion == e]) for e in EMOTIONS]
    assert 0.1 < min(gaps) < max(gaps) < 0.45


def test_words_tell_what_the_text_shows(clips: list[Clip]) -> None:
    for c in clips[:200]:
        said = set(utterance(c, 0).split())
        found = {emotion for emotion, traits in TRAITS.items() if said & set(traits.words)}
        assert found == {c.shows["text"]}
        assert utterance(c, 0) == utterance(c, 0)


def test_descriptions_name_what_carries_the_signal(clips: list[Clip]) -> None:
    assert {m for carried in CARRIERS.values() for m in carried} == set(TRAITS["happy"].seen)
    quiet = next(c for c in clips if c.emotion == "neutral" and not c.conflict)
    assert describe(quiet)["rationale"].startswith("Nothing")
    by_voice = next(c for c in clips if c.informative == ["audio"] and c.noise["sound"] < 1 and not c.missing)
    assert f"The voice shows {by_voice.emotion}." in describe(by_voice)["rationale"]
    clash = next(c for c in clips if c.conflict and c.shows["audio"] != "neutral")
    assert f"sounds {clash.shows['audio']} but belongs to another utterance" in describe(clash)["rationale"]
    grainy = next(c for c in clips if c.noise["picture"] == 1)
    assert "too grainy" in describe(grainy)["frame"]
