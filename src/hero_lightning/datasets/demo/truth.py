"""Draws the ground truth of the demo dataset: emotion, speaker, informative channels, noise, gaps and conflicts.

Data flow: seed, number of clips -> draw -> [Clip] -> pictures, voice, action units and texts.

Times are seconds. A channel is a way to show an emotion; CARRIERS lists the modalities that observe it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from hero_lightning.datasets.demo.traits import EMOTIONS, TRAITS

CARRIERS = {c: (c,) for c in ("frame", "expression", "motion", "audio", "text")} | {"expression": ("face", "au")}
"""Channel -> modalities that observe it; face and au observe the same expression."""
NOISE_SOURCE = {"frame": "picture", "face": "picture", "motion": "picture", "audio": "sound", "au": "au"}
"""Modality -> the noise that affects it; text has none."""
LEVELS, LEVEL_SHARES = (0.0, 0.33, 0.67, 1.0), (0.45, 0.25, 0.18, 0.12)
"""Noise levels and how often each is drawn; at 1.0 the modality can hardly be recognised."""
MISSING = {"face": 0.06, "audio": 0.06, "au": 0.08, "text": 0.06}
"""Share of clips without a face box, sound track, AU files, transcript."""
CONFLICT, CONFLICT_SPEAKS = 0.21, 0.6
"""Share of readable clips with the sound of another utterance (0.15 of all); share of those that sound emotional."""
SPLIT_SHARES = {"train": 0.64, "val": 0.11, "test": 0.25}
SPEAKERS = {"train": range(1, 25), "val": range(25, 31), "test": range(31, 43)}
"""Splits share no speaker."""
RATES = ((10, 1), (12, 1), (25, 2))
"""Pictures per second, as fractions."""


@dataclass
class Clip:
    """One clip's ground truth.

    Attributes:
        number: place in the dataset; part of the seed of everything drawn for the clip.
        id, split, speaker, dialogue, turn, text: see Sample.
        emotion, intensity, valence: its labels (intensity 0.8..1 scales what is shown).
        noise: level 0..1 of picture, sound and au.
        missing: modalities that are absent.
        conflict: the sound belongs to another utterance.
        seconds, rate: length, and pictures per second as a fraction.
        syllables: (start, end) of the syllables that hands and mouth follow.
        voiced: (start, end) of the voice's syllables; different only in a conflict.
        peak: time of the strongest expression.
        informative: channels that show the emotion.
        shows: channel -> the emotion that can be seen, heard or read in it.
    """

    number: int
    id: str
    split: str
    speaker: int
    dialogue: str
    turn: int
    emotion: str
    intensity: float
    valence: float
    noise: dict[str, float]
    missing: list[str]
    conflict: bool
    seconds: float
    rate: tuple[int, int]
    syllables: list[tuple[float, float]]
    voiced: list[tuple[float, float]]
    peak: float
    informative: list[str] = field(default_factory=list)
    shows: dict[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def times(self) -> np.ndarray:
        """[T] seconds of the pictures."""
        return np.arange(int(self.seconds * self.rate[0] / self.rate[1])) * (self.rate[1] / self.rate[0])

    def noise_of(self, modality: str) -> float:
        """Noise level of a modality."""
        return self.noise[NOISE_SOURCE[modality]] if modality in NOISE_SOURCE else 0.0

    def readable(self, channel: str) -> bool:
        """Whether some modality of the channel is present and not drowned in noise."""
        return any(s not in self.missing and self.noise_of(s) < 1 for s in CARRIERS[channel])

    def profile(self, time: np.ndarray) -> np.ndarray:
        """[T] strength of the expression, 0.45 to 1 of the intensity."""
        return self.intensity * (0.45 + 0.55 * np.exp(-(((time - self.peak) / 0.5) ** 2)))

    def beats(self, time: np.ndarray) -> np.ndarray:
        """[T] 0..1, one short pulse per syllable."""
        start = np.array([s for s, _ in self.syllables])
        return np.exp(-(((time[:, None] - start - 0.06) / 0.07) ** 2)).max(axis=1, initial=0.0)


def draw(seed: int, clips: int) -> list[Clip]:
    """The clips of all splits; a function of seed and number."""
    rng = np.random.default_rng([seed, clips])
    counts = {s: round(clips * share) for s, share in SPLIT_SHARES.items()}
    counts["test"] = clips - counts["train"] - counts["val"]
    out: list[Clip] = []
    for split, count in counts.items():
        out += _assign(rng, _split(rng, split, count, len(out)))
    return out


def _split(rng: np.random.Generator, split: str, count: int, first: int) -> list[Clip]:
    """Dialogues of two speakers each, with equally many clips per class."""
    emotions = rng.permutation([EMOTIONS[k % len(EMOTIONS)] for k in range(count)])
    out: list[Clip] = []
    dialogue = 0
    while len(out) < count:
        pair = rng.choice(list(SPEAKERS[split]), size=2, replace=False)
        for turn in range(min(int(rng.integers(4, 9)), count - len(out))):
            name, emotion = f"{split}_d{dialogue:03d}", str(emotions[len(out)])
            out.append(_clip(rng, first + len(out), split, int(pair[turn % 2]), name, turn, emotion))
        dialogue += 1
    return out


def _clip(
    rng: np.random.Generator, number: int, split: str, speaker: int, dialogue: str, turn: int, emotion: str
) -> Clip:
    noise = {name: float(rng.choice(LEVELS, p=LEVEL_SHARES)) for name in ("picture", "sound", "au")}
    missing = [name for name, share in MISSING.items() if rng.random() < share]
    can_clash = "audio" not in missing and max(noise["picture"], noise["sound"]) < 1
    conflict = bool(rng.random() < CONFLICT) and can_clash
    seconds, intensity = float(np.round(rng.uniform(2.0, 2.5), 2)), float(np.round(rng.uniform(0.8, 1.0), 2))
    syllables = _syllables(rng, seconds)
    valence = float(np.clip(TRAITS[emotion].valence * intensity + rng.normal(0, 0.05), -1, 1))
    rate = RATES[rng.integers(len(RATES))]
    voiced = _other_syllables(rng, seconds, syllables) if conflict else syllables
    peak = float(np.round(rng.uniform(0.25, 0.75) * seconds, 2))
    clip = Clip(
        number, f"{dialogue}_u{turn:02d}", split, speaker, dialogue, turn, emotion, intensity, round(valence, 3),
        noise, missing, conflict, seconds, rate, syllables, voiced, peak,
    )  # fmt: skip
    if not any(map(clip.readable, CARRIERS)):
        missing.remove("text")  # one channel must be readable
    return clip


def _syllables(rng: np.random.Generator, seconds: float) -> list[tuple[float, float]]:
    """Syllables at random times: short steps inside a phrase, pauses between phrases."""
    out, at = [], rng.uniform(0.1, 0.5)
    while at < seconds - 0.25:
        out.append((round(float(at), 3), round(float(at + rng.uniform(0.13, 0.19)), 3)))
        at += rng.uniform(0.23, 0.3) if rng.random() < 0.6 else rng.uniform(0.45, 0.75)
    return out


def _other_syllables(
    rng: np.random.Generator, seconds: float, own: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Syllables of another utterance: of 20 draws the one that correlates least with this one's."""

    def track(syllables: list[tuple[float, float]]) -> np.ndarray:
        grid = np.arange(0, seconds, 0.04)
        return np.sum([np.exp(-(((grid - s - 0.08) / 0.08) ** 2)) for s, _ in syllables], axis=0)

    drawn = [_syllables(rng, seconds) for _ in range(20)]
    return min(drawn, key=lambda other: np.corrcoef(track(own), track(other))[0, 1])


def _assign(rng: np.random.Generator, clips: list[Clip]) -> list[Clip]:
    """Decides which channels show each clip's emotion: one or two, all channels equally often.

    Sets come from a deck (each single twice, each pair once), so that noise and gaps are independent of the emotion.
    Clips with the fewest choices draw first, each the first set that fits: all its channels are present, one of them is
    readable, and the sound is not among them in a conflict.
    """
    emotional = [c for c in clips if c.emotion != "neutral"]
    cards: list[tuple[str, ...]] = [*((c,) for _ in range(2) for c in CARRIERS), *combinations(CARRIERS, 2)]
    deck: list[tuple[str, ...]] = []
    while len(deck) < len(emotional):
        deck += [cards[k] for k in rng.permutation(len(cards))]
    del deck[len(emotional) :]
    for clip in sorted(emotional, key=lambda c: (not c.conflict, sum(map(c.readable, CARRIERS)))):
        readable = {c for c in CARRIERS if clip.readable(c)}
        absent = {c for c, carried in CARRIERS.items() if clip.missing and set(carried) <= set(clip.missing)}
        absent |= {"audio"} if clip.conflict else set()
        fitting = (card for card in deck if readable.intersection(card) and not absent.intersection(card))
        card = next(fitting, None)
        if card is not None:
            deck.remove(card)
        card = card or (min(readable - absent),)  # the deck is nearly dealt
        clip.informative = [c for c in CARRIERS if c in card]
    for clip in clips:
        clip.shows = {c: clip.emotion if c in clip.informative else "neutral" for c in CARRIERS}
        if clip.conflict and rng.random() < CONFLICT_SPEAKS:
            clip.shows["audio"] = str(rng.choice([e for e in EMOTIONS[1:] if e != clip.emotion]))
    return clips
