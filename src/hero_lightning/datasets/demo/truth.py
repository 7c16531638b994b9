"""Draws the truth of the demo dataset: who says what with which emotion, which channels carry it, what disturbs them.

Data flow: seed, number of clips -> draw -> [Clip], from which pictures, voice, action units and words are made.

Times are seconds. A channel is a way an emotion can show; CARRIERS says which modalities see it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

EMOTIONS = ("neutral", "happy", "sad", "angry", "surprise", "fear")
VALENCE = {"neutral": 0.0, "happy": 0.8, "sad": -0.6, "angry": -0.75, "surprise": 0.3, "fear": -0.9}
"""Score of each emotion at full intensity, -1..1."""
CARRIERS = {
    "frame": ("frame",),
    "expression": ("face", "au"),
    "motion": ("motion",),
    "audio": ("audio",),
    "text": ("text",),
}
"""Channel -> modalities that see it; face and au show one expression, so both carry the emotion or neither does."""
LEVELS, LEVEL_SHARES = (0.0, 0.33, 0.67, 1.0), (0.45, 0.25, 0.18, 0.12)
"""Noise levels and how often each is drawn; at 1.0 the modality can hardly be read."""
MISSING = {"face": 0.06, "audio": 0.06, "au": 0.08, "text": 0.06}
"""How often a modality is missing: no face box, no sound track, no AU files, no transcript."""
CONFLICT, CONFLICT_SPEAKS = 0.21, 0.6
"""Share of readable clips whose sound is another utterance's (0.15 of all), and of those that sound emotional."""
SPLIT_SHARES = {"train": 0.64, "val": 0.11, "test": 0.25}
SPEAKERS = {"train": range(1, 25), "val": range(25, 31), "test": range(31, 43)}
"""Speakers of a split never speak in another."""
RATES = ((10, 1), (12, 1), (25, 2))
"""Pictures per second, as fractions."""


@dataclass
class Clip:
    """One clip's truth.

    Attributes:
        number: place in the dataset; seeds everything drawn for the clip.
        id, split, speaker, dialogue, turn: where it stands.
        emotion, intensity, valence: its labels (intensity 0.8..1 scales what is shown).
        noise: level 0..1 of picture, sound and au.
        missing: modalities that are absent.
        conflict: the sound belongs to another utterance.
        seconds, rate: length, and pictures per second as a fraction.
        syllables: (start, end) of the beats that hands and mouth keep.
        voiced: (start, end) of the voice's syllables; the same, except where there is a conflict.
        peak: when the expression is strongest.
        informative: channels that show the emotion.
        shows: channel -> the emotion that can be seen, heard or read in it.
        text: what is said.
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
        """Noise level of a modality; frame, face and motion share the picture's, text has none."""
        source = {"frame": "picture", "face": "picture", "motion": "picture", "audio": "sound", "au": "au"}
        return self.noise[source[modality]] if modality in source else 0.0

    def readable(self, channel: str) -> bool:
        """Whether some modality of the channel is there and not drowned in noise."""
        return any(s not in self.missing and self.noise_of(s) < 1 for s in CARRIERS[channel])

    def profile(self, time: np.ndarray) -> np.ndarray:
        """[T] how strong the expression is at each time, 0.45 to 1 at the peak."""
        return self.intensity * (0.45 + 0.55 * np.exp(-(((time - self.peak) / 0.5) ** 2)))

    def beats(self, time: np.ndarray) -> np.ndarray:
        """[T] 0..1, one short stroke for every syllable."""
        start = np.array([s for s, _ in self.syllables])
        return np.exp(-(((time[:, None] - start - 0.06) / 0.07) ** 2)).max(axis=1, initial=0.0)


def draw(seed: int, clips: int) -> list[Clip]:
    """The truth of a whole dataset (train, validation and test), the same for the same seed and number."""
    rng = np.random.default_rng([seed, clips])
    counts = {s: round(clips * share) for s, share in SPLIT_SHARES.items()}
    counts["test"] = clips - counts["train"] - counts["val"]
    out: list[Clip] = []
    for split, count in counts.items():
        members = _split(rng, split, count, len(out))
        _assign(rng, members)
        out += members
    return out


def _split(rng: np.random.Generator, split: str, count: int, first: int) -> list[Clip]:
    """Dialogues of two speakers each, with classes in equal numbers."""
    emotions = rng.permutation([EMOTIONS[k % len(EMOTIONS)] for k in range(count)])
    out: list[Clip] = []
    dialogue = 0
    while len(out) < count:
        pair = rng.choice(list(SPEAKERS[split]), size=2, replace=False)
        for turn in range(min(int(rng.integers(4, 9)), count - len(out))):
            number, name = first + len(out), f"{split}_d{dialogue:03d}"
            emotion = str(emotions[len(out)])
            out.append(_clip(rng, number, split, int(pair[turn % 2]), name, turn, emotion))
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
    valence = float(np.clip(VALENCE[emotion] * intensity + rng.normal(0, 0.05), -1, 1))
    clip = Clip(
        number=number,
        id=f"{dialogue}_u{turn:02d}",
        split=split,
        speaker=speaker,
        dialogue=dialogue,
        turn=turn,
        emotion=emotion,
        intensity=intensity,
        valence=round(valence, 3),
        noise=noise,
        missing=missing,
        conflict=conflict,
        seconds=seconds,
        rate=RATES[rng.integers(len(RATES))],
        syllables=syllables,
        voiced=_other_syllables(rng, seconds, syllables) if conflict else syllables,
        peak=float(np.round(rng.uniform(0.25, 0.75) * seconds, 2)),
    )
    if not any(map(clip.readable, CARRIERS)):
        missing.remove("text")  # something must be left to read
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
    """Syllables of another utterance: the one of 20 that falls least on this one's."""

    def track(syllables: list[tuple[float, float]]) -> np.ndarray:
        grid = np.arange(0, seconds, 0.04)
        return np.sum([np.exp(-(((grid - s - 0.08) / 0.08) ** 2)) for s, _ in syllables], axis=0)

    drawn = [_syllables(rng, seconds) for _ in range(20)]
    return min(drawn, key=lambda other: np.corrcoef(track(own), track(other))[0, 1])


def _assign(rng: np.random.Generator, clips: list[Clip]) -> None:
    """Says which channels show each clip's emotion: one or two, all channels equally often.

    Sets come from a deck (each single twice, each pair once), so noise and gaps stay independent of the emotion: the
    clips with the fewest choices draw first, each the first set it can show. A set must be there whole, one channel of
    it must be readable, and in a conflict the sound cannot be part of it.
    """
    singles = [(c,) for c in CARRIERS]
    deck: list[tuple[str, ...]] = []
    emotional = [c for c in clips if c.emotion != "neutral"]
    while len(deck) < len(emotional):
        cards: list[tuple[str, ...]] = [*singles, *singles, *combinations(CARRIERS, 2)]
        deck += [cards[k] for k in rng.permutation(len(cards))]
    del deck[len(emotional) :]
    for clip in sorted(emotional, key=lambda c: (not c.conflict, sum(map(c.readable, CARRIERS)))):
        readable = {c for c in CARRIERS if clip.readable(c)}
        absent = {c for c, carried in CARRIERS.items() if all(s in clip.missing for s in carried)}
        absent |= {"audio"} if clip.conflict else set()
        fitting = (card for card in deck if readable.intersection(card) and not absent.intersection(card))
        card = next(fitting, None)
        if card is None:  # the deck is nearly dealt
            card = (min(readable - absent),)
        else:
            deck.remove(card)
        clip.informative = [c for c in CARRIERS if c in card]
    for clip in clips:
        clip.shows = {c: clip.emotion if c in clip.informative else "neutral" for c in CARRIERS}
        if clip.conflict and rng.random() < CONFLICT_SPEAKS:
            clip.shows["audio"] = str(rng.choice([e for e in EMOTIONS[1:] if e != clip.emotion]))
