"""Open-vocabulary metrics: against the definition word by word, by hand, and for constant answers."""

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
"""Clips per class of the MER-UniBench test sets (AffectGPT, Lian et al. 2025)."""
WORDS = [*MAPPING, "joyful", "relaxed", "relax", "Calm", "furious", "unheard of", "lonely"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    return Wheels(write_wheels(tmp_path_factory.mktemp("wheels")))


def naive(predicted: list[list[str]], reference: list[list[str]], wheels: Wheels, rule: int, level: int) -> list[float]:
    """F_s, precision and recall, word by word as defined."""

    def cluster(word: str, k: int) -> object:
        v = wheels.forms.get(word)
        place = -1 if v is None else int(wheels.clusters[rule, k, level, v])
        own = word if v is None else int(wheels.lemma[v])
        return place if place >= 0 else ("own", own) if rule else None

    out = []
    for k in range(len(wheels.sectors)):
        precision, recall = [], []
        for p, y in zip(predicted, reference, strict=True):
            ps, ys = ({c for w in words if (c := cluster(clean(w), k)) is not None} for words in (p, y))
            if ys:
                precision.append(len(ps & ys) / len(ps) if ps else 0.0)
                recall.append(len(ps & ys) / len(ys))
        p, r = (float(np.mean(x)) if x else math.nan for x in (precision, recall))
        out.append((math.nan if math.isnan(p) else 2 * p * r / (p + r) if p + r else 0.0, p, r))
    return np.mean(out, axis=0).tolist()


SETS = st.lists(st.tuples(*[st.lists(st.sampled_from(WORDS), max_size=4)] * 2), min_size=1, max_size=12)


@given(SETS)
@settings(max_examples=60, deadline=None)
def test_equals_the_definition_word_by_word(wheels: Wheels, pairs: list[tuple[list[str], list[str]]]) -> None:
    predicted, reference = map(list, zip(*pairs, strict=True))
    found = openvocab.metrics(openvocab.statistics(predicted, reference, wheels).sum(dim=0))
    for rule, suffix in enumerate(openvocab.SUFFIXES):
        expected = naive(predicted, reference, wheels, rule, 0)
        values = [float(found[f"{name}{suffix}"]) for name in ("f_s", "precision", "recall")]
        assert values == pytest.approx(expected, abs=1e-12, nan_ok=True)
        level2 = naive(predicted, reference, wheels, rule, 1)[0]
        assert float(found[f"f_s_level2{suffix}"]) == pytest.approx(level2, abs=1e-12, nan_ok=True)
    assert float(found["labels"]) == pytest.approx(np.mean([len({clean(w) for w in p}) for p in predicted]))


def test_by_hand(wheels: Wheels) -> None:
    """Clip 1: P {happy, sad}, Y {happy}; clip 2: no answer; clip 3: its reference is on no wheel, skipped."""
    rows = openvocab.statistics([["happy", "sad"], [], ["sad"]], [["joy"], ["sad"], ["relaxed"]], wheels)
    found = {k: float(v) for k, v in openvocab.metrics(rows.sum(dim=0)).items()}
    assert found["precision"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["recall"] == pytest.approx((1 + 0) / 2)
    assert found["f_s"] == pytest.approx(2 * 0.25 * 0.5 / 0.75)
    assert found["labels"] == 1
    assert found["recall_corrected"] == pytest.approx(1 / 3)  # the third clip counts, and `sad` is not `relaxed`
    assert next(iter(found)) == "f_s"


def test_zero_precision_and_recall_give_zero_and_intervals_are_computed(wheels: Wheels) -> None:
    rows = openvocab.statistics([["sad"], ["sad"]], [["joy"], ["joy"]], wheels)
    assert float(openvocab.metrics(rows.sum(dim=0))["f_s"]) == 0
    rows = openvocab.statistics([["sad"], ["joy"]] * 20, [["joy"], ["joy"]] * 20, wheels)
    low, high = intervals(rows, openvocab.metrics, resamples=200)["f_s"]
    assert low < 0.5 < high


def answers(words: list[str], counts: dict[str, int]) -> tuple[list[list[str]], list[list[str]]]:
    """The same answer to every clip of a test set, and its references."""
    reference = [[label] for label, n in counts.items() for _ in range(n)]
    return [words] * len(reference), reference


def hits(words: list[str], counts: dict[str, int], wheels: Wheels) -> dict[str, float]:
    sums = openvocab.statistics(*answers(words, counts), wheels).sum(dim=0)
    return {k: float(v) for k, v in openvocab.metrics(sums, "hit").items()}


def test_the_official_rule_never_counts_neutral(wheels: Wheels) -> None:
    sums = {k: openvocab.statistics(*answers(["sad"], c), wheels).sum(dim=0) for k, c in COUNTS.items()}
    counted = {k: openvocab.counted(s) for k, s in sums.items()}
    assert counted["MER2023"][0] == 323
    assert counted["MELD"] == [1354, 1354, 1286, 1354, 1005]
    assert counted["IEMOCAP"] == [857] * 5
    neutral = hits(["neutral"], COUNTS["MELD"], wheels)
    assert (neutral["hit_rate"], neutral["hit_rate_corrected"]) == (0, pytest.approx(1256 / 2610))


@pytest.mark.parametrize(("dataset", "three"), [("MER2023", 0.777), ("MELD", 0.762), ("IEMOCAP", 1.0)])
def test_the_hit_rate_rewards_many_labels(wheels: Wheels, dataset: str, three: float) -> None:
    six = hits(list(openvocab.CONSTANTS["hit"][0]), COUNTS[dataset], wheels)
    assert six["hit_rate"] == 1
    assert six["labels"] == 6
    assert six["precision"] < 0.27  # not part of the official table
    assert six["hit_rate_corrected"] < 0.8
    assert hits(["happy", "angry", "sad"], COUNTS[dataset], wheels)["hit_rate"] == pytest.approx(three, abs=5e-4)


def test_constant_answers() -> None:
    six = ("happy", "angry", "sad", "worried", "surprise", "disgust")
    assert openvocab.CONSTANTS["hit"] == (six, ("happy", "angry", "sad"))
    assert openvocab.CONSTANTS["open"] == (("angry", "sad", "worried", "happy"), ("angry", "sad", "worried"))


SIGNED = {"CMU-MOSI": (277, 379), "CMU-MOSEI": (2284, 1350), "SIMS": (140, 248), "SIMS v2": (423, 488)}
"""Positive and negative clips of the MER-UniBench test sets."""


@pytest.mark.parametrize(
    ("dataset", "answer", "waf"),
    [("CMU-MOSI", -1, 0.423), ("CMU-MOSEI", 1, 0.485), ("SIMS", -1, 0.499), ("SIMS v2", -1, 0.374)],
)
def test_constant_answers_to_sentiment(dataset: str, answer: int, waf: float) -> None:
    positive, negative = SIGNED[dataset]
    reference = [1.0] * positive + [-1.0] * negative
    found, neutral = (
        openvocab.sentiment_metrics(openvocab.sentiment_statistics([sign] * len(reference), reference).sum(dim=0))
        for sign in (answer, 0)
    )
    assert float(found["waf"]) == pytest.approx(waf, abs=6e-4)
    assert float(neutral["accuracy"]) == pytest.approx(negative / len(reference))  # neutral counts as negative
    assert float(neutral["accuracy_corrected"]) == float(neutral["waf_corrected"]) == 0


def test_a_missing_answer_to_sentiment_is_an_error() -> None:
    found = openvocab.sentiment_metrics(openvocab.sentiment_statistics([2, -1], [-1.0, -0.2]).sum(dim=0))
    assert float(found["accuracy"]) == 0.5


def test_repeated_words_and_case_do_not_matter(wheels: Wheels) -> None:
    once, twice = (openvocab.statistics([s], [["joy"]], wheels) for s in (["happy"], ["Happy ", "happy", ""]))
    torch.testing.assert_close(once, twice)


@pytest.mark.real
@pytest.mark.skipif("HERO_REAL" not in os.environ, reason="HERO_REAL names no folder of real datasets")
def test_constants_on_the_official_tables() -> None:
    wheels = Wheels(Path(os.environ["HERO_REAL"]) / "data" / "emotion_wheel")
    found = hits(["happy", "angry", "sad"], COUNTS["MER2023"], wheels)
    assert found["hit_rate"] == pytest.approx(0.777, abs=5e-4)
    assert hits(list(openvocab.CONSTANTS["hit"][0]), COUNTS["MER2023"], wheels)["hit_rate"] == 1
    rows = openvocab.statistics(*answers(["sad"], COUNTS["IEMOCAP"]), wheels)
    assert openvocab.counted(rows.sum(dim=0)) == [857] * 5
