from __future__ import annotations

from dataclasses import asdict

from hero_lightning.reasoning.evidence import EvidenceItem
from hero_lightning.reporting.explanation import render

ITEMS = [
    EvidenceItem("AE-01", "audio", "pitch very high", weight=0.55),
    EvidenceItem("IPE-01", "au", "no face muscles recorded", "inferred", 0.4, 0.25),
    EvidenceItem("VE-01", "frame", "scene not available", "absent", 0.0, 0.0),
]
PREDICTION = {
    "id": "dia1_utt2",
    "label": "anger",
    "confidence": 0.714,
    "scores": {"joy": 0.2, "anger": 0.71},
    "evidence": ITEMS,
    "gate": {"au": 0.25, "audio": 0.75},
    "status": "ok",
    "generated": "joy",
    "answer": {
        "emotion_caption": "A man.",
        "evidence_summary": ["AE-01: pitch"],
        "rationale": "Loud.",
        "final_emotion": "joy",
    },
}


def test_the_whole_page() -> None:
    assert render(PREDICTION) == (
        "Clip dia1_utt2\n"
        "Emotion: anger (71%)\n"
        "The written answer names joy, the scores name anger.\n"
        "Scores: anger 0.71, joy 0.20\n"
        "Evidence, as given to the language model:\n"
        "  AE-01: pitch very high [0.55]\n"
        "  IPE-01: no face muscles recorded (inferred, confidence 0.40) [0.25]\n"
        "  VE-01: scene not available\n"
        "Inferred, not observed: au (confidence 0.40)\n"
        "Gate:\n"
        "  audio    0.75  ###############\n"
        "  au       0.25  #####\n"
        "Caption: A man.\n"
        "Cues named in the answer:\n"
        "  AE-01: pitch\n"
        "Rationale: Loud.\n"
        "Answer: ok\n"
    )


def test_items_may_come_from_a_file() -> None:
    assert render({**PREDICTION, "evidence": [asdict(e) for e in ITEMS]}) == render(PREDICTION)


def test_agreement_is_not_remarked() -> None:
    assert "written answer" not in render({**PREDICTION, "generated": "anger"})


def test_an_unreadable_answer_is_said_to_be_one() -> None:
    assert render({"id": "c", "label": None, "status": "failed"}) == (
        "Clip c\nEmotion: none: the answer could not be parsed\nAnswer: failed\n"
    )
