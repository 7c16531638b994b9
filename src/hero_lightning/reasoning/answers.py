"""Answers of a language model, read with patience and without guessing (`spec/hero.md` 4.3, 4.5).

Data flow: generated text -> objects in it -> aliases -> types -> label -> Answer. What cannot be read has no label.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "repaired", "label_only", "failed"]

ALIASES = {
    "reasoning_process": "rationale",
    "reasoning": "rationale",
    "emotion": "final_emotion",
    "prediction": "final_emotion",
    "label": "final_emotion",
    "evidence": "evidence_summary",
    "caption": "emotion_caption",
}
"""Keys of earlier schemas. The key itself wins where both are there."""
SCHEMA = ("emotion_caption", "evidence_summary", "rationale", "final_emotion", "confidence")
WORD_FORMS = (
    ("happy", "happiness", "joy", "joyful"), ("sad", "sadness"), ("angry", "anger"), ("fear", "fearful", "afraid"),
    ("surprise", "surprised"), ("disgust", "disgusted"), ("neutral", "neutrality"), ("worried", "worry"),
    ("excited", "excitement"), ("frustrated", "frustration"), ("contempt", "contemptuous"), ("doubt", "doubtful"),
)  # fmt: skip
"""Words for one class; read as such where the class list holds exactly one of them."""
MAX_FRAGMENTS = 16
"""Open braces without an end that are looked at: each costs a walk over the text."""
MAX_DEPTH = 16
"""Brackets in brackets from which on a broken object is not worth mending."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says.

    Attributes:
        fields: keys of the schema that were there, of the right type.
        status: `ok` strict JSON; `repaired` after mending; `label_only` no JSON, but exactly one class name;
            `failed` nothing usable or no known label: counts as wrong, never as neutral.
        label: the class in the dataset' own spelling; None if failed, or if no label was asked for.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    status: Status = "failed"
    label: str | None = None

    @property
    def parsed(self) -> bool:
        """True if the answer was JSON of the schema: what the parse rate counts."""
        return self.status in ("ok", "repaired")


def parse(
    text: str,
    classes: Sequence[str] = (),
    synonyms: Mapping[str, str] | None = None,
    need: str = "final_emotion",
) -> Answer:
    """Reads an answer.

    Complete objects come before an unfinished one, later before earlier (a model may repeat the question's example
    first, or begin again after its answer); one that has the needed key comes before one that has not.

    Args:
        text: what the model wrote.
        classes: closed label list; empty = any label is good.
        synonyms: other words -> class, of this dataset.
        need: key without which the answer has failed: `emotion_caption` in mode caption.
    """
    found = list(_objects(text))
    for fields, status in [f for f in found if need in f[0]] or found:
        said = fields.get("final_emotion", "")
        label = match_label(said, classes, synonyms) if classes else said.strip() or None
        good = need in fields and (need != "final_emotion" or label is not None)
        return Answer(fields, status if good else "failed", label)
    label = _only_class(text, classes) if need == "final_emotion" else None
    return Answer({"final_emotion": label}, "label_only", label) if label is not None else Answer()


def match_label(value: str, classes: Sequence[str], synonyms: Mapping[str, str] | None = None) -> str | None:
    """The class that a word stands for: as spelled, then without case and punctuation, then by synonyms; or None."""
    if value in classes:
        return value
    word = _normal(value)
    by_form = [c for c in classes if _normal(c) == word]
    if not by_form and synonyms:
        meant = {_normal(k): _normal(v) for k, v in synonyms.items()}.get(word)
        by_form = [c for c in classes if _normal(c) == meant]
    if not by_form:
        forms = next((group for group in WORD_FORMS if word in group), ())
        by_form = [c for c in classes if _normal(c) in forms]
    return by_form[0] if len(by_form) == 1 and word else None


def _normal(text: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", text.casefold()).split())


def _only_class(text: str, classes: Sequence[str]) -> str | None:
    """The one class whose name stands in a text, a longer name hiding the shorter ones in it."""
    found = []
    for name in sorted(classes, key=len, reverse=True):
        # Scripts without blanks between words have no word ends to look for.
        pattern = rf"(?<!\w){re.escape(name)}(?!\w)" if name.isascii() else re.escape(name)
        if name:
            text, count = re.subn(pattern, "\0", text, flags=re.IGNORECASE)
            found += [name] * bool(count)
    return found[0] if len(found) == 1 else None


def _objects(text: str) -> Iterator[tuple[dict[str, Any], Status]]:
    """Fields of every object of the schema in a text, best first."""
    blocks, fragments = _blocks(text)
    for block in [*reversed(blocks), *fragments]:
        value, status = _load(block), "ok"
        if value is None:
            value, status = _repaired(block), "repaired"
        fields, clean = _fields(value)
        if fields:
            yield fields, "ok" if clean and status == "ok" else "repaired"


def _blocks(text: str) -> tuple[list[str], list[str]]:
    """Balanced {...} blocks, outermost, and the ends of the text that begin with a brace without partner."""
    blocks: list[str] = []
    fragments: list[str] = []
    start = text.find("{")
    while start >= 0 and len(fragments) < MAX_FRAGMENTS:
        end = _end(text, start)
        if end:
            blocks.append(text[start:end])
        else:
            fragments.append(text[start:])
        start = text.find("{", end or start + 1)
    return blocks, fragments


def _end(text: str, start: int) -> int:
    """One past the brace that closes the one at `start`; braces in strings do not count; 0 = none does."""
    depth, quoted, skip = 0, False, False
    for k in range(start, len(text)):
        char = text[k]
        if skip:
            skip = False
        elif quoted:
            skip, quoted = char == "\\", char != '"'
        elif char == '"':
            quoted = True
        elif char in "{}":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return k + 1
    return 0


def _load(text: str, strict: bool = True) -> Any:
    try:
        return json.loads(text, strict=strict)
    except (ValueError, RecursionError):  # malformed, or nested beyond the interpreter's depth
        return None


_STRING_END = re.compile(r"\s*(?:[,:}\]]|$)")
_FENCE = re.compile(r"\s*```\w*\s*$")


def _repaired(text: str) -> Any:
    """JSON with trailing commas, single quotes, bare line ends, quotes inside strings or a missing end, or None."""
    out: list[str] = []
    closers: list[str] = []
    cuts: list[tuple[int, list[str]]] = []  # commas and what was open there: where an unfinished rest is cut off
    quote, k, text = "", 0, _FENCE.sub("", text)
    while k < len(text):
        char = text[k]
        if quote:
            if char == "\\" and k + 1 < len(text):
                out.append("'" if text[k + 1] == "'" else text[k : k + 2])
                k += 1
            elif char == quote and _STRING_END.match(text, k + 1):
                out.append('"')
                quote = ""
            elif char != "\\":
                out.append('\\"' if char == '"' else char)
        elif char in "\"'":
            quote = char
            out.append('"')
        elif char in "{[":
            closers.append("}" if char == "{" else "]")
            if len(closers) > MAX_DEPTH:
                return None
            out.append(char)
        elif char in "}]":
            while out and (out[-1].isspace() or out[-1] == ","):
                out.pop()
            if closers:
                closers.pop()
            out.append(char)
        else:
            if char == ",":
                cuts.append((len(out), list(closers)))
            out.append(char)
        k += 1
    ends = [(len(out), closers, '"' if quote else ""), *((n, c, "") for n, c in reversed(cuts[-MAX_FRAGMENTS:]))]
    for length, still_open, tail in ends:
        value = _load("".join(out[:length]) + tail + "".join(reversed(still_open)), strict=False)
        if value is not None:
            return value
    return None


def _fields(value: Any, outer: bool = True) -> tuple[dict[str, Any], bool]:
    """Schema fields of an object, or of the only object inside it, and whether all were of their type."""
    if not isinstance(value, dict):
        return {}, False
    named: dict[str, Any] = {}
    for key, item in value.items():
        name = re.sub(r"[\s-]+", "_", key.strip().lower())
        if name in SCHEMA or ALIASES.get(name, "") not in {"", *named}:
            named[name if name in SCHEMA else ALIASES[name]] = item
    if not named:
        inner = [v for v in value.values() if isinstance(v, dict)]
        return _fields(inner[0], outer=False) if outer and len(inner) == 1 else ({}, False)
    typed = {name: _typed(name, item) for name, item in named.items()}
    fields = {name: item for name, (item, _) in typed.items() if item is not None}
    return fields, all(clean for _, clean in typed.values())


def _typed(name: str, item: Any) -> tuple[Any, bool]:
    """A value as its field's type (None = it cannot be), and whether it came so."""
    if name == "confidence":
        try:
            number = None if isinstance(item, bool) else float(item)
        except (TypeError, ValueError):
            number = None
        good = number is not None and 0 <= number <= 1
        return (number, not isinstance(item, str)) if good else (None, False)
    if name == "evidence_summary":
        if isinstance(item, str):
            return [item], True  # the source shows it both ways
        if isinstance(item, list):
            cues = [c for c in item if isinstance(c, str)]
            return cues, len(cues) == len(item)
        return None, False
    if isinstance(item, list) and item and all(isinstance(c, str) for c in item):
        return ", ".join(item) if name == "final_emotion" else " ".join(item), False
    return (item, True) if isinstance(item, str) else (None, False)
