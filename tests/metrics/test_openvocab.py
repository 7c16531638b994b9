"""Open-vocabulary metrics: the plain definition, spec/hybrid_pipeline.md 7.3 to 7.5 by number, constants."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.metrics import openvocab
from hero_lightning.metrics.bootstrap import intervals
from hero_lightning.metrics.wheels import Wheels, clean
from tests.metrics.wheel_tables import MAPPING, write_wheels

COUNTS = {
    "MER2023": {"neutral": 88, "angry": 105, "happy": 93, "sad": 50, "worried": 57, "surprise": 18},
    "MELD": {"anger": 345, "joy": 402, "sadness": 208, "neutral": 1256, "disgust": 68, "fear": 50, "surprise": 281},
    "IEMOCAP": {"happy": 442, "sad": 245, "neutral": 384, "anger": 170},
}
"""Classes of the MER-UniBench test sets (spec/hybrid_pipeline.md 5.2)."""
WORDS = [*MAPPING, "joyful", "relaxed", "relax", "Calm", "furious", "unheard of", "lonely"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    return Wheels(write_wheels(tmp_path_factory.mktemp("wheels")))


def naive(said: list[list[str]], true: list[list[str]], wheels: Wheels, rule: int, level: int) -> tuple[float, ...]:
    """F_s, precision and recall word by word, as the definition reads."""

    def cluster(word: str, k: int) -> object:
        v = wheels.forms.get(word)
        place = -1 if v is None else int(wheels.clusters[rule, k, level, v])
        own = word if v is None else int(wheels.lemma[v])
        return place if place >= 0 else ("own", own) if rule else None

    out = []
    for k in range(len(wheels.sectors)):
        precision, recall = [], []
        for p, y in zip(said, true, strict=True):
            ps, ys = ({c for w in words if (c := cluster(clean(w), k)) is not None} for words in (p, y))
            if ys:
                precision.append(len(ps & ys) / len(ps) if ps else 0.0)
                recall.append(len(ps & ys) / len(ys))
        p, r = (float(np.mean(x)) if x else math.nan for x in (precision, recall))
        out.append((math.nan if math.isnan(p) else 2 * p * r / (p + r) if p + r else 0.0, p, r))
    return tuple(np.mean(out, axis=0).tolist())


SETS = st.lists(st.tuples(*[st.lists(st.sampled_from(WORDS), max_size=4)] * 2), min_size=1, max_size=12)


@given(SETS)
@settings(max_examples=60, deadline=None)
def test_73_equals_the_definition_word_by_word(pairs: list[tuple[list[str], list[str]]]) -> None:
    wheels = test_73_equals_the_definition_word_by_word.wheels  # type: ignore[attr-defined]
    said, true = map(list, zip(*pairs, strict=True))
    found = openvocab.metrics(openvocab.statistics(said, true, wheels).sum(dim=0))
    for rule, tail in ((0, ""), (1, "_corrected")):
        f, p, r = naive(said, true, wheels, rule, 0)
        values = [float(found[f"{name}{tail}"]) for name in ("f_s", "precision", "recall")]
        assert values == pytest.approx([f, p, r], abs=1e-12, nan_ok=True)
        two = naive(said, true, wheels, rule, 1)[0]
        assert float(found[f"f_s_level2{tail}"]) == pytest.approx(two, abs=1e-12, nan_ok=True)
    assert float(found["labels"]) == pytest.approx(np.mean([len({clean(w) for w in p}) for p in said]))


@pytest.fixture(autouse=True)
def _lend(wheels: Wheels) -> None:
    test_73_equals_the_definition_word_by_word.wheels = wheels  # type: ignore[attr-defined]


def test_73_by_hand(wheels: Wheels) -> None:
    """Clip 1: P {happy, sad}, Y {happy}; clip 2: no answer; clip 3: no true label on any wheel, skipped."""
    rows = openvocab.statistics([["happy", "sad"], [], ["sad"]], [["joy"], ["sad"], ["relaxed"]], wheels)
    found = {k: float(v) for k, v in openvocab.metrics(rows.sum(dim=0)).items()}
    assert found["precision"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["recall"] == pytest.approx((1 + 0) / 2)
    assert found["f_s"] == pytest.approx(2 * 0.25 * 0.5 / 0.75)
    assert found["labels"] == 1
    assert found["recall_corrected"] == pytest.approx(1 / 3)  # the third clip counts, and `sad` is not `relaxed`
    assert next(iter(found)) == "f_s"


def test_73_both_zero_is_zero_and_intervals_come_with_it(wheels: Wheels) -> None:
    rows = openvocab.statistics([["sad"], ["sad"]], [["joy"], ["joy"]], wheels)
    assert float(openvocab.metrics(rows.sum(dim=0))["f_s"]) == 0
    rows = openvocab.statistics([["sad"], ["joy"]] * 20, [["joy"], ["joy"]] * 20, wheels)
    low, high = intervals(rows, openvocab.metrics, resamples=200)["f_s"]
    assert low < 0.5 < high


def answers(words: list[str], counts: dict[str, int]) -> tuple[list[list[str]], list[list[str]]]:
    """A constant answer to a test set of these counts."""
    true = [[label] for label, n in counts.items() for _ in range(n)]
    return [words] * len(true), true


def hits(words: list[str], counts: dict[str, int], wheels: Wheels) -> dict[str, float]:
    sums = openvocab.statistics(*answers(words, counts), wheels).sum(dim=0)
    return {k: float(v) for k, v in openvocab.metrics(sums, "hit").items()}


def test_75a_neutral_is_never_scored_officially(wheels: Wheels) -> None:
    counted = {
        k: openvocab.counted(openvocab.statistics(*answers(["sad"], c), wheels).sum(dim=0)) for k, c in COUNTS.items()
    }
    assert counted["MER2023"][0] == 323
    assert counted["MELD"] == [1354, 1354, 1286, 1354, 1005]
    assert counted["IEMOCAP"] == [857] * 5
    neutral = hits(["neutral"], COUNTS["MELD"], wheels)
    assert (neutral["hit_rate"], neutral["hit_rate_corrected"]) == (0, pytest.approx(1256 / 2610))


@pytest.mark.parametrize(("dataset", "three"), [("MER2023", 0.777), ("MELD", 0.762), ("IEMOCAP", 1.0)])
def test_75b_the_hit_rate_rewards_many_labels(wheels: Wheels, dataset: str, three: float) -> None:
    six = hits(["happy", "angry", "sad", "worried", "surprise", "disgust"], COUNTS[dataset], wheels)
    assert six["hit_rate"] == 1
    assert six["labels"] == 6
    assert six["precision"] < 0.27  # what it costs, and what the official table does not show
    assert six["hit_rate_corrected"] < 0.8
    assert hits(["happy", "angry", "sad"], COUNTS[dataset], wheels)["hit_rate"] == pytest.approx(three, abs=5e-4)
    assert set(openvocab.CONSTANTS["hit"]) == {
        ("happy", "angry", "sad", "worried", "surprise", "disgust"),
        ("happy", "angry", "sad"),
    }


def test_75e_constant_predictors_are_offered() -> None:
    assert openvocab.CONSTANTS["open"] == (("angry", "sad", "worried", "happy"), ("angry", "sad", "worried"))


SIGNED = {"CMU-MOSI": (277, 379), "CMU-MOSEI": (2284, 1350), "SIMS": (140, 248), "SIMS v2": (423, 488)}
"""Positive and negative clips of the test sets (spec/hybrid_pipeline.md 5.2)."""


@pytest.mark.parametrize(
    ("dataset", "answer", "waf"),
    [("CMU-MOSI", -1, 0.423), ("CMU-MOSEI", 1, 0.485), ("SIMS", -1, 0.499), ("SIMS v2", -1, 0.374)],
)
def test_75f_sentiment_constants(dataset: str, answer: int, waf: float) -> None:
    positive, negative = SIGNED[dataset]
    true = [1.0] * positive + [-1.0] * negative
    found = openvocab.sentiment_metrics(openvocab.sentiment_statistics([answer] * len(true), true).sum(dim=0))
    assert float(found["waf"]) == pytest.approx(waf, abs=6e-4)
    neutral = openvocab.sentiment_metrics(openvocab.sentiment_statistics([0] * len(true), true).sum(dim=0))
    assert float(neutral["accuracy"]) == pytest.approx(negative / len(true))  # 7.4: neutral counts as negative
    assert float(neutral["accuracy_corrected"]) == float(neutral["waf_corrected"]) == 0


def test_74_sentiment_without_an_answer_is_wrong() -> None:
    found = openvocab.sentiment_metrics(openvocab.sentiment_statistics([2, -1], [-1.0, -0.2]).sum(dim=0))
    assert float(found["accuracy"]) == 0.5


def test_75h_doubled_words_and_case_change_nothing(wheels: Wheels) -> None:
    once, twice = (openvocab.statistics([s], [["joy"]], wheels) for s in (["happy"], ["Happy ", "happy", ""]))
    torch.testing.assert_close(once, twice)


@pytest.mark.real
@pytest.mark.skipif("HERO_REAL" not in os.environ, reason="HERO_REAL names no folder of real datasets")
def test_75_constants_on_the_official_tables() -> None:
    wheels = Wheels(Path(os.environ["HERO_REAL"]) / "data" / "emotion_wheel")
    found = hits(["happy", "angry", "sad"], COUNTS["MER2023"], wheels)
    assert found["hit_rate"] == pytest.approx(0.777, abs=5e-4)
    assert hits(list(openvocab.CONSTANTS["hit"][0]), COUNTS["MER2023"], wheels)["hit_rate"] == 1
    rows = openvocab.statistics(*answers(["sad"], COUNTS["IEMOCAP"]), wheels)
    assert openvocab.counted(rows.sum(dim=0)) == [857] * 5
