"""Prompts: one builder for training, scoring, generation and extraction (docs/hero.md).

Data flow: ClipView + [EvidenceItem] -> PromptBuilder -> Prompt (ordered parts) -> fit -> text | messages -> LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from hero_lightning.errors import ConfigError, in_range, one_of
from hero_lightning.reasoning.evidence import ClipView, EvidenceItem

Mode = Literal["cot", "label", "caption"]

CONTEXT = "<|context|>"
"""Placeholder of the context tokens; the LLM head replaces it by their embeddings. Once in every prompt."""
ANSWER = "Answer:"
"""Last line of a plain prompt; a chat template has its own."""
KEYS: dict[str, tuple[str, ...]] = {
    "cot": ("emotion_caption", "evidence_summary", "rationale", "final_emotion"),
    "label": ("final_emotion",),
    "caption": ("emotion_caption",),
}
"""Keys of the answer of a mode, in the order in which they are written: the conclusion follows its reasons."""
STYLES: dict[str, dict[str, str]] = {
    "full": {
        "role": "You analyse how a person in a video clip feels, from what is seen, heard and said.",
        "caption": "You describe how a person in a video clip feels and behaves.",
        "evidence": "Evidence, as observed by the experts:",
        "transcript": "{speaker} says:",
        "turns": "What was said before:",
        "labels": "Possible emotions: {labels}.",
        "steps": "Reason in four steps. 1. List the evidence that decides. 2. Say where evidence conflicts, above all "
        "sound against picture. 3. Exclude what only distracts. 4. Conclude with one emotion.",
        "instruction": "Answer with one JSON object and nothing else. Its keys: {keys}.",
        "emotion_caption": " (one sentence on the person, the state and the behaviour)",
        "evidence_summary": " (list of the decisive cues)",
        "rationale": " (why the evidence leads to the emotion)",
    },
    "compact": {
        "role": "Emotion of the person in this clip?",
        "caption": "Describe the person in this clip.",
        "evidence": "Evidence:",
        "transcript": "{speaker} says:",
        "turns": "Before:",
        "labels": "Emotions: {labels}.",
        "steps": "Steps: list evidence, weigh conflict, exclude distractors, conclude.",
        "instruction": "JSON only, keys: {keys}.",
    },
}
"""Wording of the parts and of the keys. Both styles ask the same questions in the same order."""


@dataclass(frozen=True, slots=True)
class Part:
    """A named piece of a prompt.

    Attributes:
        name: role, context, evidence, transcript, turns, labels, steps or instruction.
        head: first line; empty = none.
        lines: lines that can be dropped one by one if the prompt is too long.
        weights: of the lines of the evidence.
    """

    name: str
    head: str
    lines: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    def text(self) -> str:
        """Head and lines."""
        return "\n".join([self.head, *self.lines] if self.head else self.lines)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question to the language model, up to the answer.

    Attributes:
        mode: cot, label or caption.
        keys: of the answer, in order.
        parts: in reading order.
    """

    mode: str
    keys: tuple[str, ...]
    parts: tuple[Part, ...]

    def text(self) -> str:
        """Plain prompt for a model without a chat template; the answer follows directly."""
        return "\n".join([*(p.text() for p in self.parts), ANSWER, ""])

    def messages(self) -> list[dict[str, str]]:
        """Prompt for a chat template: the role as system message, the rest as user message."""
        role, *rest = (p.text() for p in self.parts)
        return [{"role": "system", "content": role}, {"role": "user", "content": "\n".join(rest)}]

    def part(self, name: str) -> Part | None:
        """The part of that name, or None."""
        return next((p for p in self.parts if p.name == name), None)

    def replaced(self, part: Part) -> Prompt:
        """The prompt with another version of a part; a part without lines is removed."""
        parts = (part if p.name == part.name else p for p in self.parts)
        return replace(self, parts=tuple(p for p in parts if p.name != part.name or p.lines))


@dataclass(frozen=True, slots=True)
class PromptBuilder:
    """Builds prompts.

    Args:
        mode: `cot` asks for reasons and label, `label` for the label alone, `caption` for a description.
        classes: label list of the dataset; empty = the answer is free.
        context_turns: number of previous turns.
        style: `full`, or `compact` for small language models.
        role: first sentence, instead of the style's.
        caption: whether `cot` asks for a caption; False for a dataset with labels only.
        transcript: whether the transcript is shown.
        steps: whether `cot` lists the steps of the reasoning.
        weights: whether the lines of the evidence end with their weights.
        max_tokens: of a prompt; see `fit` for what a longer one loses.
    """

    mode: Mode = "cot"
    classes: Sequence[str] = ()
    context_turns: int = 0
    style: Literal["full", "compact"] = "full"
    role: str | None = None
    caption: bool = True
    transcript: bool = True
    steps: bool = True
    weights: bool = False
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        one_of("reasoner.prompt.mode", self.mode, KEYS)
        one_of("reasoner.prompt.style", self.style, STYLES)
        in_range("reasoner.prompt.context_turns", self.context_turns, "[0, inf)")
        in_range("reasoner.prompt.max_tokens", self.max_tokens, "[1, inf)")

    def keys(self, mode: Mode | None = None) -> tuple[str, ...]:
        """Keys of the answer to a prompt of that mode (by default the builder's)."""
        mode = mode or self.mode
        return tuple(k for k in KEYS[mode] if mode != "cot" or self.caption or k != "emotion_caption")

    def build(
        self,
        view: ClipView,
        evidence: Sequence[EvidenceItem],
        mode: Mode | None = None,
        classes: Sequence[str] | None = None,
    ) -> Prompt:
        """The prompt of one clip.

        Args:
            view: the clip.
            evidence: in reading order.
            mode: instead of the builder's, for a second prompt about the same clip.
            classes: instead of the builder's, for a row of another dataset.
        """
        mode, style, keys = mode or self.mode, STYLES[self.style], self.keys(mode)
        labels = self.classes if classes is None else classes
        role = self.role or style["caption" if mode == "caption" else "role"]
        parts = [Part("role", role), Part("context", CONTEXT)]
        if evidence:
            lines = tuple(item.line(self.weights) for item in evidence)
            parts.append(Part("evidence", style["evidence"], lines, tuple(item.weight for item in evidence)))
        if self.transcript and view.text:
            head = style["transcript"].format(speaker=view.speaker or "The person")
            parts.append(Part("transcript", head, (view.text,)))
        turns = view.turns[len(view.turns) - min(self.context_turns, len(view.turns)) :]
        if turns:
            parts.append(Part("turns", style["turns"], tuple(f"{t.speaker or 'Someone'}: {t.text}" for t in turns)))
        if labels and "final_emotion" in keys:
            parts.append(Part("labels", style["labels"].format(labels=", ".join(labels))))
        if self.steps and mode == "cot":
            parts.append(Part("steps", style["steps"]))
        asked = ", ".join(key + style.get(key, "") for key in keys)
        parts.append(Part("instruction", style["instruction"].format(keys=asked)))
        return Prompt(mode, keys, tuple(parts))


class Dropped(NamedTuple):
    """What was removed from a prompt: number of oldest turns, ids of evidence, characters of the transcript."""

    turns: int = 0
    evidence: tuple[str, ...] = ()
    characters: int = 0

    def kept(self, evidence: Sequence[EvidenceItem]) -> list[EvidenceItem]:
        """The items that are left in the prompt, which the target answer may use."""
        return [item for item in evidence if item.id not in self.evidence]


def fit(prompt: Prompt, count_tokens: Callable[[str], int], budget: int) -> tuple[Prompt, Dropped]:
    """Shortens a prompt: oldest turns first, then the evidence of lowest weight, then the transcript's middle.

    Role, context, labels, steps, instruction and answer marker are never shortened.

    Args:
        prompt: the prompt.
        count_tokens: number of tokens of `Prompt.text()`, including the placeholder.
        budget: most tokens, without soft tokens, chat template and answer.

    Raises:
        ConfigError: the other parts alone are longer than the budget.
    """

    def fits(p: Prompt) -> bool:
        return count_tokens(p.text()) <= budget

    turns, lost, cut = 0, [], 0
    while not fits(prompt):
        if part := prompt.part("turns"):
            prompt, turns = prompt.replaced(replace(part, lines=part.lines[1:])), turns + 1
        elif part := prompt.part("evidence"):
            # The last one among equals: lines about missing modalities are last and have weight 0.
            k = -min((weight, -i) for i, weight in enumerate(part.weights))[1]
            lost.append(part.lines[k].split(":")[0])
            lines, weights = part.lines[:k] + part.lines[k + 1 :], part.weights[:k] + part.weights[k + 1 :]
            prompt = prompt.replaced(replace(part, lines=lines, weights=weights))
        elif (part := prompt.part("transcript")) and not cut:
            (text,) = part.lines
            low, high = 0, len(text) - 1  # characters kept
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if fits(_shortened(prompt, part, middle)) else (low, middle - 1)
            prompt, cut = _shortened(prompt, part, low), len(text) - low
        else:
            raise ConfigError(
                "The question alone is longer than the token budget of a prompt.",
                expected=f"at most {budget} tokens",
                got=count_tokens(prompt.text()),
                where="reasoner.prompt.max_tokens",
                hint="a larger reasoner.prompt.max_tokens, or reasoner.prompt.style=compact",
            )
    return prompt, Dropped(turns, tuple(lost), cut)


def _shortened(prompt: Prompt, transcript: Part, length: int) -> Prompt:
    """The prompt with `length` characters of its transcript, half from each end; 0 = without transcript."""
    (text,) = transcript.lines
    ends = f"{text[: length - length // 2]} ... {text[len(text) - length // 2 :]}"
    return prompt.replaced(replace(transcript, lines=(ends,) if length else ()))
