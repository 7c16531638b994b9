from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_lightning.reasoning.answers import Answer, match_label, parse

CLASSES = ("neutral", "joy", "anger", "sadness")
FULL = {
    "emotion_caption": "A man laughs.",
    "evidence_summary": ["AE-01: loud", "PE-01: cheek raiser"],
    "rationale": "Voice and face agree.",
    "final_emotion": "joy",
}


TABLE = {
    "clean": (json.dumps(FULL), "ok", "joy", FULL),
    "fenced": (f"Sure!\n```json\n{json.dumps(FULL, indent=2)}\n```\nDone.", "ok", "joy", FULL),
    "trailing comma": ('{"rationale": "so", "final_emotion": "joy",}', "repaired", "joy", None),
    "trailing comma in a list": (
        '{"evidence_summary": ["a", "b", ], "final_emotion": "joy"}',
        "repaired", "joy", {"evidence_summary": ["a", "b"], "final_emotion": "joy"},
    ),
    "two objects, last wins": ('{"final_emotion": "anger"} {"final_emotion": "joy"}', "ok", "joy", None),
    "example echoed, then a sloppy answer": (
        "{\"final_emotion\": \"anger\"} {'final_emotion': 'joy',}", "repaired", "joy", None,
    ),
    "complete before unfinished": ('{"final_emotion": "joy"} {"final_emotion": "ang', "ok", "joy", None),
    "label before none": ('{"final_emotion": "joy"} {"rationale": "x"}', "ok", "joy", None),
    "braces in strings": (
        '{"rationale": "a } b { c \\" }", "final_emotion": "joy"}',
        "ok", "joy", {"rationale": 'a } b { c " }', "final_emotion": "joy"},
    ),
    "aliases": (
        '{"reasoning_process": "r", "emotion": "Joy", "evidence": "e", "caption": "c"}',
        "ok", "joy", {"rationale": "r", "final_emotion": "Joy", "evidence_summary": ["e"], "emotion_caption": "c"},
    ),
    "key over alias": ('{"Final Emotion": "joy", "label": "anger"}', "ok", "joy", {"final_emotion": "joy"}),
    "unknown label": ('{"final_emotion": "bored"}', "failed", None, {"final_emotion": "bored"}),
    "no label": ('{"rationale": "joy is plain to see"}', "failed", None, {"rationale": "joy is plain to see"}),
    "truncated in a string": (
        '{"final_emotion": "joy", "rationale": "cut in the mid',
        "repaired", "joy", {"final_emotion": "joy", "rationale": "cut in the mid"},
    ),
    "truncated in a list": (
        '{"final_emotion": "joy", "evidence_summary": ["a", "b',
        "repaired", "joy", {"final_emotion": "joy", "evidence_summary": ["a", "b"]},
    ),
    "truncated in a key": ('{"final_emotion": "joy", "ration', "repaired", "joy", {"final_emotion": "joy"}),
    "truncated after a key": ('{"final_emotion": "joy", "rationale":', "repaired", "joy", None),
    "truncated before anything": ('{"final_emotion":', "failed", None, {}),
    "brace forgotten in a fence": ('{"final_emotion": "joy"\n```', "repaired", "joy", None),
    "single quotes": (
        "{'rationale': 'it\\'s he who isn't \"mad\"', 'final_emotion': 'joy'}",
        "repaired", "joy", {"rationale": "it's he who isn't \"mad\"", "final_emotion": "joy"},
    ),
    "bare quotes in a string": (
        '{"rationale": "says "no" twice", "final_emotion": "joy"}',
        "repaired", "joy", {"rationale": 'says "no" twice', "final_emotion": "joy"},
    ),
    "bare line end": ('{"rationale": "two\nlines", "final_emotion": "joy"}', "repaired", "joy", None),
    "nested": ('{"answer": {"final_emotion": "joy"}}', "ok", "joy", {"final_emotion": "joy"}),
    "nested rest": ('{"final_emotion": "joy", "extra": {"label": "anger"}}', "ok", "joy", None),
    "stray braces before": ('{ hm { {"final_emotion": "joy"}', "ok", "joy", None),
    "label in a list": ('{"final_emotion": ["joy"]}', "repaired", "joy", {"final_emotion": "joy"}),
    "two labels": ('{"final_emotion": ["joy", "anger"]}', "failed", None, None),
    "label of wrong type": ('{"final_emotion": 3}', "failed", None, {}),
    "wrong type": ('{"final_emotion": "joy", "rationale": 3}', "repaired", "joy", {"final_emotion": "joy"}),
    "confidence": (
        '{"final_emotion": "joy", "confidence": 0.8}', "ok", "joy", {"final_emotion": "joy", "confidence": 0.8},
    ),
    "confidence as text": (
        '{"final_emotion": "joy", "confidence": "0.8"}', "repaired", "joy", {"final_emotion": "joy", "confidence": 0.8},
    ),
    "confidence out of range": (
        '{"final_emotion": "joy", "confidence": 80}', "repaired", "joy", {"final_emotion": "joy"},
    ),
    "confidence not a number": (
        '{"final_emotion": "joy", "confidence": NaN}', "repaired", "joy", {"final_emotion": "joy"},
    ),
    "label in a sentence": ("I would say Joy.", "label_only", "joy", {"final_emotion": "joy"}),
    "one label often": ("joy, joy, joy", "label_only", "joy", None),
    "two labels in a sentence": ("joy or anger", "failed", None, {}),
    "label inside a word": ("enjoyment", "failed", None, {}),
    "none": ("I cannot tell.", "failed", None, {}),
    "empty": ("", "failed", None, {}),
    "empty object": ("{}", "failed", None, {}),
    "list": ("[1, 2]", "failed", None, {}),
}  # fmt: skip
"""Case -> text, status, label, fields (None = any)."""


@pytest.mark.parametrize(("text", "status", "label", "fields"), TABLE.values(), ids=TABLE)
def test_parser_table(text: str, status: str, label: str | None, fields: dict[str, Any] | None) -> None:
    answer = parse(text, CLASSES)
    assert (answer.status, answer.label) == (status, label)
    assert fields is None or answer.fields == fields
    assert answer.parsed == (status in ("ok", "repaired"))


@pytest.mark.parametrize(
    ("word", "label"),
    [
        *(("joy", "joy"), ("  JOY!! ", "joy"), ("Happiness", "joy"), ("angry", "anger"), ("mad", "anger")),
        *(("Sad.", "sadness"), ("", None), ("!!", None), ("not joy", None), ("happy and sad", None)),
    ],
)
def test_labels_by_case_punctuation_and_synonym(word: str, label: str | None) -> None:
    assert match_label(word, CLASSES, {"Mad!": "Anger"}) == label


def test_word_forms_do_not_choose_between_two_classes() -> None:
    assert match_label("joyful", ("happy", "joy")) is None
    assert match_label("happy", ("happy", "joy")) == "happy"


def test_classes_that_look_alike_are_told_apart_as_spelled() -> None:
    assert match_label("A", ("a", "A")) == "A"
    assert match_label("a!", ("a", "A")) is None


def test_a_class_name_inside_another_one() -> None:
    classes = ("mind wandering", "non-mind wandering")
    assert parse("The label is non-mind wandering.", classes).label == "non-mind wandering"
    assert parse("mind wandering", classes).label == "mind wandering"
    assert parse("mind wandering, not non-mind wandering", classes).label is None


def test_scripts_without_blanks() -> None:
    assert parse("这个人很愤怒。", ("愤怒", "快乐")) == Answer({"final_emotion": "愤怒"}, "label_only", "愤怒")


def test_free_answers_take_any_label() -> None:
    assert parse('{"final_emotion": "wistful, tired"}') == Answer(
        {"final_emotion": "wistful, tired"}, "ok", "wistful, tired"
    )
    assert parse('{"final_emotion": ["wistful", "tired"]}').label == "wistful, tired"
    assert parse('{"final_emotion": " "}').status == "failed"


def test_captions_need_no_label() -> None:
    assert parse('{"emotion_caption": "A man."}', CLASSES, need="emotion_caption") == Answer(
        {"emotion_caption": "A man."}, "ok"
    )
    assert parse("joy", CLASSES, need="emotion_caption").status == "failed"


@given(st.text() | st.text(alphabet="{}[]\"',:\\` \nab0"))
def test_never_raises_and_never_invents(text: str) -> None:
    answer = parse(text, CLASSES)
    assert answer.label in (None, *CLASSES)
    assert (answer.label is None) == (answer.status == "failed")


@given(st.integers(0, 200))
def test_a_clean_answer_cut_anywhere_never_gives_another_label(length: int) -> None:
    text = json.dumps({**FULL, "final_emotion": "sadness"})[:length]
    assert parse(text, ("joy", "sadness", "anger")).label in (None, "sadness")


@pytest.mark.parametrize(
    "text", ["{" * 20000, "[" * 20000, '{"a":' * 5000, "{'" * 5000, "{," * 20000, '{"a": "' + '" ' * 5000]
)
def test_garbage_is_read_in_bounded_time(text: str) -> None:
    start = time.process_time()
    assert parse(text, CLASSES).status == "failed"
    assert time.process_time() - start < 3
