"""One predicted clip in builtins, and as the row of a table.

Data flow: Outputs, Features, Availability, a language model's answer -> `describe` -> dict (JSON) -> `table_row`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hero_lightning.features import Availability
    from hero_lightning.models.outputs import Outputs
    from hero_lightning.training.module import EmotionModule
    from hero_lightning.types import Features


def describe(
    module: EmotionModule,
    b: int,
    outputs: Outputs,
    features: Mapping[str, Features],
    availability: Mapping[str, Availability],
    answer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Row b of `outputs` in builtins; `answer` is the language model's."""
    found: dict[str, Any] = {"id": "", "predictions": {}}
    for name, task in module.tasks.items():
        prediction = task.predict(outputs.logits[name])[b].tolist()
        if task.classes:
            ranked = sorted(zip(task.classes, prediction, strict=True), key=lambda pair: -pair[1])
            place = f"{name}_linear" if answer and task is module.main else name
            found["predictions"][place] = {
                "label": ranked[0][0], "confidence": round(ranked[0][1], 4), "all": {c: round(p, 4) for c, p in ranked},
            }  # fmt: skip
        else:
            found["predictions"][name] = {"score": round(prediction[0], 4)}
    if answer is not None:
        scored = {"label": answer["label"], "confidence": answer["confidence"], "all": answer["scores"]}
        found["predictions"] = {module.main.name: scored, **found["predictions"]}
        found["reasoning"] = answer
    if outputs.gate is not None:
        found["gate"] = {e: round(float(g), 4) for e, g in zip(outputs.experts, outputs.gate[b], strict=True)}
    if outputs.importance is not None:
        names = [segment[0] for segment in outputs.segments]
        found["importance"] = {s: round(float(v), 4) for s, v in zip(names, outputs.importance[b], strict=True)}
    found["modalities"] = {n: f"{r.mode}, {r.reason}" if r.reason else r.mode for n, r in availability.items()}
    if outputs.imputed is not None and outputs.confidence is not None:
        found["inferred"] = {
            e: round(float(outputs.confidence[b, i]), 4) for i, e in enumerate(outputs.experts) if outputs.imputed[b, i]
        }
    if outputs.sync_logit is not None and outputs.present[b, outputs.experts.index("synergy")]:
        found["audio_visual_match"] = round(float(outputs.sync_logit[b].sigmoid()), 4)
    found["time_attention"] = {}
    for name, weights in outputs.time_attention.items():
        clock, steps = features[name].time, min(int(features[name].mask[b].sum()), weights.shape[1])
        if clock is not None and outputs.present[b, outputs.experts.index(name)]:
            seconds, weight = _rounded(clock[b, :steps], 3), _rounded(weights[b, :steps], 5)
            found["time_attention"][name] = {"seconds": seconds, "weight": weight}
    return found


def _rounded(values: Any, digits: int) -> list[float]:
    return [round(float(v), digits) for v in values]


def table_row(found: Mapping[str, Any]) -> dict[str, Any]:
    """What `describe` found as a flat row, its columns named as in predictions.csv; a failed clip has id and error.

    <task>_prediction is the best class, or the score; <task>_p_<class> the probabilities, gate_<expert> the gate
    weights; present names the modalities that were read; answer_<field> is what a language model wrote.
    """
    row: dict[str, Any] = {"id": found["id"]}
    for task, prediction in found.get("predictions", {}).items():
        row[f"{task}_prediction"] = prediction.get("label", prediction.get("score"))
        if "all" in prediction:
            row[f"{task}_confidence"] = prediction["confidence"]
            row |= {f"{task}_p_{name}": p for name, p in prediction["all"].items()}
    row |= {f"answer_{k}": v for k, v in (found.get("reasoning", {}).get("answer") or {}).items()}
    row |= {f"gate_{expert}": weight for expert, weight in found.get("gate", {}).items()}
    if "modalities" in found:
        row["present"] = "|".join(n for n, r in found["modalities"].items() if r.startswith(("pre", "real")))
    return row | ({"error": found["error"]} if "error" in found else {})
