"""Distillation and imputation: nothing lost costs nothing, only the student learns, confidence is calibrated."""

from __future__ import annotations

import pytest
import torch

from hero_lightning.errors import ConfigError
from hero_lightning.training.distillation import Distillation, ImputationLoss, divergence, kl
from hero_lightning.training.teacher import Teacher
from hero_lightning.types import Features, Label
from tests.models.made import MODALITIES, batch, descend, features, hero

EVERYONE = {s: [True] * 6 for s in MODALITIES}


def withheld(given, *names):
    return {n: Features(f.x, f.mask & (n not in names), f.time) for n, f in given.items()}


def student(model, *names, teacher=None):
    given = features(EVERYONE)
    outputs = model(withheld(given, *names))
    outputs.full = (teacher or Teacher())(model, given, None)
    return outputs


@pytest.mark.parametrize("target", ["head", "context"])
def test_nothing_withheld_costs_nothing(target):
    model, term = hero(), Distillation(target=target)
    assert term(student(model), batch(6), model).item() == 0
    assert term(model(features(EVERYONE)), batch(6), model).item() == 0
    assert term(student(model, "audio"), batch(6), model).item() > 0


def test_divergence_by_kind_of_label():
    teacher, other, there = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([True])
    p, q = teacher.softmax(1), other.softmax(1)
    expected = (p * (p / q).log()).sum()
    classes = Label(torch.tensor([0]), there)
    assert divergence(teacher, other, classes, 1.0).item() == pytest.approx(expected.item(), rel=1e-5)
    assert divergence(other, teacher, classes, 1.0).item() != pytest.approx(expected.item(), rel=1e-2)
    assert kl(teacher, teacher, 2.0).item() == 0
    a, b = teacher.sigmoid(), other.sigmoid()
    bernoulli = (a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()).mean()
    several = Label(torch.rand(1, 2), there)
    assert divergence(teacher, other, several, 1.0).item() == pytest.approx(bernoulli.item(), rel=1e-5)
    score = Label(torch.tensor([0.3]), there)
    assert divergence(torch.tensor([[3.0]]), torch.tensor([[1.0]]), score, 1.0).item() == 2.0


def test_a_high_temperature_keeps_the_size_of_the_gradient():
    teacher, at = torch.tensor([[0.4, -0.3, 0.1]]), {}
    for temperature in (30.0, 300.0):
        logits = torch.zeros(1, 3, requires_grad=True)
        kl(teacher, logits, temperature).backward()
        at[temperature] = logits.grad
    torch.testing.assert_close(at[30.0], at[300.0], rtol=0.05, atol=0.0)


def test_the_teacher_gets_no_gradient_and_the_model_keeps_its_mode():
    model = hero().train()
    outputs = student(model, "audio")
    assert model.training
    assert not outputs.full.context.requires_grad
    assert outputs.full.present.all()


def test_the_moving_average_follows_and_is_kept_in_checkpoints():
    model, term = hero(), Distillation(decay=0.9)
    weight = next(model.parameters())
    student(model, teacher=term.teacher)
    start = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    student(model, teacher=term.teacher)
    average = next(term.teacher.average.parameters())
    torch.testing.assert_close(average, start + 0.1)
    assert list(term.parameters()) == []
    again = Distillation(decay=0.9)
    again.resume(term.state())
    with torch.no_grad():
        weight.add_(1.0)
    student(model, teacher=again.teacher)
    torch.testing.assert_close(next(again.teacher.average.parameters()), start + 0.1 + 0.1 * 1.9)


def test_a_language_model_as_target_needs_one():
    with pytest.raises(ConfigError, match="target=head"):
        Distillation(target="llm").build(hero(), None)


def test_imputation_learns_withheld_summaries_and_how_sure_it_may_be():
    torch.manual_seed(0)
    model, term, data = hero(), ImputationLoss(momentum=0.9), batch(6)
    model.requires_grad_(False)
    model.imputation.requires_grad_(True)
    assert ImputationLoss().build(model, None) is False  # the head was not asked for
    model.auxiliary_heads |= {"imputation"}
    assert term.build(model, None)
    before = term(student(model, "audio"), data, model).item()
    descend(model.imputation, lambda: term(student(model, "audio"), data, model), 150, lr=1e-2)
    outputs = student(model, "audio")
    assert term(outputs, data, model).item() < 0.3 * before
    e = outputs.experts.index("audio")
    error = (outputs.summaries - outputs.full.summaries).square().mean(-1)[:, e]
    near = (-error / term.typical).exp()
    torch.testing.assert_close(outputs.confidence[:, e], near, atol=0.25, rtol=0)


def test_imputation_without_anything_withheld_is_a_connected_zero():
    model, term = hero(auxiliary_heads=("imputation",)), ImputationLoss()
    loss = term(student(model), batch(6), model)
    assert loss.item() == 0
    assert term.typical == 0
    loss.backward()


def test_a_model_without_imputation_leaves_the_loss_out():
    model = hero(auxiliary_heads=("imputation",), imputation=False)
    assert not ImputationLoss().build(model, None)
