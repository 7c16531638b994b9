"""Evidence in words: what each expert saw, said without any verdict on the emotion (`spec/hero.md` 2.3, 2.4, 4.2).

Data flow: Sample + measures -> ClipView (nothing that knows the label) -> TemplateWriter -> [EvidenceItem] -> prompt.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from hero_lightning.errors import ConfigError
from hero_lightning.types import AU_NAMES as MUSCLES
from hero_lightning.types import MODALITIES, Sample, Turn

Source = Literal["observed", "inferred", "absent"]

SYNERGY = "synergy"
EXPERTS = (*MODALITIES, SYNERGY)
"""Canonical order, which also breaks ties of weight."""
PREFIXES = {"frame": "VE", "face": "FE", "motion": "ME", "audio": "AE", "au": "PE", "text": "TE", SYNERGY: "SE"}
"""What an item's id begins with; an inferred item has an I before it."""
CHANNELS = {
    "frame": "scene",
    "face": "face",
    "motion": "movement",
    "audio": "voice",
    "au": "face muscles",
    "text": "words",
    SYNERGY: "voice and movement",
}
"""What a modality is called in a sentence."""


class Wording(NamedTuple):
    """How a measure is put in words: its name, how its number is written, and the words for little and much of it."""

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
"""`media/measures.py` gives the names; one that is not here is spelled out as it stands."""
NOTABLE, VERY = 0.5, 1.5
"""Standard deviations from the mean from which on a measure is worth a word, and a `very`."""
ACTIVE, STRONG = 1.0, 3.0
"""OpenFace intensity (0..5) of a muscle that is active at all, and strongly."""
_UNIT = re.compile(r"AU0*(\d+)(_max|_mean|_r|_c)?")
_TAG = re.compile(r"<([^<>\s]{1,40})>")
_WORDS = {word: modality for modality, word in CHANNELS.items() if modality != SYNERGY}
_WORDS |= {"gesture": "motion", "action units": "au"}
_NAMED = _WORDS | {prefix: modality for modality, prefix in PREFIXES.items()}
# The longer word first: `face muscles` is not the face.
_NAME = re.compile(rf"\b(?:I?({'|'.join(PREFIXES.values())})-\d\d|({'|'.join(sorted(_WORDS, key=len)[::-1])})\b)")


def one_of(where: str, value: str, known: Collection[str]) -> None:
    """Checks a setting that must be one of several words."""
    if value not in known:
        raise ConfigError(f"Unknown {where}.", expected=" | ".join(known), got=value, where=where)


def plain(text: str) -> str:
    """Foreign text as a prompt may hold it: one line, and nothing a tokenizer would take for a special token."""
    return " ".join(_TAG.sub(r"(\1)", text).split())


def named_modalities(text: str) -> list[str]:
    """Modalities that a text names, by the id of their evidence or in a word, in order of first mention."""
    return list(dict.fromkeys(_NAMED[prefix or word] for prefix, word in _NAME.findall(text)))


@dataclass(frozen=True, slots=True)
class EvidenceItem:
    """One observation in words.

    Attributes:
        id: prefix of its modality and a number, AE-01; IAE-01 if inferred.
        modality: a modality or `synergy`.
        text: what was observed.
        source: observed, inferred from the other modalities, or absent (the line says that there is nothing).
        confidence: 1 for an observation, the imputation's for an inference, 0 for an absence.
        weight: what the model gave the modality.
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
    """All that a writer of evidence or prompts sees of a sample: no labels, no descriptions, no truth.

    Attributes:
        id: names the clip to the shuffle; never written.
        text: what is said.
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


class MeasureStatistics:
    """What is usual: mean and deviation of every measure over the train split, and per speaker heard often enough.

    Args:
        dataset: modality -> measure -> (mean, std).
        speakers: speaker -> the same.
    """

    MIN_CLIPS = 8
    """Clips of a speaker from which on his own mean is trusted."""

    def __init__(
        self,
        dataset: Mapping[str, Mapping[str, Normal]] | None = None,
        speakers: Mapping[str, Mapping[str, Mapping[str, Normal]]] | None = None,
    ) -> None:
        self.dataset, self.speakers = dataset or {}, speakers or {}

    @classmethod
    def fit(cls, views: Iterable[ClipView]) -> MeasureStatistics:
        """Statistics of the clips given: pass the train split and nothing else."""
        everyone: dict[str, dict[str, list[float]]] = {}
        by_speaker: dict[str, dict[str, dict[str, list[float]]]] = {}
        for view in views:
            tables = [everyone]
            if view.speaker is not None:
                tables.append(by_speaker.setdefault(view.speaker, {}))
            for modality, measures in view.measures.items():
                for name, value in measures.items():
                    if math.isfinite(value):
                        for table in tables:
                            table.setdefault(modality, {}).setdefault(name, []).append(value)
        return cls(_normals(everyone, 2), {who: _normals(table, cls.MIN_CLIPS) for who, table in by_speaker.items()})

    def usual(self, modality: str, name: str, speaker: str | None) -> tuple[float, float, str] | None:
        """Mean, deviation and whose (`speaker` or `dataset`) of a measure; None where nothing is known."""
        for table, whose in ((self.speakers.get(speaker or "", {}), "speaker"), (self.dataset, "dataset")):
            mean, std = table.get(modality, {}).get(name, (0.0, 0.0))
            if std > 1e-6 * (1 + abs(mean)):
                return mean, std, whose
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins for a checkpoint."""
        return {"dataset": self.dataset, "speakers": self.speakers}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> MeasureStatistics:
        """What `to_dict` wrote."""
        return cls(state["dataset"], state["speakers"])


def _normals(table: Mapping[str, Mapping[str, list[float]]], least: int) -> dict[str, dict[str, Normal]]:
    out: dict[str, dict[str, Normal]] = {}
    for modality, names in table.items():
        for name, values in names.items():
            if len(values) >= least:
                mean = math.fsum(values) / len(values)
                std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
                out.setdefault(modality, {})[name] = (mean, std)
    return out


class TemplateWriter:
    """Writes evidence by rules: no training, the same words for the same numbers.

    Args:
        statistics: what is usual; None = numbers are written as they are.
        order: `weight` (the modality that the model weighs most first) or `canonical`.
        top_k: keep so many items, the weightiest; None = all.
        min_weight: leave out items that weigh less.
        shuffle: random order instead, fixed by `seed` and the clip's id (ablation).
        absent: a modality without data is `name`d as missing, its inference is written (`infer`), or `omit`ted.
        min_confidence: an inference less sure is named as missing instead.
        conflict_first: the synergy item leads when it says conflict.
        numbers: write the numbers beside the words.
        phrases: measures per modality at most, the most unusual first.
        quote: characters of the transcript that an item quotes.
        enabled: False writes nothing (ablation).
    """

    def __init__(
        self,
        statistics: MeasureStatistics | None = None,
        order: Literal["weight", "canonical"] = "weight",
        top_k: int | None = None,
        min_weight: float = 0.0,
        shuffle: bool = False,
        seed: int = 0,
        absent: Literal["name", "infer", "omit"] = "name",
        min_confidence: float = 0.2,
        conflict_first: bool = True,
        numbers: bool = True,
        phrases: int = 3,
        quote: int = 80,
        enabled: bool = True,
    ) -> None:
        one_of("evidence.order", order, ("weight", "canonical"))
        one_of("evidence.absent", absent, ("name", "infer", "omit"))
        for key, count in (("top_k", top_k), ("phrases", phrases), ("quote", quote)):
            if count is not None and count < 1:
                raise ConfigError(f"evidence.{key} is too small.", expected=">= 1", got=count, where=f"evidence.{key}")
        self.statistics = statistics or MeasureStatistics()
        self.order, self.top_k, self.min_weight, self.shuffle, self.seed = order, top_k, min_weight, shuffle, seed
        self.absent, self.min_confidence, self.conflict_first = absent, min_confidence, conflict_first
        self.numbers, self.phrases, self.quote, self.enabled = numbers, phrases, quote, enabled

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
            weights: expert -> importance; its keys are the experts the model has.
            present: experts that saw real data; synergy among them where it had sound and movement to compare.
            inferred: expert -> confidence of its imputation.
            sync_probability: how probably sound and movement belong together; read where synergy is present.
            words: modality -> what a trained decoder says of it, instead of the rules'.
        """
        if not self.enabled:
            return []
        seen: list[EvidenceItem] = []
        missing: list[EvidenceItem] = []
        for modality in MODALITIES:
            weight, said = float(weights.get(modality, 0.0)), plain((words or {}).get(modality, ""))
            if modality in present:
                text = said or "; ".join(self._observe(modality, view))
                seen.append(EvidenceItem(_id(modality), modality, text, weight=weight))
            elif modality in weights and self.absent != "omit":
                sure = (inferred or {}).get(modality, 0.0)
                if self.absent == "infer" and sure >= self.min_confidence and sure > 0:
                    text = said or f"no {CHANNELS[modality]} recorded, estimated from the rest"
                    seen.append(EvidenceItem("I" + _id(modality), modality, text, "inferred", sure, weight))
                else:
                    text = f"{CHANNELS[modality]} not available"
                    missing.append(EvidenceItem(_id(modality), modality, text, "absent", 0.0))
        match = sync_probability if SYNERGY in present else None
        if match is not None:
            seen.append(self._synergy(match, float(weights.get(SYNERGY, 0.0))))
        forced = [seen.pop()] if match is not None and match < 0.5 and self.conflict_first else []
        kept = forced + sorted((e for e in seen if e.weight >= self.min_weight), key=lambda e: -e.weight)
        kept = kept[: self.top_k]
        if self.order == "canonical":
            kept[len(forced) :] = sorted(kept[len(forced) :], key=lambda e: EXPERTS.index(e.modality))
        if self.shuffle:
            random.Random(f"{self.seed}/{view.id}").shuffle(kept)
        return kept + missing

    def _synergy(self, match: float, weight: float) -> EvidenceItem:
        sure = max(match, 1 - match)
        text = f"voice and movement {'match' if match >= 0.5 else 'conflict'}"
        text += f" ({sure:.2f})" if self.numbers else ""
        return EvidenceItem(_id(SYNERGY), SYNERGY, text, "observed", sure, weight)

    def _observe(self, modality: str, view: ClipView) -> list[str]:
        """Phrases about a present modality, the most telling first, at least one."""
        measures = {n: float(v) for n, v in view.measures.get(modality, {}).items() if math.isfinite(v)}
        found = [(math.inf, f'says "{_shortened(view.text, self.quote)}"')] if modality == "text" and view.text else []
        muscles: dict[str, tuple[float, str]] = {}  # unit -> its highest reading and the measure's name
        for name, value in measures.items():
            if unit := _UNIT.fullmatch(name):
                muscles[unit[1]] = max((value, name), muscles.get(unit[1], (value, name)))
            else:
                found.append(self._measure(modality, name, value, view.speaker))
        found += [self._muscle(modality, int(n), name, v, view.speaker) for n, (v, name) in sorted(muscles.items())]
        found = [(strength, words) for strength, words in found if words]
        if found:
            return [words for _, words in sorted(found, key=lambda f: -f[0])[: self.phrases]]
        return [f"{CHANNELS[modality]} as usual" if measures else f"{CHANNELS[modality]} present"]

    def _measure(self, modality: str, name: str, value: float, speaker: str | None) -> tuple[float, str]:
        """How unusual a measure is, and its words; no words where it is usual."""
        words = MEASURES.get(name, Wording(name.replace("_", " "), "{:.2f}", "low", "high"))
        number, usual = words.number.format(value), self.statistics.usual(modality, name, speaker)
        if usual is None:
            return 0.0, f"{words.noun} {number}"
        mean, std, whose = usual
        strength = abs(value - mean) / std
        if strength < NOTABLE:
            return strength, ""
        much = ("very " if strength >= VERY else "") + (words.high if value > mean else words.low)
        against = f" ({number}, {whose} mean {words.number.format(mean)})" if self.numbers else ""
        return strength, f"{words.noun} {much}{against}"

    def _muscle(self, modality: str, unit: int, name: str, value: float, speaker: str | None) -> tuple[float, str]:
        """The same for an action unit; no words unless it is active, and more so than usual."""
        usual = self.statistics.usual(modality, name, speaker)
        strength = (value - usual[0]) / usual[1] if usual else value
        if value < ACTIVE or (usual and strength < NOTABLE):
            return 0.0, ""
        words = f"{MUSCLES.get(unit, f'action unit {unit}')} {'strongly ' if value >= STRONG else ''}active"
        return strength, words + (f" {value:.1f}" if self.numbers else "")


def _id(modality: str) -> str:
    return f"{PREFIXES[modality]}-01"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length].rstrip() + "..."
