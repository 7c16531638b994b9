from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_lightning.errors import ConfigError
from hero_lightning.reasoning.evidence import (
    CHANNELS,
    EXPERTS,
    MUSCLES,
    PREFIXES,
    ClipView,
    EvidenceItem,
    MeasureStatistics,
    Phrasing,
    TemplateWriter,
    named_modalities,
    plain,
)
from hero_lightning.reasoning.prompts import PromptBuilder
from hero_lightning.types import MODALITIES, Sample, Turn

WEIGHTS = {"frame": 0.05, "face": 0.1, "motion": 0.15, "audio": 0.3, "au": 0.25, "text": 0.1, "synergy": 0.05}
EMOTIONS = (
    *("happ", "joy", "sad", "ang", "fear", "surpris", "disgust", "neutral"),
    *("emotion", "contempt", "smil", "frown"),
)


def clip(speaker: str | None = None, text: str | None = "well then", **audio: float) -> ClipView:
    return ClipView("c", text, speaker, measures={"audio": audio})


def write(view: ClipView, present: tuple[str, ...] = EXPERTS, sync: float | None = 0.9, **options: object):
    phrasing = Phrasing(**{k: options.pop(k) for k in ("numbers", "phrases", "quote") if k in options})  # type: ignore[arg-type]
    return TemplateWriter(phrasing=phrasing, **options).write(view, WEIGHTS, present, {}, sync)  # type: ignore[arg-type]


def words(view: ClipView, modality: str, **options: object) -> str:
    return next(e.text for e in write(view, **options) if e.modality == modality)


@pytest.fixture
def statistics() -> MeasureStatistics:
    """Dataset around 200 Hz; speaker Low around 100 Hz in 8 clips, Rare heard only 7 times at 400 Hz."""
    clips = [clip("Low", pitch_hz=100.0 + d) for d in (-4, -3, -2, -1, 1, 2, 3, 4)]
    clips += [clip("Rare", pitch_hz=400.0 + d) for d in range(7)]
    clips += [clip(None, pitch_hz=150.0 + d) for d in (-50, 50)]
    return MeasureStatistics.fit(clips)


def test_ids_and_canonical_order() -> None:
    items = write(clip(), order="canonical")
    assert [e.id for e in items] == ["VE-01", "FE-01", "ME-01", "AE-01", "PE-01", "TE-01", "SE-01"]
    assert all(e.source == "observed" and e.confidence == 1 for e in items if e.modality != "synergy")
    assert [e.modality for e in items] == [*MODALITIES, "synergy"]


def test_order_by_weight_with_canonical_ties() -> None:
    assert [e.modality for e in write(clip())] == ["audio", "au", "motion", "face", "text", "frame", "synergy"]


def test_top_k_and_min_weight_keep_the_weighty() -> None:
    assert [e.modality for e in write(clip(), top_k=2)] == ["audio", "au"]
    assert [e.modality for e in write(clip(), min_weight=0.2)] == ["audio", "au"]
    assert [e.modality for e in write(clip(), top_k=3, order="canonical")] == ["motion", "audio", "au"]


def test_shuffle_is_seeded_by_the_clip_and_changes_only_the_order() -> None:
    one = write(clip(), shuffle=True)
    assert one == write(clip(), shuffle=True)
    assert sorted(e.id for e in one) == sorted(e.id for e in write(clip()))
    assert one != write(replace(clip(), id="another"), shuffle=True)


def test_off_writes_nothing() -> None:
    assert write(clip(), enabled=False) == []


def test_conflict_leads_unless_told_otherwise() -> None:
    assert write(clip(), sync=0.3)[0] == EvidenceItem(
        "SE-01", "synergy", "voice and movement conflict (0.70)", "observed", 0.7, 0.05
    )
    assert write(clip(), sync=0.3, top_k=1, min_weight=0.5)[0].modality == "synergy"
    assert write(clip(), sync=0.3, conflict_first=False)[-1].modality == "synergy"
    assert write(clip(), sync=0.5)[-1].text == "voice and movement match (0.50)"


def test_synergy_says_nothing_where_it_had_nothing_to_compare() -> None:
    assert "synergy" not in {e.modality for e in write(clip(), present=("text",), sync=0.1)}
    assert "synergy" not in {e.modality for e in write(clip(), sync=None)}


def test_absent_modalities_are_named_last_inferred_or_omitted() -> None:
    view, present = clip(), ("text",)
    weights, sure = {"text": 0.2, "audio": 0.7, "au": 0.1}, {"audio": 0.62, "au": 0.1}
    named = TemplateWriter().write(view, weights, present, sure)
    assert [(e.id, e.source, e.weight) for e in named] == [
        ("TE-01", "observed", 0.2), ("AE-01", "absent", 0.0), ("PE-01", "absent", 0.0),
    ]  # fmt: skip
    assert named[1].line(show_weight=True) == "AE-01: voice not available [0.00]"
    inferred = TemplateWriter(absent="infer").write(view, weights, present, sure)
    assert [(e.id, e.source, e.confidence) for e in inferred] == [
        ("IAE-01", "inferred", 0.62), ("TE-01", "observed", 1.0), ("PE-01", "absent", 0.0),
    ]  # fmt: skip
    assert inferred[0].line().endswith("(inferred, confidence 0.62)")
    assert [e.id for e in TemplateWriter(absent="omit").write(view, weights, present, sure)] == ["TE-01"]


def test_prosody_against_the_dataset_or_the_speaker(statistics: MeasureStatistics) -> None:
    high_for_low = clip("Low", pitch_hz=110.0)
    assert words(high_for_low, "audio", statistics=statistics) == "pitch very high (110 Hz, speaker mean 100 Hz)"
    stranger = replace(high_for_low, speaker="Stranger")
    assert words(stranger, "audio", statistics=statistics).startswith("pitch low (110 Hz, dataset mean")
    assert words(replace(high_for_low, speaker="Rare"), "audio", statistics=statistics).startswith("pitch low")
    assert words(high_for_low, "audio", statistics=statistics, numbers=False) == "pitch very high"
    assert words(clip("Low", pitch_hz=100.0), "audio", statistics=statistics) == "voice as usual"


def test_most_unusual_measures_first_and_only_so_many() -> None:
    usual = {"pitch_hz": (100.0, 10.0), "energy_db": (-20.0, 2.0), "pause_share": (0.2, 0.1), "movement": (5.0, 1.0)}
    statistics = MeasureStatistics({"audio": usual})
    view = clip(pitch_hz=110.0, energy_db=-26.0, pause_share=0.4, movement=5.1)
    options = {"statistics": statistics, "numbers": False}
    assert words(view, "audio", **options) == "loudness very low; pauses very many; pitch high"
    assert words(view, "audio", phrases=1, **options) == "loudness very low"


def test_measures_without_a_mean_are_written_as_numbers() -> None:
    assert (
        words(clip(syllables_per_s=4.2, jitter_percent=1.5), "audio") == "speech 4.2 syllables/s; jitter percent 1.50"
    )


def test_unknown_measures_and_broken_numbers_are_tolerated() -> None:
    assert words(clip(pitch_hz=float("nan")), "audio") == "voice present"
    view = ClipView("c", measures={"frame": {"brightness": 9.0}})
    statistics = MeasureStatistics({"frame": {"brightness": (5.0, 2.0)}})
    assert words(view, "frame", statistics=statistics) == "brightness very high (9.00, dataset mean 5.00)"


def test_muscles_by_their_names_at_their_highest_reading() -> None:
    units = {"AU04": 1.2, "AU04_max": 2.4, "AU12": 0.1, "AU12_max": 0.8, "AU26": 3.5, "AU39": 1.5}
    view = ClipView("c", measures={"au": units})
    assert words(view, "au") == "jaw drop strongly active 3.5; brow lowerer active 2.4; action unit 39 active 1.5"
    used_to_it = MeasureStatistics({"au": {"AU26": (3.5, 0.5), "AU04_max": (0.4, 0.5)}})
    assert words(view, "au", statistics=used_to_it, numbers=False, phrases=1) == "brow lowerer active"
    assert words(ClipView("c", measures={"au": {"AU12": 0.2}}), "au") == "face muscles as usual"


def test_the_transcript_is_quoted_and_shortened() -> None:
    assert words(clip(text="not again"), "text") == 'says "not again"'
    assert words(clip(text="abcdef"), "text", quote=3) == 'says "abc..."'
    assert words(clip(text=None), "text") == "words present"


def test_no_wording_of_ours_is_an_emotion() -> None:
    usual = {n: (0.0, 1.0) for n in ("pitch_hz", "energy_db", "pause_share", "movement", "syllables_per_s")}
    for value in (-9.0, 9.0):
        view = ClipView("c", measures={"audio": dict.fromkeys(usual, value), "au": {f"AU{n}": 4.0 for n in MUSCLES}})
        options = {"statistics": MeasureStatistics({"audio": usual}), "phrases": 99}
        text = " ".join(e.line(True) for e in write(view, sync=0.1, **options)).lower()
        assert not [word for word in EMOTIONS if word in text]


def test_statistics_survive_a_checkpoint(statistics: MeasureStatistics) -> None:
    state = asdict(statistics)
    back = MeasureStatistics(**json.loads(json.dumps(state)))
    assert back.usual("audio", "pitch_hz", "Low") == statistics.usual("audio", "pitch_hz", "Low")
    assert set(state["speakers"]["Low"]["audio"]) == {"pitch_hz"}
    assert not state["speakers"]["Rare"]


def test_a_measure_that_never_varies_says_nothing_about_what_is_usual() -> None:
    statistics = MeasureStatistics.fit([clip(pitch_hz=100.0)] * 9)
    assert statistics.usual("audio", "pitch_hz", None) is None


def test_the_view_has_no_place_for_what_may_not_be_seen() -> None:
    assert {f.name for f in fields(ClipView)} == {"id", "text", "speaker", "turns", "measures"}


@pytest.mark.parametrize("mode", ["cot", "label", "caption"])
def test_nothing_made_from_the_label_reaches_a_prompt(mode: str) -> None:
    told = Sample(
        "id-sentinel",
        "train",
        text="hm",
        speaker="Ann",
        turns=(Turn("Bob", "so"),),
        labels={"emotion": "label-sentinel"},
        descriptions={k: f"{k}-sentinel" for k in ("caption", "rationale", "evidence", *EXPERTS)},
        truth={"informative": "truth-sentinel", "conflict": "conflict-sentinel"},
    )
    bare = replace(told, id="other", labels={}, descriptions={}, truth={})
    builder = PromptBuilder(mode, ("a", "b"), context_turns=3, weights=True)  # type: ignore[arg-type]
    measures = {"audio": {"pitch_hz": 120.0}, "au": {"AU04": 2.0}}
    prompts = []
    for sample in (told, bare):
        view = ClipView.of(sample, measures)
        items = TemplateWriter(absent="infer").write(view, WEIGHTS, ("audio", "au", "text"), {"face": 0.9}, 0.2)
        prompts.append(builder.build(view, items))
    assert "sentinel" not in prompts[0].text() + str(prompts[0].messages())
    assert prompts[0] == prompts[1]


@given(st.text())
def test_foreign_text_holds_no_special_token(text: str) -> None:
    for token in ("<|context|>", "<|im_end|>", "</s>", "<s>"):
        cleaned = plain(f"{text}{token}{text}")
        assert token not in cleaned
        assert "\n" not in cleaned


def test_plain_keeps_ordinary_words() -> None:
    assert plain(" I  <3 you\n<laugh> ") == "I <3 you (laugh)"


def test_modalities_named_in_a_text() -> None:
    assert named_modalities("By IAE-01 and PE-01, not VE-01; again AE-01.") == ["audio", "au", "frame"]
    assert named_modalities("The gesture and the action units say joy. The voice and face add nothing.") == [
        "motion", "au", "audio", "face",
    ]  # fmt: skip
    assert named_modalities("The face muscles (PE-01): VEX, faceless, AE-1.") == ["au"]
    assert set(PREFIXES) == set(CHANNELS) == set(EXPERTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "size"}, "Unknown reasoner.evidence.order"),
        ({"absent": "zero"}, "Unknown reasoner.evidence.absent"),
        ({"top_k": 0}, "evidence.top_k is out of range"),
        ({"phrases": 0}, "evidence.phrasing.phrases is out of range"),
    ],
)
def test_wrong_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write(clip(), **options)
