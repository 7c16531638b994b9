"""Experts: options of their input; the Q-Former equals BLIP-2's with the same weights."""

from __future__ import annotations

import pytest
import torch
from benchmarks.bench_fusion_step import blip2, copy_blip2
from torch.nn import functional as F

from hero_lightning.models.base import Shape
from hero_lightning.models.hero.experts import Expert, ExpertOptions
from hero_lightning.models.hero.qformer import QFormer
from hero_lightning.models.layers import EPS, statistics
from hero_lightning.types import Features
from tests.models.made import SHAPE


def expert(**settings):
    torch.manual_seed(0)
    return Expert("au", 5, SHAPE, ExpertOptions(**({"mlp": ()} | settings))).eval()


def test_order_of_the_steps_matters_only_with_positions():
    x, mask = torch.randn(1, 6, 5), torch.ones(1, 6, dtype=torch.bool)
    for position, same in (("none", True), ("sinusoidal", False), ("learned", False)):
        model = expert(position=position)
        a, b = model(Features(x, mask)).summary, model(Features(x.flip(1), mask)).summary
        assert torch.allclose(a, b, atol=1e-5) == same


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


@pytest.mark.parametrize("steps", [7, 200])
def test_equals_blip2_with_the_same_weights(steps):
    torch.manual_seed(0)
    theirs = blip2(64, 2, 2).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = QFormer(Shape(width=64, queries=8, layers=2, num_heads=2)).eval()
    copy_blip2(theirs, ours)
    memory, mask = torch.randn(3, steps, 64), torch.rand(3, steps) < 0.7
    want = theirs(ours.queries.expand(3, -1, -1), encoder_hidden_states=memory, encoder_attention_mask=mask.long())
    got, _ = ours(memory, mask)
    torch.testing.assert_close(got, F.layer_norm(want.last_hidden_state, (64,), eps=EPS), atol=1e-5, rtol=0)


def test_weights_of_the_last_layer():
    qformer = QFormer(Shape(width=32, queries=4, layers=2, num_heads=4))
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    tokens, seen = qformer(torch.randn(2, 6, 32), mask, weights=True)
    assert tokens.shape == (2, 4, 32)
    torch.testing.assert_close(seen.sum(-1), torch.ones(2, 4))
    assert seen[1, :, 2:].eq(0).all()
    assert qformer(torch.randn(2, 6, 32), mask)[1] is None
