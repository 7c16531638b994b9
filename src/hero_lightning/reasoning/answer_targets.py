"""Answers that the language model is trained on, with a weight for each character (docs/hero.md).

Data flow: label + evidence + descriptions -> AnswerWriter -> TargetAnswer (JSON text, weighted spans) -> token weights.

Reasons come before the label. A label is scored without them: the answer of the `label` prompt,
`{"final_emotion": "<class>"}`, has the same prefix for all classes. A clip is trained on both answers, `cot` and, as a
second short row, `label`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hero_lightning.errors import DataError, in_range, one_of
from hero_lightning.reasoning.evidence import CHANNELS, EXPERTS, SYNERGY, EvidenceItem
from hero_lightning.reasoning.prompts import KEYS, Mode

Span = tuple[int, int, float]
"""First character, one past the last, weight."""
Source = Literal["description", "template", "label"]

WEIGHTS = {"caption": 1.0, "evidence": 1.0, "rationale": 1.5, "final_emotion": 2.0, "punctuation": 1.0}
"""Per token of a field's content; punctuation = braces, quotes and keys."""
SHORT = {"emotion_caption": "caption", "evidence_summary": "evidence"}
"""Answer key -> its name in weights and descriptions, where it differs."""
UNQUOTED = "what is said"
"""Replaces a quotation of the transcript."""


@dataclass(frozen=True, slots=True)
class TargetAnswer:
    """An answer to train on.

    Attributes:
        text: JSON.
        spans: cover the whole text, in order.
        source: `description`: all fields from the dataset; `template`: at least one field built from evidence;
            `label`: the label alone.
    """

    text: str
    spans: tuple[Span, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class AnswerWriter:
    """Writes target answers.

    Args:
        mode: cot, label or caption; must be the prompts'.
        weights: of the fields, replacing those in WEIGHTS.
        template_weight: factor for fields built from evidence, which are less reliable than descriptions.
        targets: `reasoning`, or `label` = clips without descriptions get label prompts and answers (`mode_for`).
        cues: most evidence items in the summary.
        quote: whether templates quote the transcript; a small model cannot copy it.
    """

    mode: Mode = "cot"
    weights: Mapping[str, float] = field(default_factory=dict)
    template_weight: float = 0.5
    targets: Literal["reasoning", "label"] = "reasoning"
    cues: int = 3
    quote: bool = True

    def __post_init__(self) -> None:
        one_of("reasoner.answer.mode", self.mode, KEYS)
        one_of("reasoner.answer.targets", self.targets, ("reasoning", "label"))
        in_range("reasoner.answer.cues", self.cues, "[1, inf)")
        in_range("reasoner.answer.template_weight", self.template_weight, "[0, inf)")
        for key, weight in self.weights.items():
            one_of("reasoner.answer.weights", key, WEIGHTS)
            in_range(f"reasoner.answer.weights.{key}", weight, "[0, inf)")
        object.__setattr__(self, "weights", WEIGHTS | dict(self.weights))

    def mode_for(self, descriptions: Mapping[str, str] | None) -> Mode:
        """The mode of prompt and answer in the training on a clip."""
        return "label" if self.targets == "label" and self.mode == "cot" and not descriptions else self.mode

    def target(
        self,
        label: str | None,
        evidence: Sequence[EvidenceItem],
        descriptions: Mapping[str, str] | None = None,
        keys: Sequence[str] | None = None,
    ) -> TargetAnswer:
        """The answer of one clip.

        Args:
            label: true class, as in the class list.
            evidence: the items of its prompt, in the prompt's order.
            descriptions: `Sample.descriptions`.
            keys: `Prompt.keys`; None = those of the writer's mode.

        Raises:
            DataError: the keys include the label, and the clip has none.
        """
        words = descriptions or {}
        pieces: list[tuple[str, float]] = []
        templated = False
        keys = KEYS[self.mode] if keys is None else keys
        for k, key in enumerate(keys):
            value, own = self._value(key, label, evidence, words)
            templated |= not own
            weight = self.weights[SHORT.get(key, key)] * (1.0 if own else self.template_weight)
            pieces.append((("{" if k == 0 else ", ") + f'"{key}": ', self.weights["punctuation"]))
            pieces += self._quoted(value, weight)
        pieces.append(("}", self.weights["punctuation"]))
        text, spans = "", []
        for piece, weight in pieces:
            if piece:
                spans.append((len(text), len(text) + len(piece), weight))
                text += piece
        source: Source = "template" if templated else "label" if tuple(keys) == KEYS["label"] else "description"
        return TargetAnswer(text, tuple(spans), source)

    def scoring_answer(self, label: str) -> str:
        """The label answer of a class, identical to the one in training."""
        return self.target(label, (), None, KEYS["label"]).text

    def _value(
        self, key: str, label: str | None, evidence: Sequence[EvidenceItem], words: Mapping[str, str]
    ) -> tuple[str | list[str], bool]:
        """A field's content, and whether it is from the dataset."""
        seen = [e for e in evidence if e.source == "observed"]
        if not self.quote:
            seen = [replace(e, text=UNQUOTED) if e.modality == "text" else e for e in seen]
        if key == "final_emotion":
            if label is None:
                expected = "a label, because the prompt asks for it"
                raise DataError("The clip has no label to answer with.", expected=expected, hint="prompt.mode=caption")
            return label, True
        if key == "evidence_summary":
            return self._summary(seen, evidence, words)
        if described := words.get(SHORT.get(key, key)):
            return described, True
        return (_caption(label, seen) if key == "emotion_caption" else _rationale(label, seen, self.cues)), False

    def _summary(
        self, seen: Sequence[EvidenceItem], evidence: Sequence[EvidenceItem], words: Mapping[str, str]
    ) -> tuple[list[str], bool]:
        """Descriptions of the modalities in the prompt, in its order (canonical without evidence), else the items."""
        if evidence:
            own = [f"{e.id}: {words[e.modality]}" for e in seen if words.get(e.modality)]
        else:
            own = [words[s] for s in EXPERTS if words.get(s)]
        if not own and words.get("evidence"):
            own = [words["evidence"]]
        return (own[: self.cues], True) if own else ([e.line() for e in seen[: self.cues]], False)

    def _quoted(self, value: str | list[str], weight: float) -> list[tuple[str, float]]:
        """JSON of a value, as pieces with their weights: content, quotes, brackets."""
        mark = self.weights["punctuation"]
        if isinstance(value, str):
            return [('"', mark), (json.dumps(value, ensure_ascii=False)[1:-1], weight), ('"', mark)]
        items = [[*([(", ", mark)] if k else []), *self._quoted(v, weight)] for k, v in enumerate(value)]
        return [("[", mark), *(piece for item in items for piece in item), ("]", mark)]


def _caption(label: str | None, seen: Sequence[EvidenceItem]) -> str:
    who = "A person" if label is None else f"A person whose emotion is {label}"
    return f"{who}: {'; '.join(e.text for e in seen[:2])}." if seen else f"{who}."


def _rationale(label: str | None, seen: Sequence[EvidenceItem], cues: int) -> str:
    """Sentences on the decisive cues, the conflict, the minor cues and the conclusion."""

    def named(items: Sequence[EvidenceItem]) -> str:
        return " and ".join(f"the {CHANNELS[e.modality]} ({e.id})" for e in items)

    experts = [e for e in seen if e.modality != SYNERGY]
    if not experts:
        return f"No single cue stands out in words; the signals together point to {label}."
    out = f"The strongest cue is {named(experts[:1])}: {experts[0].text}."
    if experts[1:cues]:
        out += f" It is joined by {named(experts[1:cues])}."
    synergy = next((e for e in seen if e.modality == SYNERGY), None)
    if synergy:
        out += f" By {synergy.id}, {synergy.text}."
    if experts[cues:]:
        out += f" Little comes from {named(experts[cues:])}."
    return f"{out} So the emotion is {label}."


def token_weights(
    spans: Sequence[Span], offsets: Sequence[tuple[int, int]], default: float = WEIGHTS["punctuation"]
) -> list[float]:
    """Weights of the tokens of an answer.

    A token in several spans has the mean weight of its characters.

    Args:
        spans: of `TargetAnswer.text`.
        offsets: first and one past the last character of each token in that text.
        default: for tokens without characters (end of sequence).
    """
    out: list[float] = []
    for start, end in offsets:
        total = sum(max(min(end, last) - max(start, first), 0) * weight for first, last, weight in spans)
        out.append(total / (end - start) if end > start else default)
    return out
