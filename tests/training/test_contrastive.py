"""Contrastive: the formula, which rows take part, what it learns, captions, and what a small batch is told."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch.nn import functional as F

from hero_lightning.encoders.handcrafted import HashedWords
from hero_lightning.errors import ConfigError
from hero_lightning.training.contrastive import Contrastive, info_nce
from hero_lightning.types import Sample
from tests.models.made import MODALITIES, batch, check_gradients, descend, features, hero

EVERYONE = {s: [True] * 6 for s in MODALITIES}


def unit(rows, width=5, seed=0):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_formula_of_the_paper():
    a, b, there, keys = unit(4), unit(4, seed=1), torch.ones(4, dtype=torch.bool), torch.arange(4)
    logits = a @ b.T / 0.07
    expected = (F.cross_entropy(logits, keys) + F.cross_entropy(logits.T, keys)) / 2
    found, rows = info_nce((a, there), (b, there), keys, 1 / 0.07)
    torch.testing.assert_close(found, expected)
    assert rows == 4


def test_rows_without_a_side_are_neither_positives_nor_negatives():
    a, b, keys = unit(4), unit(4, seed=1), torch.arange(4)
    first, second = torch.tensor([1, 1, 0, 1]).bool(), torch.tensor([1, 1, 1, 0]).bool()
    spoilt = torch.where(first[:, None], a, 100.0), torch.where(second[:, None], b, 100.0)
    found, rows = info_nce((spoilt[0], first), (spoilt[1], second), keys, 5.0)
    expected, _ = info_nce((a[:2], first[:2]), (b[:2], second[:2]), keys[:2], 5.0)
    torch.testing.assert_close(found, expected)
    assert rows == 2


def test_rows_of_one_key_are_positives_of_each_other():
    a, b, there = unit(3), unit(3, seed=1), torch.ones(3, dtype=torch.bool)
    found, _ = info_nce((a, there), (b, there), torch.tensor([7, 7, 9]), 2.0)
    p, q = (2 * a @ b.T).log_softmax(1), (2 * b @ a.T).log_softmax(1)
    rows = [(x[0, :2].mean() + x[1, :2].mean() + x[2, 2]) for x in (p, q)]
    torch.testing.assert_close(found, -sum(rows) / 6)


def test_one_clip_is_told_what_it_lacks(caplog):
    model = hero()
    term = Contrastive()
    assert term.build(model, None)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loss = term(model(features({s: [True] for s in MODALITIES})), batch(1), model)
    assert loss.item() == 0
    assert [r.message for r in caplog.records] == [
        "contrastive loss: 1 clips in a batch have both sides of a pair; it has no negatives and stays 0. "
        "Raise dataset.batch_size."
    ]
    loss.backward()


def test_every_parameter_learns_and_pairs_come_to_agree():
    torch.manual_seed(0)
    model, term = hero().train(), Contrastive(pairs=("audio-text", "context-frame"), learnable=True, width=16)
    term.build(model, None)
    check_gradients(term, term(model(features(EVERYONE)), batch(6), model))
    before = term(model(features(EVERYONE)), batch(6), model).item()
    descend(torch.nn.ModuleList([model, term]), lambda: term(model(features(EVERYONE)), batch(6), model), 40)
    assert before > 1
    assert term(model(features(EVERYONE)), batch(6), model).item() < 0.1


def test_pairs_that_the_model_does_not_have_are_left_out():
    term = Contrastive(pairs=("audio-text", "frame-text", "projected-caption"))
    assert term.build(hero(("audio", "text")), None)
    assert term.pairs == [("audio", "text")]
    assert not Contrastive(pairs=("au-text",)).build(hero(("audio", "text")), None)


def test_captions_are_encoded_once_and_clips_without_one_take_no_part():
    model, encoder = hero(), HashedWords()
    calls = []
    forward = encoder.forward
    encoder.forward = lambda inputs: calls.append(len(inputs["x"])) or forward(inputs)
    term = Contrastive(pairs=("context-caption",), caption_encoder=encoder)
    term.build(model, None)
    data = batch(6)
    data.samples = [
        Sample(str(i), "train", descriptions={"caption": text} if text else {})
        for i, text in enumerate(["a man smiles", "she cries", "", "a man smiles", "he shouts", "she is calm"])
    ]
    outputs = model(features(EVERYONE))
    loss = term(outputs, data, model)
    assert torch.equal(term(outputs, data, model), loss)
    assert calls == [4]
    assert 0 < loss.item() < 2 * math.log(5) / 0.07
    assert not any("caption_encoder" in key for key in term.state_dict())


@pytest.mark.parametrize("pairs", [("audio-smell",), ("audio",)])
def test_unknown_views_are_refused(pairs):
    with pytest.raises(ConfigError, match="projected"):
        Contrastive(pairs=pairs)


def test_classes_as_positives():
    model, data = hero(), batch(6)
    outputs, loss = model(features(EVERYONE)), {}
    for supervised in (False, True):
        torch.manual_seed(0)
        term = Contrastive(pairs=("audio-text",), supervised=supervised)
        term.build(model, None)
        loss[supervised] = term(outputs, data, model).item()
        assert len(set(term._keys(data).tolist())) == (
            len(set(data.labels["emotion"].value.tolist())) if supervised else 6
        )
    assert loss[True] != loss[False]
