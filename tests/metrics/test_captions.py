"""Captions: BLEU and ROUGE-L against torchmetrics, CIDEr-D by hand, sentence embeddings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.text import bleu_score, rouge_score

from hero_lightning.errors import ConfigError
from hero_lightning.metrics import captions
from hero_lightning.metrics.bootstrap import intervals

PREDICTED = ["the man smiles and waves his hand", "she is crying in the dark room", "he shouts", ""]
REFERENCE = [
    "the old man smiles and waves his hand",
    "she cries in the dark",
    "he shouts at the dog",
    "nobody is there",
]


def metrics(predicted: list[str], reference: list[str]) -> dict[str, float]:
    sums = captions.statistics(predicted, reference, None).sum(dim=0)
    return {k: float(v) for k, v in captions.metrics(sums).items()}


def test_bleu_and_rouge_are_those_of_torchmetrics() -> None:
    found, references = metrics(PREDICTED, REFERENCE), [[t] for t in REFERENCE]
    assert found["bleu1"] == pytest.approx(float(bleu_score(PREDICTED, references, n_gram=1)), rel=1e-5)
    assert found["bleu4"] == pytest.approx(float(bleu_score(PREDICTED, references, n_gram=4)), rel=1e-5)
    rouge = [
        float(rouge_score(p, t, rouge_keys="rougeL")["rougeL_fmeasure"])
        for p, t in zip(PREDICTED[:3], REFERENCE, strict=False)
    ]
    assert found["rouge_l"] == pytest.approx(sum(rouge) / 4, rel=1e-5)  # no text: 0
    assert found["words"] == pytest.approx((7 + 7 + 2) / 4)
    assert math.isnan(found["similarity"])


def test_cider_d_by_hand() -> None:
    """Two references without a common word: every idf is log 2 and cancels in the cosine.

    Predicted "a b", reference "a b c": unigrams 2 of lengths sqrt 2 and sqrt 3, bigrams 1 of lengths 1 and sqrt 2.
    """
    score, other = captions.cider_d(["a b", "x"], ["a b c", "d e f"])
    expected = 10 / 4 * (2 / math.sqrt(6) + 1 / math.sqrt(2)) * math.exp(-1 / 72)
    assert score == pytest.approx(expected)
    assert other == 0
    assert captions.cider_d(["a b c d"], ["a b c d"]) == [0]  # a single reference: every idf is log 1
    same = captions.cider_d(["a b c d", "e"], ["a b c d", "e"])
    assert same == pytest.approx([10, 10 / 4])


def test_cider_d_clips_repeated_words_and_ignores_common_ones() -> None:
    """References "a b", "a c": a has idf log 1 = 0. Predicted "b b": min(2, 1) of the one b against norms 2 and 1."""
    score, _ = captions.cider_d(["b b", "q"], ["a b", "a c"])
    assert score == pytest.approx(10 / 4 * 1 / 2)


def test_case_punctuation_and_chinese() -> None:
    assert metrics(["He SHOUTS, at the dog!"], ["he shouts at the dog"])["bleu4"] == pytest.approx(1)
    assert captions.WORD.findall("他很开心 ok it's") == ["他", "很", "开", "心", "ok", "it's"]
    assert metrics(["他很开心"], ["他很生气"])["bleu1"] == pytest.approx(0.5)


def test_no_answers_and_intervals() -> None:
    assert metrics(["", ""], ["a b", "c d"])["cider"] == 0
    assert metrics(["", ""], ["a b", "c d"])["bleu4"] == 0
    bounds = intervals(captions.statistics(PREDICTED * 3, REFERENCE * 3, None), captions.metrics, resamples=200)
    assert bounds["cider"][0] < metrics(PREDICTED * 3, REFERENCE * 3)["cider"] < bounds["cider"][1]


def test_sentence_vectors_ignore_padding(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    from tests.models.llm.llm_helpers import word_tokenizer

    torch.manual_seed(0)
    tokenizer = word_tokenizer("he shouts she cries in the dark")
    tokenizer.pad_token = "</s>"
    tokenizer.save_pretrained(tmp_path)
    settings = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), **settings)).save_pretrained(tmp_path)
    embed = captions.SentenceVectors(str(tmp_path))
    both, alone = embed(["he shouts", "she cries in the dark"]), embed(["he shouts"])
    torch.testing.assert_close(both[0], alone[0])
    torch.testing.assert_close(both.norm(dim=-1), torch.ones(2))
    rows = captions.statistics(["he shouts", "she cries"], ["he shouts", "in the dark"], embed)
    assert float(captions.metrics(rows[:1].sum(dim=0))["similarity"]) == pytest.approx(1)
    assert float(captions.metrics(rows.sum(dim=0))["similarity"]) < 1
    with pytest.raises(ConfigError, match=r"does not exist[\s\S]*sentence_encoder=FOLDER"):
        captions.SentenceVectors(str(tmp_path / "nothing"))(["a"])
