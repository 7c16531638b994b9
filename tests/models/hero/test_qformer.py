"""The Q-Former computes what transformers' BLIP-2 Q-Former computes, weight for weight."""

from __future__ import annotations

import pytest
import torch
from benchmarks.bench_fusion_step import blip2, copy_blip2
from torch.nn import functional as F

from hero_lightning.models.base import Shape
from hero_lightning.models.hero.qformer import QFormer
from hero_lightning.models.layers import EPS


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
