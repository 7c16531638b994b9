from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_lightning.errors import ConfigError, DataError
from hero_lightning.reasoning.answer_targets import WEIGHTS, AnswerWriter, TargetAnswer, token_weights
from hero_lightning.reasoning.answers import parse
from hero_lightning.reasoning.evidence import ClipView, EvidenceItem, TemplateWriter, named_modalities
from hero_lightning.reasoning.prompts import KEYS, PromptBuilder

ITEMS = (
    EvidenceItem("SE-01", "synergy", "voice and movement conflict", weight=0.05),
    EvidenceItem("AE-01", "audio", "pitch very high", weight=0.5),
    EvidenceItem("IPE-01", "au", "no face muscles recorded", "inferred", 0.6, 0.2),
    EvidenceItem("TE-01", "text", 'says "no"', weight=0.15),
    EvidenceItem("ME-01", "motion", "movement large", weight=0.05),
    EvidenceItem("FE-01", "face", "face seen", weight=0.03),
    EvidenceItem("VE-01", "frame", "scene not available", "absent", 0.0, 0.0),
)
WORDS = {"caption": "A woman shouts.", "rationale": "The voice is loud.", "audio": "loud voice", "frame": "a kitchen"}
TEXT = st.text()


def weight_of(target: TargetAnswer, content: str) -> set[float]:
    """Weights of the characters of a piece of an answer."""
    start = target.text.index(content)
    return set(token_weights(target.spans, [(k, k + 1) for k in range(start, start + len(content))]))


def test_descriptions_are_the_target_where_they_are() -> None:
    target = AnswerWriter().target("anger", ITEMS, WORDS)
    assert json.loads(target.text) == {
        "emotion_caption": "A woman shouts.",
        "evidence_summary": ["AE-01: loud voice"],  # the scene is described but was not there to be seen
        "rationale": "The voice is loud.",
        "final_emotion": "anger",
    }
    assert target.source == "description"
    assert weight_of(target, "The voice is loud.") == {WEIGHTS["rationale"]}


def test_descriptions_without_evidence_come_in_canonical_order() -> None:
    assert json.loads(AnswerWriter().target("anger", (), WORDS).text)["evidence_summary"] == ["a kitchen", "loud voice"]
    general = {"evidence": "all is loud"}
    assert json.loads(AnswerWriter().target("anger", ITEMS, general).text)["evidence_summary"] == ["all is loud"]


def test_labels_alone_give_observed_evidence_and_a_rationale_that_leads_to_the_label() -> None:
    target = AnswerWriter().target("anger", ITEMS)
    answer = json.loads(target.text)
    assert target.source == "template"
    assert answer["evidence_summary"] == [e.line() for e in ITEMS[:2]] + [ITEMS[3].line()]
    assert answer["rationale"] == (
        "The strongest cue is the voice (AE-01): pitch very high. It is joined by the words (TE-01) and the movement "
        "(ME-01). By SE-01, voice and movement conflict. Little comes from the face (FE-01). So the emotion is anger."
    )
    assert named_modalities(answer["rationale"])[0] == "audio"
    assert not {"IPE", "VE-01", "not available"} & set(target.text.split())
    assert answer["final_emotion"] == "anger"


def test_a_transcript_may_be_named_and_not_repeated() -> None:
    said = EvidenceItem("TE-01", "text", 'says "a long story"', weight=0.9)
    for quote in (True, False):
        text = AnswerWriter(quote=quote).target("joy", [said], None, KEYS["cot"][1:]).text
        assert ("a long story" in text) is quote
        assert "TE-01" in text
        assert ("what is said" in text) is not quote


def test_templates_weigh_less_but_the_label_does_not() -> None:
    target = AnswerWriter(template_weight=0.5).target("anger", ITEMS, {"caption": "A woman shouts."})
    assert target.source == "template"
    assert weight_of(target, "A woman shouts.") == {1.0}
    assert weight_of(target, "The strongest cue") == {0.75}
    assert weight_of(target, "pitch very high") == {0.5}
    start = target.text.rindex("anger")
    assert token_weights(target.spans, [(start, start + 5)]) == [2.0]


def test_no_evidence_at_all_still_makes_an_answer() -> None:
    answer = json.loads(AnswerWriter().target("anger", ()).text)
    assert answer["evidence_summary"] == []
    assert "anger" in answer["rationale"]


def test_label_targets_switch_reasoning_off_where_only_labels_are() -> None:
    writer = AnswerWriter(targets="label")
    assert writer.mode_for(None) == writer.mode_for({}) == "label"
    assert writer.mode_for(WORDS) == "cot"
    assert AnswerWriter().mode_for(None) == "cot"
    assert AnswerWriter("caption", targets="label").mode_for(None) == "caption"


def test_label_and_caption_answers() -> None:
    label = AnswerWriter("label").target("anger", ITEMS)
    assert (label.text, label.source) == ('{"final_emotion": "anger"}', "label")
    caption = AnswerWriter("caption").target(None, ITEMS)
    assert json.loads(caption.text) == {"emotion_caption": "A person: voice and movement conflict; pitch very high."}


def test_a_label_is_scored_on_the_answer_that_is_trained() -> None:
    writer = AnswerWriter()
    for name in ("joy", 'a"b', "愤怒"):
        text = writer.scoring_answer(name)
        assert text == AnswerWriter("label").target(name, ITEMS, WORDS).text
        assert text.startswith('{"final_emotion": "')
        assert parse(text, (name,)).label == name


@given(TEXT, TEXT, TEXT, TEXT, st.text(min_size=1), st.sampled_from(list(KEYS)))
def test_what_is_written_is_what_is_read(
    caption: str, audio: str, text: str, reason: str, label: str, mode: str
) -> None:
    words = {"caption": caption, "audio": audio, "text": text, "rationale": reason}
    keys = PromptBuilder(mode, (label,)).build(ClipView("c"), ()).keys  # type: ignore[arg-type]
    target = AnswerWriter(cues=9).target(label, (), words, keys)
    answer = parse(f"{target.text}", (label, "other"), need=keys[-1])
    expected = {
        "emotion_caption": caption,
        "evidence_summary": [w for w in (audio, text) if w],
        "rationale": reason,
        "final_emotion": label,
    }
    assert answer.status == "ok"
    assert tuple(answer.fields) == keys
    for key, value in answer.fields.items():
        if expected[key] or key == "evidence_summary":  # an empty description is none: a template stands for it
            assert value == expected[key]


@given(st.text(max_size=40), st.dictionaries(st.sampled_from(["AU04", "AU12", "AU26"]), st.floats(0, 5)))
def test_template_answers_are_read_back_whole(said: str, units: dict[str, float]) -> None:
    view = ClipView("c", said, measures={"au": units})
    items = TemplateWriter().write(view, {"text": 0.4, "au": 0.6}, ("text", "au"))
    answer = parse(AnswerWriter().target("joy", items).text, ("joy", "anger"))
    assert (answer.status, answer.label) == ("ok", "joy")
    assert answer.fields["evidence_summary"] == [e.line() for e in items]


@given(TEXT, TEXT, st.text(min_size=1))
def test_spans_cover_the_answer_and_field_weights_fall_on_their_fields(caption: str, audio: str, label: str) -> None:
    weights = {"caption": 3.0, "evidence": 5.0, "rationale": 7.0, "final_emotion": 11.0, "punctuation": 2.0}
    words = {"caption": caption or "c", "audio": audio or "a", "rationale": "r"}
    target = AnswerWriter(weights=weights).target(label, (), words)
    assert [s[0] for s in target.spans] + [len(target.text)] == [0] + [s[1] for s in target.spans]
    found = {w: "".join(target.text[a:b] for a, b, x in target.spans if x == w) for w in weights.values()}
    inner = {k: json.dumps(v, ensure_ascii=False)[1:-1] for k, v in {**words, "final_emotion": label}.items()}
    assert (found[3.0], found[5.0], found[7.0], found[11.0]) == (
        inner["caption"], inner["audio"], "r", inner["final_emotion"],
    )  # fmt: skip
    characters = [(k, k + 1) for k in range(len(target.text))]
    assert token_weights(target.spans, characters) == [w for a, b, w in target.spans for _ in range(a, b)]


def test_token_weights_over_borders_and_without_characters() -> None:
    spans = [(0, 4, 1.0), (4, 6, 2.0), (6, 10, 0.5)]
    offsets = [(0, 4), (3, 5), (5, 9), (0, 10), (10, 10), (0, 0)]
    assert token_weights(spans, offsets) == pytest.approx([1.0, 1.5, (2 + 3 * 0.5) / 4, 1.0, 1.0, 1.0])
    assert token_weights(spans, [(10, 10)], default=0.0) == [0.0]
    assert token_weights([], [(0, 0)]) == [1.0]


def test_a_missing_label_is_an_error_only_where_it_is_asked_for() -> None:
    with pytest.raises(DataError, match="no label to answer with"):
        AnswerWriter().target(None, ITEMS, WORDS)
    assert AnswerWriter("caption").target(None, ITEMS, WORDS).text == '{"emotion_caption": "A woman shouts."}'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "chat"}, "Unknown reasoner.answer.mode"),
        ({"targets": "none"}, "Unknown reasoner.answer.targets"),
        ({"weights": {"label": 2.0}}, r"Unknown reasoner\.answer\.weights[\s\S]*rationale[\s\S]*label"),
        ({"weights": {"caption": -1.0}}, r"weights\.caption is out of range[\s\S]*-1.0"),
        ({"template_weight": float("nan")}, r"template_weight is out of range[\s\S]*nan"),
        ({"cues": 0}, "answer.cues"),
    ],
)
def test_wrong_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnswerWriter(**options)
