"""Parser of generated answers: tolerant of broken JSON, but without guessing a label (docs/hero.md).

Data flow: generated text -> JSON objects -> aliases -> types -> label -> Answer. An unreadable answer has no label.
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
"""Other names of keys. If an object has both, the key itself counts."""
SCHEMA = ("emotion_caption", "evidence_summary", "rationale", "final_emotion", "confidence")
WORD_FORMS = (
    ("happy", "happiness", "joy", "joyful"), ("sad", "sadness"), ("angry", "anger"), ("fear", "fearful", "afraid"),
    ("surprise", "surprised"), ("disgust", "disgusted"), ("neutral", "neutrality"), ("worried", "worry"),
    ("excited", "excitement"), ("frustrated", "frustration"), ("contempt", "contemptuous"), ("doubt", "doubtful"),
)  # fmt: skip
"""Words for one class; equivalent if the class list has exactly one of them."""
MAX_FRAGMENTS = 16
"""Most unclosed braces that are tried, since each takes a pass over the text."""
MAX_DEPTH = 16
"""Deepest nesting of a broken object that is repaired."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer.

    Attributes:
        fields: keys of the schema that were found with a value of the right type.
        status: `ok`: strict JSON; `repaired`: after a repair; `label_only`: no JSON, but exactly one class name;
            `failed`: neither, or no known label; counts as wrong, never as neutral.
        label: the class in the dataset's spelling; None if failed, or if no label was asked for.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    status: Status = "failed"
    label: str | None = None

    @property
    def parsed(self) -> bool:
        """True if the answer was JSON of the schema, as the parse rate counts it."""
        return self.status in ("ok", "repaired")


def parse(
    text: str,
    classes: Sequence[str] = (),
    synonyms: Mapping[str, str] | None = None,
    need: str = "final_emotion",
) -> Answer:
    """Reads an answer.

    Among several objects, complete ones are preferred to an unfinished one, and later ones to earlier ones (a model
    may first repeat the example of the question); objects with the needed key are preferred to all others.

    Args:
        text: generated text.
        classes: label list; empty = any label is valid.
        synonyms: other words -> class, of this dataset.
        need: key without which the answer has failed: `emotion_caption` in mode caption.
    """
    found = list(_objects(text))
    if found:
        fields, status = next((f for f in found if need in f[0]), found[0])
        written = fields.get("final_emotion", "")
        label = match_label(written, classes, synonyms) if classes else written.strip() or None
        valid = need in fields and (need != "final_emotion" or label is not None)
        return Answer(fields, status if valid else "failed", label)
    label = _only_class(text, classes) if need == "final_emotion" else None
    return Answer({"final_emotion": label}, "label_only", label) if label is not None else Answer()


def match_label(value: str, classes: Sequence[str], synonyms: Mapping[str, str] | None = None) -> str | None:
    """The class of a word: the same spelling, else without case and punctuation, else by synonyms; or None."""
    if value in classes:
        return value
    word = _normal(value)
    synonym = {_normal(k): _normal(v) for k, v in (synonyms or {}).items()}.get(word)
    forms = next((group for group in WORD_FORMS if word in group), ())
    for accepted in ((word,), (synonym,), forms):
        if found := [c for c in classes if _normal(c) in accepted]:
            return found[0] if len(found) == 1 and word else None
    return None


def _normal(text: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", text.casefold()).split())


def _only_class(text: str, classes: Sequence[str]) -> str | None:
    """The only class whose name occurs in a text; a longer name hides the shorter ones in it."""
    found = []
    for name in sorted(classes, key=len, reverse=True):
        # Scripts without spaces have no word boundaries.
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
    """Outermost balanced {...} blocks, and the rests of the text from each unclosed brace on."""
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
    """Position after the brace that closes the one at `start`, braces in strings aside; 0 = unclosed."""
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
    """JSON with trailing commas, single quotes, line breaks or quotes in strings, or without an end; else None."""
    out: list[str] = []
    closers: list[str] = []
    cuts: list[tuple[int, list[str]]] = []  # commas and the open brackets there: where an unfinished rest may be cut
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
    """Schema fields of an object, or of the only object inside it, and whether all had the right type."""
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
    """A value converted to its field's type (None = impossible), and whether it had that type already."""
    if name == "confidence":
        try:
            number = None if isinstance(item, bool) else float(item)
        except (TypeError, ValueError):
            number = None
        good = number is not None and 0 <= number <= 1
        return (number, not isinstance(item, str)) if good else (None, False)
    if name == "evidence_summary":
        if isinstance(item, str):
            return [item], True  # both forms occur in training data
        if isinstance(item, list):
            cues = [c for c in item if isinstance(c, str)]
            return cues, len(cues) == len(item)
        return None, False
    if isinstance(item, list) and item and all(isinstance(c, str) for c in item):
        return ", ".join(item) if name == "final_emotion" else " ".join(item), False
    return (item, True) if isinstance(item, str) else (None, False)
