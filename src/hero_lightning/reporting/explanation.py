"""A prediction as plain text.

Data flow: one record of predictions.jsonl -> render -> text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hero_lightning.reasoning.evidence import EvidenceItem


def render(prediction: Mapping[str, Any]) -> str:
    """Label, evidence in order, inference, gate and answer of one clip.

    Args:
        prediction: `id`, `label`; where known `confidence`, `scores` (class -> probability), `evidence` (EvidenceItems
            or their dicts, in reading order), `gate` (expert -> weight), `status`, `generated` (the label written in
            the answer), `answer` (fields of the answer).
    """
    items = [e if isinstance(e, EvidenceItem) else EvidenceItem(**e) for e in prediction.get("evidence") or ()]
    answer = prediction.get("answer") or {}
    label, generated = prediction.get("label"), prediction.get("generated")
    confidence = "" if prediction.get("confidence") is None else f" ({prediction['confidence']:.0%})"
    out = [f"Clip {prediction['id']}", f"Emotion: {label or 'none: the answer could not be parsed'}{confidence}"]
    if generated is not None and generated != label:
        out.append(f"The written answer names {generated}, the scores name {label}.")
    scores = sorted((prediction.get("scores") or {}).items(), key=lambda s: -s[1])
    if len(scores) > 1:
        out.append("Scores: " + ", ".join(f"{name} {p:.2f}" for name, p in scores))
    out += _listed(
        "Evidence, as given to the language model:", [e.line(show_weight=e.source != "absent") for e in items]
    )
    guessed = [f"{e.modality} (confidence {e.confidence:.2f})" for e in items if e.source == "inferred"]
    if guessed:
        out.append("Inferred, not observed: " + ", ".join(guessed))
    gate = sorted((prediction.get("gate") or {}).items(), key=lambda g: -g[1])
    out += _listed("Gate:", [f"{name:<8}{weight:5.2f}  {'#' * round(weight * 20)}".rstrip() for name, weight in gate])
    if answer.get("emotion_caption"):
        out.append(f"Caption: {answer['emotion_caption']}")
    out += _listed("Cues named in the answer:", answer.get("evidence_summary") or ())
    if answer.get("rationale"):
        out.append(f"Rationale: {answer['rationale']}")
    if prediction.get("status"):
        out.append(f"Answer: {prediction['status']}")
    return "\n".join(out) + "\n"


def _listed(head: str, lines: Sequence[str]) -> list[str]:
    return [head, *(f"  {line}" for line in lines)] if lines else []
