"""Attention equals torch's own in every path; no row is ever empty; positions and initial weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hero_lightning.models.base import Shape
from hero_lightning.models.layers import ABSORB_FROM, Attention, Block, Positions, initialise, masked_mean, sinusoid

WIDTH, HEADS = 64, 2


def shape(dropout):
    return Shape(width=WIDTH, num_heads=HEADS, dropout=dropout)


def torch_attention(ours):
    """nn.MultiheadAttention with the same weights."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    parts = [ours.memory] if ours.query is None else [ours.query, ours.memory]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    return theirs.eval()


@pytest.mark.parametrize("steps", [5, ABSORB_FROM, ABSORB_FROM + 60])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_cross_attention_equals_torch(steps, weights, biased):
    torch.manual_seed(0)
    ours = Attention(shape(0.5), cross=True).eval()
    nn.init.normal_(ours.memory.bias)
    x, memory = torch.randn(3, 8, WIDTH), torch.randn(3, steps, WIDTH, requires_grad=True)
    mask = torch.rand(3, steps) < 0.6
    bias = torch.randn(3, steps) if biased else None
    out, seen = ours(x, memory, mask, bias, weights)
    extra = torch.zeros(3, steps) if bias is None else bias
    full = extra.masked_fill(~mask, -math.inf)[:, None].expand(3, 8, steps).repeat_interleave(HEADS, 0)
    want, want_seen = torch_attention(ours)(x, memory, memory, attn_mask=full, need_weights=True)
    torch.testing.assert_close(out, want, atol=1e-5, rtol=0)
    (slope,) = torch.autograd.grad(out.square().sum(), memory, retain_graph=True)
    (want_slope,) = torch.autograd.grad(want.square().sum(), memory)
    torch.testing.assert_close(slope, want_slope, atol=1e-4, rtol=1e-4)
    assert (seen is not None) == weights
    if weights:
        torch.testing.assert_close(seen, want_seen, atol=1e-6, rtol=0)


def test_self_attention_equals_torch():
    torch.manual_seed(0)
    ours, x = Attention(shape(0.0), cross=False).eval(), torch.randn(2, 7, WIDTH)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    want, _ = torch_attention(ours)(x, x, x, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask=mask)[0], want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [6, ABSORB_FROM])
def test_a_row_without_keys_attends_evenly_in_every_path(steps):
    attention = Attention(shape(0.0), cross=True)
    x, memory = torch.randn(2, 8, WIDTH, requires_grad=True), torch.randn(2, steps, WIDTH, requires_grad=True)
    mask = torch.zeros(2, steps, dtype=torch.bool)
    fast, seen = attention(x, memory, mask), attention(x, memory, mask, weights=True)
    torch.testing.assert_close(fast[0], seen[0], atol=1e-5, rtol=0)
    fast[0].sum().backward()
    assert x.grad.isfinite().all()
    assert memory.grad.isfinite().all()


@pytest.mark.parametrize("steps", [6, ABSORB_FROM])
def test_weights_are_taken_before_dropout(steps):
    attention = Attention(shape(0.5), cross=True).train()
    _, seen = attention(torch.randn(2, 8, WIDTH), torch.randn(2, steps, WIDTH), weights=True)
    torch.testing.assert_close(seen.sum(-1), torch.ones(2, 8))


def test_dropout_of_the_absorbed_path_keeps_the_expectation():
    torch.manual_seed(0)
    attention = Attention(shape(0.3), cross=True)
    nn.init.ones_(attention.memory.bias)
    x, memory = torch.randn(1, 8, WIDTH).expand(500, -1, -1), torch.randn(1, ABSORB_FROM, WIDTH).expand(500, -1, -1)
    drawn = attention.train()(x, memory)[0].mean(0)
    exact = attention.eval()(x, memory)[0][0]
    torch.testing.assert_close(drawn, exact, atol=0.05, rtol=0)


def test_block_masks_the_memory_and_not_its_own_queries():
    torch.manual_seed(0)
    block = Block(shape(0.0), ("self", "cross")).eval()
    x, memory = torch.randn(2, 4, WIDTH), torch.randn(2, 6, WIDTH)
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    out, _ = block(x, memory, mask)
    short, _ = block(x[1:], memory[1:, :3], mask[1:, :3])
    torch.testing.assert_close(out[1:], short, atol=1e-5, rtol=0)


def test_positions():
    x = torch.zeros(1, 5, 8)
    assert Positions("none", 8)(x).eq(0).all()
    assert Positions("sinusoidal", 8)(x)[0].unique(dim=0).shape[0] == 5
    learned = Positions("learned", 8, size=3)
    assert learned(x)[0, 2].equal(learned(x)[0, 4])
    assert not learned(x)[0, 1].equal(learned(x)[0, 2])
    assert sinusoid(torch.arange(3), 8)[0].tolist() == [0.0] * 4 + [1.0] * 4


def test_initial_weights_follow_the_width():
    for width, std in ((768, 0.02), (192, 0.04)):
        layer = nn.Sequential(nn.Linear(width, 400))
        initialise(layer, width)
        assert layer[0].weight.std().item() == pytest.approx(std, rel=0.05)
        assert layer[0].bias.eq(0).all()


def test_masked_mean():
    x = torch.tensor([[[1.0], [3.0], [9.0]], [[5.0], [5.0], [5.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(x, mask).tolist() == [[2.0], [0.0]]
