"""Evidence in words: the observations of each expert, without a judgement on the emotion (docs/hero.md).

Data flow: Sample + measures -> ClipView (no labels) -> TemplateWriter -> [EvidenceItem] -> prompt.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from hero_lightning.errors import in_range, one_of
from hero_lightning.types import AU_NAMES as MUSCLES
from hero_lightning.types import MODALITIES, Sample, Turn

Source = Literal["observed", "inferred", "absent"]

SYNERGY = "synergy"
EXPERTS = (*MODALITIES, SYNERGY)
"""Canonical order, also among equal weights."""
PREFIXES = {"frame": "VE", "face": "FE", "motion": "ME", "audio": "AE", "au": "PE", "text": "TE", SYNERGY: "SE"}
"""First letters of an item's id, after an I for inferred items."""
CHANNELS = {
    "frame": "scene",
    "face": "face",
    "motion": "movement",
    "audio": "voice",
    "au": "face muscles",
    "text": "words",
    SYNERGY: "voice and movement",
}
"""Names of the modalities in sentences."""


class Wording(NamedTuple):
    """Words for a measure: its name, the format of its value, the words for low and high values."""

    noun: str
    number: str
    low: str
    high: str


MEASURES = {
    "pitch_hz": Wording("pitch", "{:.0f} Hz", "low", "high"),
    "pitch_range_st": Wording("pitch range", "{:.1f} semitones", "narrow", "wide"),
    "energy_db": Wording("loudness", "{:.0f} dB", "low", "high"),
    "syllables_per_s": Wording("speech", "{:.1f} syllables/s", "slow", "fast"),
    "pause_share": Wording("pauses", "{:.0%}", "few", "many"),
    "movement": Wording("movement", "{:.1f} %", "small", "large"),
    "movement_max": Wording("strongest movement", "{:.1f} %", "small", "large"),
}
"""Names as in `media/signal.py`; a measure that is not listed is called by its own name."""
NOTABLE, VERY = 0.5, 1.5
"""Standard deviations from the mean at which a measure is mentioned, and called `very` low or high."""
ACTIVE, STRONG = 1.0, 3.0
"""Lowest OpenFace intensity (0..5) of an active muscle, and of a strongly active one."""
SPEAKER_CLIPS = 8
"""Fewest clips of a speaker with statistics of their own."""
_UNIT = re.compile(r"AU0*(\d+)(_max|_mean|_r|_c)?")
_TAG = re.compile(r"<([^<>\s]{1,40})>")
_WORDS = {word: modality for modality, word in CHANNELS.items() if modality != SYNERGY}
_WORDS |= {"gesture": "motion", "action units": "au"}
_NAMED = _WORDS | {prefix: modality for modality, prefix in PREFIXES.items()}
# The longer word first: `face muscles` is not the face.
_NAME = re.compile(rf"\b(?:I?({'|'.join(PREFIXES.values())})-\d\d|({'|'.join(sorted(_WORDS, key=len)[::-1])})\b)")


def plain(text: str) -> str:
    """Text from outside, made safe for a prompt: one line, without special tokens of a tokenizer."""
    return " ".join(_TAG.sub(r"(\1)", text).split())


def named_modalities(text: str) -> list[str]:
    """Modalities that a text mentions, by the id of their evidence or by name, in order of first mention."""
    return list(dict.fromkeys(_NAMED[prefix or word] for prefix, word in _NAME.findall(text)))


@dataclass(frozen=True, slots=True)
class EvidenceItem:
    """One observation in words.

    Attributes:
        id: prefix of its modality and a number, AE-01; IAE-01 if inferred.
        modality: a modality or `synergy`.
        text: what was observed.
        source: observed, inferred (imputed from the other modalities), or absent.
        confidence: 1 if observed, that of the imputation if inferred, 0 if absent.
        weight: importance of the modality to the model.
    """

    id: str
    modality: str
    text: str
    source: Source = "observed"
    confidence: float = 1.0
    weight: float = 0.0

    def line(self, show_weight: bool = False) -> str:
        """The item as a line of a prompt or a report."""
        sure = f" (inferred, confidence {self.confidence:.2f})" if self.source == "inferred" else ""
        return f"{self.id}: {self.text}{sure}" + (f" [{self.weight:.2f}]" if show_weight else "")


@dataclass(frozen=True, slots=True)
class ClipView:
    """The part of a sample that evidence and prompts may use: no labels, no descriptions, no truth.

    Attributes:
        id: seeds the shuffle; never written.
        text: transcript.
        speaker: name.
        turns: previous turns, oldest first.
        measures: modality -> measure -> value.
    """

    id: str
    text: str | None = None
    speaker: str | None = None
    turns: tuple[Turn, ...] = ()
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        turns = tuple(Turn(t.speaker and plain(t.speaker), plain(t.text)) for t in self.turns)
        object.__setattr__(self, "text", plain(self.text or "") or None)
        object.__setattr__(self, "speaker", plain(self.speaker or "") or None)
        object.__setattr__(self, "turns", turns)

    @classmethod
    def of(cls, sample: Sample, measures: Mapping[str, Mapping[str, float]] | None = None) -> ClipView:
        """The view of a sample and its row of `Batch.measures`."""
        return cls(sample.id, sample.text, sample.speaker, sample.turns, measures or {})


Normal = tuple[float, float]
"""Mean and standard deviation."""
Usual = tuple[float, float, str]
"""Mean, standard deviation, and whose: `speaker` or `dataset`."""


@dataclass(frozen=True, slots=True)
class MeasureStatistics:
    """Mean and standard deviation of every measure over the train split, and per speaker with enough clips.

    Args:
        dataset: modality -> measure -> (mean, std).
        speakers: speaker -> the same.
    """

    dataset: Mapping[str, Mapping[str, Normal]] = field(default_factory=dict)
    speakers: Mapping[str, Mapping[str, Mapping[str, Normal]]] = field(default_factory=dict)

    @classmethod
    def fit(cls, views: Iterable[ClipView]) -> MeasureStatistics:
        """Statistics of the clips of a train split."""
        tables: dict[str | None, dict[str, dict[str, list[float]]]] = {None: {}}  # of a speaker; None = of all clips
        for view in views:
            for speaker in {None, view.speaker}:
                table = tables.setdefault(speaker, {})
                for modality, measures in view.measures.items():
                    for name, value in measures.items():
                        if math.isfinite(value):
                            table.setdefault(modality, {}).setdefault(name, []).append(value)
        dataset = _normals(tables.pop(None), 2)
        return cls(dataset, {who: _normals(table, SPEAKER_CLIPS) for who, table in tables.items() if who is not None})

    def usual(self, modality: str, name: str, speaker: str | None) -> Usual | None:
        """Statistics of a measure: the speaker's, else the dataset's, else None."""
        for table, whose in ((self.speakers.get(speaker or "", {}), "speaker"), (self.dataset, "dataset")):
            mean, std = table.get(modality, {}).get(name, (0.0, 0.0))
            if std > 1e-6 * (1 + abs(mean)):
                return mean, std, whose
        return None


def _normals(table: Mapping[str, Mapping[str, list[float]]], least: int) -> dict[str, dict[str, Normal]]:
    out: dict[str, dict[str, Normal]] = {}
    for modality, names in table.items():
        for name, values in names.items():
            if len(values) >= least:
                mean = math.fsum(values) / len(values)
                std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
                out.setdefault(modality, {})[name] = (mean, std)
    return out


@dataclass(frozen=True, slots=True)
class Phrasing:
    """Describes the measures of a modality in words.

    Args:
        numbers: whether the numbers are written, too.
        phrases: most measures per modality, the most unusual first.
        quote: characters of the transcript that are quoted.
    """

    numbers: bool = True
    phrases: int = 3
    quote: int = 80

    def __post_init__(self) -> None:
        in_range("reasoner.evidence.phrasing.phrases", self.phrases, "[1, inf)")
        in_range("reasoner.evidence.phrasing.quote", self.quote, "[1, inf)")

    def describe(self, modality: str, view: ClipView, statistics: MeasureStatistics) -> str:
        """What is unusual about a present modality; never empty."""
        measures = {n: float(v) for n, v in view.measures.get(modality, {}).items() if math.isfinite(v)}
        found = [(math.inf, f'says "{_shortened(view.text, self.quote)}"')] if modality == "text" and view.text else []
        muscles: dict[str, tuple[float, str]] = {}  # unit -> its highest intensity and the name of that measure
        for name, value in measures.items():
            if unit := _UNIT.fullmatch(name):
                muscles[unit[1]] = max((value, name), muscles.get(unit[1], (value, name)))
            else:
                found.append(self._measure(name, value, statistics.usual(modality, name, view.speaker)))
        for number, (value, name) in sorted(muscles.items()):
            found.append(self._muscle(int(number), value, statistics.usual(modality, name, view.speaker)))
        phrases = [words for _, words in sorted(found, key=lambda f: -f[0]) if words]
        nothing = f"{CHANNELS[modality]} {'as usual' if measures else 'present'}"
        return "; ".join(phrases[: self.phrases]) or nothing

    def synergy(self, match: float) -> str:
        """Whether sound and movement match, from the probability that they do."""
        text = f"voice and movement {'match' if match >= 0.5 else 'conflict'}"
        return f"{text} ({max(match, 1 - match):.2f})" if self.numbers else text

    def _measure(self, name: str, value: float, usual: Usual | None) -> tuple[float, str]:
        """How unusual a measure is, and its words; no words if it is usual."""
        words = MEASURES.get(name, Wording(name.replace("_", " "), "{:.2f}", "low", "high"))
        number = words.number.format(value)
        if usual is None:
            return 0.0, f"{words.noun} {number}"
        mean, std, whose = usual
        strength = abs(value - mean) / std
        if strength < NOTABLE:
            return strength, ""
        degree = ("very " if strength >= VERY else "") + (words.high if value > mean else words.low)
        against = f" ({number}, {whose} mean {words.number.format(mean)})" if self.numbers else ""
        return strength, f"{words.noun} {degree}{against}"

    def _muscle(self, unit: int, value: float, usual: Usual | None) -> tuple[float, str]:
        """The same for an action unit; no words unless it is active, and more than usual."""
        strength = (value - usual[0]) / usual[1] if usual else value
        if value < ACTIVE or (usual and strength < NOTABLE):
            return 0.0, ""
        words = f"{MUSCLES.get(unit, f'action unit {unit}')} {'strongly ' if value >= STRONG else ''}active"
        return strength, words + (f" {value:.1f}" if self.numbers else "")


@dataclass(frozen=True, slots=True)
class TemplateWriter:
    """Writes evidence by rules: no training, the same words for the same numbers.

    Args:
        statistics: usual values of the measures; without any, numbers are written as they are.
        order: `weight` (the modality of highest weight first) or `canonical`.
        top_k: most items, those of highest weight; None = all.
        min_weight: items below it are left out.
        shuffle: random order instead, the same for a clip in every run (ablation).
        absent: a modality without data is named as missing (`name`), its imputation is written (`infer`), or it is
            left out (`omit`).
        min_confidence: an imputation below it is named as missing.
        conflict_first: the synergy item comes first if it reports a conflict.
        phrasing: words for the measures of a modality.
        enabled: False writes nothing (ablation).
    """

    statistics: MeasureStatistics = field(default_factory=MeasureStatistics)
    order: Literal["weight", "canonical"] = "weight"
    top_k: int | None = None
    min_weight: float = 0.0
    shuffle: bool = False
    absent: Literal["name", "infer", "omit"] = "name"
    min_confidence: float = 0.2
    conflict_first: bool = True
    phrasing: Phrasing = field(default_factory=Phrasing)
    enabled: bool = True

    def __post_init__(self) -> None:
        one_of("reasoner.evidence.order", self.order, ("weight", "canonical"))
        one_of("reasoner.evidence.absent", self.absent, ("name", "infer", "omit"))
        if self.top_k is not None:
            in_range("reasoner.evidence.top_k", self.top_k, "[1, inf)")

    def write(
        self,
        view: ClipView,
        weights: Mapping[str, float],
        present: Collection[str],
        inferred: Mapping[str, float] | None = None,
        sync_probability: float | None = None,
        words: Mapping[str, str] | None = None,
    ) -> list[EvidenceItem]:
        """Evidence of one clip in reading order; lines about missing modalities come last.

        Args:
            view: the clip.
            weights: expert -> importance, for every expert of the model.
            present: experts with real data; synergy is one if the clip has both sound and movement.
            inferred: expert -> confidence of its imputation.
            sync_probability: that sound and movement belong together; read if synergy is present.
            words: modality -> sentence of a trained decoder, instead of the rules'.
        """
        if not self.enabled:
            return []
        seen: list[EvidenceItem] = []
        missing: list[EvidenceItem] = []
        for modality in MODALITIES:
            weight, sentence = float(weights.get(modality, 0.0)), plain((words or {}).get(modality, ""))
            if modality in present:
                text = sentence or self.phrasing.describe(modality, view, self.statistics)
                seen.append(EvidenceItem(_id(modality), modality, text, weight=weight))
            elif modality in weights and self.absent != "omit":
                confidence = (inferred or {}).get(modality, 0.0)
                if self.absent == "infer" and confidence >= self.min_confidence and confidence > 0:
                    text = sentence or f"no {CHANNELS[modality]} recorded, estimated from the rest"
                    seen.append(EvidenceItem("I" + _id(modality), modality, text, "inferred", confidence, weight))
                else:
                    text = f"{CHANNELS[modality]} not available"
                    missing.append(EvidenceItem(_id(modality), modality, text, "absent", 0.0))
        first: list[EvidenceItem] = []
        if (match := sync_probability) is not None and SYNERGY in present:
            text, weight = self.phrasing.synergy(match), float(weights.get(SYNERGY, 0.0))
            item = EvidenceItem(_id(SYNERGY), SYNERGY, text, "observed", max(match, 1 - match), weight)
            (first if match < 0.5 and self.conflict_first else seen).append(item)
        kept = first + sorted((e for e in seen if e.weight >= self.min_weight), key=lambda e: -e.weight)
        kept = kept[: self.top_k]
        if self.order == "canonical":
            kept[len(first) :] = sorted(kept[len(first) :], key=lambda e: EXPERTS.index(e.modality))
        if self.shuffle:
            random.Random(f"0/{view.id}").shuffle(kept)
        return kept + missing


def _id(modality: str) -> str:
    return f"{PREFIXES[modality]}-01"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length].rstrip() + "..."
