"""An expert reads real steps and nothing else."""

from __future__ import annotations

import pytest
import torch

from hero_lightning.models.base import Shape
from hero_lightning.models.hero.experts import Expert, ExpertOptions
from hero_lightning.models.layers import statistics
from hero_lightning.types import Features
from tests.models.made import check_gradients


def expert(**settings):
    torch.manual_seed(0)
    shape = Shape(width=32, queries=3, layers=2, num_heads=4, dropout=0.0)
    return Expert("au", 5, shape, ExpertOptions(**({"mlp": ()} | settings))).eval()


@pytest.mark.parametrize("settings", [{}, {"mlp": ("au",)}, {"position": "learned"}, {"position": "none"}])
def test_nan_in_padding_does_not_leak(settings):
    model, x = expert(**settings), torch.randn(3, 6, 5)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4, [False] * 6])
    seen = model(Features(x, mask), explain=True)
    spoilt = torch.where(mask[..., None], x, torch.nan)
    again = model(Features(spoilt, mask), explain=True)
    assert torch.equal(seen.tokens, again.tokens)
    assert torch.equal(seen.attention, again.attention)
    assert seen.present.tolist() == [True, True, False]
    assert seen.tokens[2].eq(0).all()
    assert seen.summary[2].eq(0).all()
    assert seen.sequence.isfinite().all()
    short = model(Features(x[1:2, :2], mask[1:2, :2]))
    torch.testing.assert_close(seen.tokens[1:2], short.tokens, atol=1e-5, rtol=0)


def test_order_of_the_steps_matters_only_with_positions():
    x, mask = torch.randn(1, 6, 5), torch.ones(1, 6, dtype=torch.bool)
    for position, same in (("none", True), ("sinusoidal", False), ("learned", False)):
        model = expert(position=position)
        a, b = model(Features(x, mask)).summary, model(Features(x.flip(1), mask)).summary
        assert torch.allclose(a, b, atol=1e-5) == same


def test_an_absent_modality_still_reaches_every_parameter():
    model = expert(mlp=("au",))
    seen = model(Features(torch.zeros(2, 1, 5), torch.zeros(2, 1, dtype=torch.bool)))
    check_gradients(model, seen.tokens.sum() + seen.sequence.sum())


def test_half_precision_features_are_read():
    x, mask = torch.randn(1, 4, 5), torch.ones(1, 4, dtype=torch.bool)
    model = expert()
    torch.testing.assert_close(
        model(Features(x.bfloat16(), mask)).summary, model(Features(x, mask)).summary, atol=0.05, rtol=0
    )


def test_statistics_are_mean_and_deviation_over_real_steps() -> None:
    x = torch.tensor([[[1.0], [3.0], [0.0]], [[0.0], [0.0], [0.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = statistics(x, mask)
    torch.testing.assert_close(found, torch.tensor([[2.0, 1.0], [0.0, 0.001]]), atol=1e-5, rtol=0)


def test_features_are_withheld_from_a_clip_at_all_its_steps_and_only_while_training() -> None:
    model, seen = expert(feature_dropout=0.5), []
    model.project.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = Features(torch.rand(64, 3, 5) + 1, torch.ones(64, 3, dtype=torch.bool))
    model(x)
    model.train()(x)
    assert torch.equal(seen[0], x.x)
    gone = seen[1] == 0
    assert torch.equal(gone, gone[:, :1].expand_as(gone))  # the same features at every step
    assert 0.3 < gone[:, 0].float().mean() < 0.7
    assert len(set(map(tuple, gone[:, 0].tolist()))) > 8  # others in other clips
    torch.testing.assert_close(seen[1][~gone], 2 * x.x[~gone])  # the mean stays
