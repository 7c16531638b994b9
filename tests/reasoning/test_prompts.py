from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.errors import ConfigError
from hero_lightning.models.llm.small_lm import learn_bpe
from hero_lightning.reasoning.answer_targets import AnswerWriter
from hero_lightning.reasoning.evidence import (
    EXPERTS,
    ClipView,
    EvidenceItem,
    MeasureStatistics,
    Phrasing,
    TemplateWriter,
)
from hero_lightning.reasoning.prompts import ANSWER, CONTEXT, KEYS, Dropped, PromptBuilder, fit
from hero_lightning.types import Turn

CLASSES = ("neutral", "joy", "anger")
VIEW = ClipView("c", "Oh my god, he did it again", "Rachel", tuple(Turn(f"S{k}", f"turn {k}") for k in range(5)))
ITEMS = (
    EvidenceItem("AE-01", "audio", "pitch very high", weight=0.6),
    EvidenceItem("IPE-01", "au", "no face muscles recorded", "inferred", 0.5, 0.3),
    EvidenceItem("TE-01", "text", "says something", weight=0.1),
    EvidenceItem("VE-01", "frame", "scene not available", "absent", 0.0, 0.0),
)


def words(text: str) -> int:
    return len(text.split())


def test_parts_in_order_and_in_words() -> None:
    prompt = PromptBuilder("cot", CLASSES, context_turns=2, weights=True).build(VIEW, ITEMS)
    assert [p.name for p in prompt.parts] == [
        "role", "context", "evidence", "transcript", "turns", "labels", "steps", "instruction",
    ]  # fmt: skip
    text = prompt.text()
    places = [text.index(s) for s in (CONTEXT, "AE-01: pitch very high [0.60]", "Rachel says:", "S3: turn 3",
                                      "S4: turn 4", "neutral, joy, anger", "four steps", "JSON", ANSWER)]  # fmt: skip
    assert places == sorted(places)
    assert "IPE-01: no face muscles recorded (inferred, confidence 0.50) [0.30]" in text
    assert "turn 2" not in text
    assert text.endswith(f"\n{ANSWER}\n")


def test_both_styles_have_the_same_content_in_the_same_order() -> None:
    full, compact = (PromptBuilder("cot", CLASSES, 2, style).build(VIEW, ITEMS) for style in ("full", "compact"))  # type: ignore[arg-type]
    assert [(p.name, p.lines) for p in full.parts] == [(p.name, p.lines) for p in compact.parts]
    assert full.keys == compact.keys
    assert words(compact.text()) < words(full.text())


@pytest.mark.parametrize("mode", list(KEYS))
@pytest.mark.parametrize("style", ["full", "compact"])
@pytest.mark.parametrize("caption", [True, False])
def test_the_prompt_names_exactly_the_keys_the_target_holds(mode: str, style: str, caption: bool) -> None:
    prompt = PromptBuilder(mode, CLASSES, style=style, caption=caption).build(VIEW, ITEMS)  # type: ignore[arg-type]
    instruction = prompt.parts[-1].text()
    answer = AnswerWriter().target("joy", ITEMS, keys=prompt.keys).text
    asked = [k for k in KEYS["cot"] if k in instruction]
    assert asked == [k for k in KEYS["cot"] if f'"{k}": ' in answer] == list(prompt.keys)


def test_modes_per_call() -> None:
    builder = PromptBuilder("cot", CLASSES)
    label, caption = builder.build(VIEW, ITEMS, mode="label"), builder.build(VIEW, ITEMS, mode="caption")
    assert label.keys == ("final_emotion",)
    assert label.part("steps") is None
    assert label.part("labels")
    assert caption.keys == ("emotion_caption",)
    assert caption.part("labels") is None


def test_classes_of_another_dataset_per_call() -> None:
    builder = PromptBuilder("label", CLASSES)
    assert "calm, tense" in builder.build(VIEW, ITEMS, classes=("calm", "tense")).text()
    assert builder.build(VIEW, ITEMS, classes=()).part("labels") is None


def test_messages_say_the_same_as_the_plain_text() -> None:
    prompt = PromptBuilder("cot", CLASSES, 3, role="You read feelings.").build(VIEW, ITEMS)
    system, user = prompt.messages()
    assert (system["role"], system["content"], user["role"]) == ("system", "You read feelings.", "user")
    assert f"{system['content']}\n{user['content']}\n{ANSWER}\n" == prompt.text()


def test_what_is_not_there_is_not_shown() -> None:
    prompt = PromptBuilder("cot", CLASSES, 3, steps=False).build(ClipView("c"), [])
    assert [p.name for p in prompt.parts] == ["role", "context", "labels", "instruction"]
    assert PromptBuilder(transcript=False).build(VIEW, ITEMS).part("transcript") is None
    assert "The person says:" in PromptBuilder().build(ClipView("c", "oh"), []).text()


@given(st.text(), st.text(), st.sampled_from(["full", "compact"]))
def test_one_placeholder_whatever_is_said(text: str, speaker: str, style: str) -> None:
    view = ClipView("c", f"{text} {CONTEXT}", speaker + CONTEXT, (Turn(CONTEXT, f"{CONTEXT}{text}"),))
    items = TemplateWriter().write(view, {"text": 1.0}, ("text",))
    assert PromptBuilder("cot", CLASSES, 1, style).build(view, items).text().count(CONTEXT) == 1  # type: ignore[arg-type]


def test_a_prompt_that_fits_is_not_touched() -> None:
    prompt = PromptBuilder("cot", CLASSES, 5).build(VIEW, ITEMS)
    assert fit(prompt, words, words(prompt.text())) == (prompt, Dropped())


def test_oldest_turns_then_weakest_evidence_then_the_transcripts_middle() -> None:
    prompt = PromptBuilder("cot", CLASSES, 5).build(VIEW, ITEMS)
    size, kept = words(prompt.text()), "Oh my god, he did it again"

    def fitted(budget: int) -> tuple[str, Dropped]:
        short, dropped = fit(prompt, words, budget)
        assert words(short.text()) <= budget
        return short.text(), dropped

    text, dropped = fitted(size - 1)
    assert dropped == Dropped(turns=1)
    assert "turn 0" not in text
    assert "turn 1" in text
    everything_but_turns = size - 5 * 3 - words("What was said before:")
    assert fitted(everything_but_turns)[1] == Dropped(turns=5)
    text, dropped = fitted(everything_but_turns - 1)
    assert dropped == Dropped(5, ("VE-01",))
    text, dropped = fitted(everything_but_turns - 5)
    assert dropped == Dropped(5, ("VE-01", "TE-01"))
    assert [e.id for e in dropped.kept(ITEMS)] == ["AE-01", "IPE-01"]
    assert kept in text
    bare = words(PromptBuilder("cot", CLASSES).build(VIEW, []).text())
    text, dropped = fitted(bare - 2)
    assert len(dropped.evidence) == 4
    assert dropped.characters > 0
    assert "Oh my" in text
    assert "again" in text
    assert "Evidence, as observed" not in text


@settings(max_examples=50)
@given(st.integers(40, 200), st.text(max_size=200), st.lists(st.text(max_size=30), max_size=6))
def test_question_and_answer_marker_are_never_cut(budget: int, said: str, turns: list[str]) -> None:
    view = ClipView("c", said, None, tuple(Turn("A", t) for t in turns))
    prompt = PromptBuilder("cot", CLASSES, 6, "compact").build(view, ITEMS)
    short, _ = fit(prompt, words, budget)
    fixed = ("role", "context", "labels", "steps", "instruction")
    assert words(short.text()) <= budget
    assert [p for p in short.parts if p.name in fixed] == [p for p in prompt.parts if p.name in fixed]
    assert short.text().endswith(f"\n{ANSWER}\n")


def test_a_question_longer_than_the_budget_is_an_error() -> None:
    prompt = PromptBuilder("cot", CLASSES, 5).build(VIEW, ITEMS)
    with pytest.raises(ConfigError, match=r"question alone is longer[\s\S]*at most 5 tokens[\s\S]*prompt\.max_tokens"):
        fit(prompt, words, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "chat"}, "Unknown reasoner.prompt.mode"),
        ({"style": "long"}, "Unknown reasoner.prompt.style"),
        ({"context_turns": -1}, "turns"),
    ],
)
def test_wrong_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PromptBuilder(**options)


VOCABULARY = ["you", "know", "what", "really", "think", "we", "should", "go", "home", "now", "because", "she", "fine"]


def rich_clips(count: int) -> list[ClipView]:
    """Clips with every modality, measures off the mean, 12 spoken words and 3 turns: what a demo clip looks like."""
    rng = random.Random(0)

    def said() -> str:
        return " ".join(rng.choices(VOCABULARY, k=12))

    def measures() -> dict[str, dict[str, float]]:
        audio = {
            n: rng.gauss(10, 3) for n in ("pitch_hz", "pitch_range_st", "energy_db", "syllables_per_s", "pause_share")
        }
        au = {f"AU{n:02d}_max": rng.uniform(0, 5) for n in (1, 2, 4, 5, 6, 7, 9, 12, 15, 20, 23, 25, 26)}
        return {"audio": audio, "au": au, "motion": {"movement": rng.gauss(5, 2)}}

    return [
        ClipView(str(k), said(), "Ann", tuple(Turn("Bob", said()) for _ in range(3)), measures()) for k in range(count)
    ]


def test_compact_prompts_stay_under_300_tokens_of_a_small_tokenizer() -> None:
    clips = rich_clips(80)
    writer = TemplateWriter(MeasureStatistics.fit(clips), phrasing=Phrasing(numbers=False))
    builder = PromptBuilder("cot", ("neutral", "joy", "sadness", "anger", "surprise", "fear"), 3, "compact")
    weights = {name: 1 / 7 for name in EXPERTS}
    prompts = [builder.build(v, writer.write(v, weights, EXPERTS, {}, 0.4)).text() for v in clips]
    tokenizer = learn_bpe(prompts[:60], 2048, [])
    assert max(len(tokenizer.encode(p).ids) for p in prompts[60:]) <= 300
