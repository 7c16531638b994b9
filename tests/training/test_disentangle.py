"""Disentangling losses: the bound on known Gaussians, its alternation, what an encoder forgets and keeps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hero_lightning.models.outputs import Fused, Outputs
from hero_lightning.training.disentangle import SpeakerAdversary, Stmil, VClub
from tests.models.made import MODALITIES, batch, features, hero

EVERYONE = {s: [True] * 6 for s in MODALITIES}


def gaussians(rows, rho, width, generator):
    x = torch.randn(rows, width, generator=generator)
    return x, rho * x + math.sqrt(1 - rho**2) * torch.randn(rows, width, generator=generator)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_bound_is_near_zero_on_independent_and_above_the_information_of_correlated_variables(rho):
    width, generator = 16, torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    estimator = VClub(width, 64)
    optimizer = torch.optim.Adam(estimator.parameters(), 1e-3)
    for _ in range(600):
        optimizer.zero_grad()
        estimator.misfit(*gaussians(256, rho, width, generator)).backward()
        optimizer.step()
    x, y = gaussians(4096, rho, width, generator)
    with torch.no_grad():
        bound = estimator.bound(x, y, y).mean().item()
    information = -0.5 * width * math.log(1 - rho**2)
    assert abs(bound) < 0.1 if rho == 0 else bound > information


def test_the_bound_equals_its_definition():
    torch.manual_seed(0)
    estimator, (x, y) = VClub(3, 8), gaussians(5, 0.5, 3, torch.Generator().manual_seed(1))
    mean, log_variance = estimator(x)
    log_q = -0.5 * ((y[None] - mean[:, None]) ** 2 / log_variance.exp()[:, None]).sum(dim=2)  # [i, j]
    torch.testing.assert_close(estimator.bound(x, y, y), log_q.diagonal() - log_q.mean(dim=1))


def outputs_of(audio, text):
    summaries = torch.stack([audio, text], dim=1)
    return Outputs(
        {}, ("audio", "text"), summaries, torch.ones(summaries.shape[:2], dtype=torch.bool), Fused(summaries, audio)
    )


class Pair:
    modalities, width = ("audio", "text"), 16


def test_estimator_and_encoder_do_not_touch_each_other():
    term, model = Stmil(lr=1e-2), hero()
    assert term.build(model, None)
    outputs = model(features(EVERYONE))
    loss = term(outputs, batch(6), model)
    estimator = term._fitted[0]
    before = [p.clone() for p in estimator.parameters()]
    loss.backward()
    assert all(p.grad is None or not p.requires_grad for p in estimator.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, estimator.parameters(), strict=True))
    assert list(term.parameters()) == []
    sound = sum(p.grad.abs().sum() for p in model.experts["audio"].parameters() if p.grad is not None)
    words = sum(p.grad.abs().sum() for p in model.experts["text"].parameters() if p.grad is not None)
    assert sound > 0
    assert words == 0


def test_a_thousand_joint_steps_stay_finite_and_take_the_content_but_not_the_emotion():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    encoder, head = nn.Linear(16, 16), nn.Linear(16, 2)
    term = Stmil(weight=1.0, hidden=64)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], 1e-3)

    def draw(rows):
        content, emotion = torch.randn(rows, 8, generator=generator), torch.randn(rows, 8, generator=generator)
        return torch.cat([content, emotion], dim=1), F.pad(content, (0, 8)), (emotion[:, 0] > 0).long()

    def observed(x):
        z = encoder(x)
        return z + 0.3 * torch.randn(z.shape, generator=generator)  # without noise a linear probe undoes any scale

    def linear_probe(target_of):
        x, text, label = draw(2048)
        z = F.pad(observed(x).detach(), (0, 1), value=1.0)
        target = target_of(text, label)
        fit = torch.linalg.lstsq(z[:1024], target[:1024]).solution
        return float(1 - ((z[1024:] @ fit - target[1024:]) ** 2).mean() / target[1024:].var())

    def content(text, label):
        return text[:, :8]

    def emotion(text, label):
        return label.float()[:, None] * 2 - 1

    before = linear_probe(content), linear_probe(emotion)
    for _ in range(1000):
        x, text, label = draw(64)
        z = observed(x)
        loss = F.cross_entropy(head(z), label) + term.loss(outputs_of(z, text), None, Pair)
        optimizer.zero_grad()
        loss.backward()
        assert loss.isfinite()
        optimizer.step()
    after = linear_probe(content), linear_probe(emotion)
    assert after[0] < 0.6 * before[0]
    assert after[1] > before[1] - 0.05


def test_the_estimator_is_kept_in_checkpoints():
    torch.manual_seed(0)
    rows = [torch.randn(8, 16) for _ in range(4)]
    whole, first, second = (Stmil(hidden=8) for _ in range(3))
    expected = [whole.loss(outputs_of(*rows[:2]), None, Pair), whole.loss(outputs_of(*rows[2:]), None, Pair)][1]
    first.loss(outputs_of(*rows[:2]), None, Pair)
    second.resume(first.state())
    assert torch.equal(second.loss(outputs_of(*rows[2:]), None, Pair), expected)


def test_a_batch_of_one_clip_says_that_it_gives_no_loss(caplog):
    term, rows = Stmil(), torch.randn(1, 16, requires_grad=True)
    for _ in range(2):
        loss = term.loss(outputs_of(rows, torch.randn(1, 16)), None, Pair)
    loss.backward()
    assert loss.item() == 0
    assert [r.message for r in caplog.records] == [
        "stmil: a batch without two clips that have audio and text gives no loss"
    ]


def test_the_adversary_turns_the_gradient_of_the_summaries_only():
    torch.manual_seed(0)
    model, term, data = hero(), SpeakerAdversary(of=("audio",), classes=7), batch(6)
    for i, sample in enumerate(data.samples):
        sample.speaker = None if i == 5 else f"s{i % 2}"
    assert term.build(model, None)
    summaries = torch.randn(6, 1, 32, requires_grad=True)
    outputs = Outputs({}, ("audio",), summaries, torch.ones(6, 1, dtype=torch.bool), Fused(summaries, summaries[:, 0]))
    term(outputs, data, model).backward()
    adverse, classifier = summaries.grad.clone(), term.heads["audio"][0].weight.grad.clone()
    from zlib import crc32

    truth = torch.tensor([crc32(f"s{i % 2}".encode()) % 7 for i in range(5)])
    summaries.grad = None
    term.zero_grad()
    F.cross_entropy(term.heads["audio"](summaries[:5, 0]), truth).backward()
    torch.testing.assert_close(adverse[:5], -summaries.grad[:5])
    torch.testing.assert_close(term.heads["audio"][0].weight.grad, classifier)
    assert adverse[5].eq(0).all()
