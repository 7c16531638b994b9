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


@pytest.mark.parametrize(
    ("text", "status", "label", "fields"),
    [
        pytest.param(json.dumps(FULL), "ok", "joy", FULL, id="clean"),
        pytest.param(f"Sure!\n```json\n{json.dumps(FULL, indent=2)}\n```\nDone.", "ok", "joy", FULL, id="fenced"),
        pytest.param('{"rationale": "so", "final_emotion": "joy",}', "repaired", "joy", None, id="trailing comma"),
        pytest.param(
            '{"evidence_summary": ["a", "b", ], "final_emotion": "joy"}',
            "repaired",
            "joy",
            {"evidence_summary": ["a", "b"], "final_emotion": "joy"},
            id="trailing comma in a list",
        ),
        pytest.param(
            '{"final_emotion": "anger"} {"final_emotion": "joy"}', "ok", "joy", None, id="two objects, last wins"
        ),
        pytest.param(
            "{\"final_emotion\": \"anger\"} {'final_emotion': 'joy',}",
            "repaired",
            "joy",
            None,
            id="example echoed, then a sloppy answer",
        ),
        pytest.param(
            '{"final_emotion": "joy"} {"final_emotion": "ang', "ok", "joy", None, id="complete before unfinished"
        ),
        pytest.param('{"final_emotion": "joy"} {"rationale": "x"}', "ok", "joy", None, id="label before none"),
        pytest.param(
            '{"rationale": "a } b { c \\" }", "final_emotion": "joy"}',
            "ok",
            "joy",
            {"rationale": 'a } b { c " }', "final_emotion": "joy"},
            id="braces in strings",
        ),
        pytest.param(
            '{"reasoning_process": "r", "emotion": "Joy", "evidence": "e", "caption": "c"}',
            "ok",
            "joy",
            {"rationale": "r", "final_emotion": "Joy", "evidence_summary": ["e"], "emotion_caption": "c"},
            id="aliases",
        ),
        pytest.param(
            '{"Final Emotion": "joy", "label": "anger"}', "ok", "joy", {"final_emotion": "joy"}, id="key over alias"
        ),
        pytest.param('{"final_emotion": "bored"}', "failed", None, {"final_emotion": "bored"}, id="unknown label"),
        pytest.param(
            '{"rationale": "joy is plain to see"}', "failed", None, {"rationale": "joy is plain to see"}, id="no label"
        ),
        pytest.param(
            '{"final_emotion": "joy", "rationale": "cut in the mid',
            "repaired",
            "joy",
            {"final_emotion": "joy", "rationale": "cut in the mid"},
            id="truncated in a string",
        ),
        pytest.param(
            '{"final_emotion": "joy", "evidence_summary": ["a", "b',
            "repaired",
            "joy",
            {"final_emotion": "joy", "evidence_summary": ["a", "b"]},
            id="truncated in a list",
        ),
        pytest.param(
            '{"final_emotion": "joy", "ration', "repaired", "joy", {"final_emotion": "joy"}, id="truncated in a key"
        ),
        pytest.param('{"final_emotion": "joy", "rationale":', "repaired", "joy", None, id="truncated after a key"),
        pytest.param('{"final_emotion":', "failed", None, {}, id="truncated before anything"),
        pytest.param('{"final_emotion": "joy"\n```', "repaired", "joy", None, id="brace forgotten in a fence"),
        pytest.param(
            "{'rationale': 'it\\'s he who isn't \"mad\"', 'final_emotion': 'joy'}",
            "repaired",
            "joy",
            {"rationale": "it's he who isn't \"mad\"", "final_emotion": "joy"},
            id="single quotes",
        ),
        pytest.param(
            '{"rationale": "says "no" twice", "final_emotion": "joy"}',
            "repaired",
            "joy",
            {"rationale": 'says "no" twice', "final_emotion": "joy"},
            id="bare quotes in a string",
        ),
        pytest.param(
            '{"rationale": "two\nlines", "final_emotion": "joy"}', "repaired", "joy", None, id="bare line end"
        ),
        pytest.param('{"answer": {"final_emotion": "joy"}}', "ok", "joy", {"final_emotion": "joy"}, id="nested"),
        pytest.param('{"final_emotion": "joy", "extra": {"label": "anger"}}', "ok", "joy", None, id="nested rest"),
        pytest.param('{ hm { {"final_emotion": "joy"}', "ok", "joy", None, id="stray braces before"),
        pytest.param('{"final_emotion": ["joy"]}', "repaired", "joy", {"final_emotion": "joy"}, id="label in a list"),
        pytest.param('{"final_emotion": ["joy", "anger"]}', "failed", None, None, id="two labels"),
        pytest.param('{"final_emotion": 3}', "failed", None, {}, id="label of wrong type"),
        pytest.param(
            '{"final_emotion": "joy", "rationale": 3}', "repaired", "joy", {"final_emotion": "joy"}, id="wrong type"
        ),
        pytest.param(
            '{"final_emotion": "joy", "confidence": 0.8}',
            "ok",
            "joy",
            {"final_emotion": "joy", "confidence": 0.8},
            id="confidence",
        ),
        pytest.param(
            '{"final_emotion": "joy", "confidence": "0.8"}',
            "repaired",
            "joy",
            {"final_emotion": "joy", "confidence": 0.8},
            id="confidence as text",
        ),
        pytest.param(
            '{"final_emotion": "joy", "confidence": 80}',
            "repaired",
            "joy",
            {"final_emotion": "joy"},
            id="confidence out of range",
        ),
        pytest.param(
            '{"final_emotion": "joy", "confidence": NaN}',
            "repaired",
            "joy",
            {"final_emotion": "joy"},
            id="confidence not a number",
        ),
        pytest.param("I would say Joy.", "label_only", "joy", {"final_emotion": "joy"}, id="label in a sentence"),
        pytest.param("joy, joy, joy", "label_only", "joy", None, id="one label often"),
        pytest.param("joy or anger", "failed", None, {}, id="two labels in a sentence"),
        pytest.param("enjoyment", "failed", None, {}, id="label inside a word"),
        pytest.param("I cannot tell.", "failed", None, {}, id="none"),
        pytest.param("", "failed", None, {}, id="empty"),
        pytest.param("{}", "failed", None, {}, id="empty object"),
        pytest.param("[1, 2]", "failed", None, {}, id="list"),
    ],
)
def test_parser_table(text: str, status: str, label: str | None, fields: dict[str, Any] | None) -> None:
    answer = parse(text, CLASSES)
    assert (answer.status, answer.label) == (status, label)
    assert fields is None or answer.fields == fields
    assert answer.parsed == (status in ("ok", "repaired"))


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("joy", "joy"),
        ("  JOY!! ", "joy"),
        ("Happiness", "joy"),
        ("angry", "anger"),
        ("mad", "anger"),
        ("Sad.", "sadness"),
        ("", None),
        ("!!", None),
        ("not joy", None),
        ("happy and sad", None),
    ],
)
def test_labels_by_case_punctuation_and_synonym(said: str, label: str | None) -> None:
    assert match_label(said, CLASSES, {"Mad!": "Anger"}) == label


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
