"""Building blocks of the models: attention, post-norm block, positions, standardisation, initial weights.

Data flow: queries [B, N, d] (+ memory [B, S, d], its mask and bias) -> queries [B, N, d] (+ weights [B, N, S]).

Shapes: B rows, N queries, S keys, H heads, d width. Masks are True = real.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hero_lightning.errors import one_of
from hero_lightning.models.base import Shape

EPS = 1e-6
"""Epsilon of every LayerNorm: far below the variance of a query at N(0, 0.02), far above float32 noise."""

ABSORB_FROM = 128
"""Memory length from which folding the key and value maps onto the queries beats projecting the memory (measured)."""


class Attention(nn.Module):
    """Multi-head attention with fused projections.

    It uses scaled-dot-product kernels unless weights are requested. Cross-attention over a long memory folds its key
    and value maps onto the few queries (H * N rows attend to the raw memory) and never projects the memory: the same
    result in fewer operations. The key bias is dropped there; it shifts every score of a softmax row alike.

    Args:
        shape: width d, heads H, dropout on the attention weights.
        cross: queries and memory differ.
    """

    def __init__(self, shape: Shape, *, cross: bool) -> None:
        super().__init__()
        self.num_heads, self.dropout, width = shape.num_heads, shape.dropout, shape.width
        self.query = nn.Linear(width, width) if cross else None
        self.memory = nn.Linear(width, (2 if cross else 3) * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends.

        Args:
            x: queries [B, N, d]; [1, N, d] where every row of the memory has the same queries.
            memory: [B, S, d] of a cross-attention.
            mask: [B, S] keys that count; a row without any attends evenly to all, so that no softmax is empty.
            bias: [B, S] added to the scores.
            weights: return the attention weights.

        Returns:
            [B, N, d] and, on request, the head mean of the weights [B, N, S] before dropout (rows sum to 1).
        """
        if mask is not None:  # kernels treat an empty row differently
            mask = mask | ~mask.any(dim=1, keepdim=True)
        if self.query is None or memory is None:
            q, k, v = (self._split(t) for t in self.memory(x).chunk(3, dim=-1))
        else:
            q = self._split(self.query(x))
            if memory.shape[1] >= ABSORB_FROM and 2 * self.num_heads * x.shape[1] <= x.shape[2]:
                return self._absorbed(q, memory, mask, bias, weights)
            k, v = (self._split(t) for t in self.memory(memory).chunk(2, dim=-1))
        if weights or bias is not None:
            p = self._softmax(q @ k.transpose(-1, -2), q.shape[-1], mask, bias)
            mixed = F.dropout(p, self.dropout, self.training).to(v.dtype) @ v
        else:
            p = None
            drop = self.dropout if self.training else 0.0
            keys = None if mask is None else mask[:, None, None]
            q = q.expand(len(k), -1, -1, -1)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=drop)
        # [B, H, N, d/H] -> [B, N, d]
        out = self.out(mixed.transpose(1, 2).flatten(2))
        return out, p.mean(dim=1) if weights and p is not None else None

    def _split(self, x: Tensor) -> Tensor:
        """[B, N, d] -> [B, H, N, d/H]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _softmax(self, scores: Tensor, size: int, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        """Scores [B, H, N, S] -> weights in float32; `size` is the width of one head."""
        scores = scores.float() / math.sqrt(size)
        if bias is not None:
            scores = scores + bias[:, None, None]
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min)
        return scores.softmax(dim=-1)

    def _absorbed(
        self, q: Tensor, memory: Tensor, mask: Tensor | None, bias: Tensor | None, weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Cross-attention without projecting the memory: q W_k^T attends to it, W_v maps the weighted sum."""
        heads, queries, size = q.shape[1:]
        to_k, to_v = self.memory.weight.unflatten(0, (2, heads, size))  # [H, d/H, d] each
        # einsum keeps one product per head over all rows; [B, H, N, d] -> [B, H * N, d]
        folded = torch.einsum("bhne,hed->bhnd", q, to_k).flatten(1, 2)
        scores = (folded @ memory.transpose(1, 2)).unflatten(1, (heads, queries))
        p = self._softmax(scores, size, mask, bias)
        dropped = F.dropout(p, self.dropout, self.training)
        gathered = (dropped.flatten(1, 2).to(memory.dtype) @ memory).unflatten(1, (heads, queries))
        shift = self.memory.bias.unflatten(0, (2, heads, 1, size))[1]
        mixed = torch.einsum("bhnd,hed->bhne", gathered, to_v)
        mixed = mixed + (dropped.sum(dim=-1, keepdim=True) * shift).to(mixed.dtype)
        return self.out(mixed.transpose(1, 2).flatten(2)), p.mean(dim=1) if weights else None


class Block(nn.Module):
    """Post-norm transformer block: attentions in the order given, then a feed-forward layer of four times the width.

    Args:
        shape: width d, heads, dropout after every sub-layer and on the attention weights.
        attentions: `self` and `cross`, in order.
    """

    def __init__(self, shape: Shape, attentions: Sequence[Literal["self", "cross"]]) -> None:
        super().__init__()
        width = shape.width
        self.attentions = nn.ModuleList(Attention(shape, cross=kind == "cross") for kind in attentions)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=EPS) for _ in range(len(attentions) + 1))
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(shape.dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Queries [B, N, d] -> [B, N, d] and, on request, the weights of the cross-attention.

        `mask` and `bias` [B, S] are those of the memory; without a memory they are those of the queries themselves.
        """
        seen: Tensor | None = None
        for attention, norm in zip(self.attentions, self.norms, strict=False):
            if attention.query is not None or memory is None:
                y, seen = attention(x, memory, mask, bias, weights)
            else:
                y, _ = attention(x)
            x = norm(x + self.drop(y))
        return self.norms[-1](x + self.drop(self.feed_forward(x))), seen


class Positions(nn.Module):
    """Adds the order of the steps to a sequence.

    Args:
        kind: none, sinusoidal (any length) or learned (`size` places; later steps share the last).
        width: d, even.
        size: learned places.
    """

    def __init__(self, kind: Literal["none", "sinusoidal", "learned"], width: int, size: int = 1024) -> None:
        super().__init__()
        one_of("model.position", kind, ("none", "sinusoidal", "learned"))
        self.kind = kind
        self.table = nn.Parameter(torch.randn(size, width) * 0.02) if kind == "learned" else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]."""
        if self.kind == "none":
            return x
        steps = torch.arange(x.shape[1], device=x.device)
        if self.table is not None:
            return x + self.table[steps.clamp(max=len(self.table) - 1)].to(x.dtype)
        return x + sinusoid(steps, x.shape[2]).to(x.dtype)


class Standardise(nn.Module):
    """Features to mean 0 and standard deviation 1 over the real steps seen in training; kept in checkpoints.

    Tables of hand-made features mix units (Hz, shares); without this the largest unit dominates. After the first epoch
    the statistics are those of the train split. Nothing is learnt from validation or test.

    Args:
        dim: feature width D.
        limit: greatest standardised value: a feature that was constant so far must not explode when it changes.
    """

    count: Tensor
    mean: Tensor
    away: Tensor

    def __init__(self, dim: int, limit: float = 10.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("away", torch.ones(dim))  # sum of squared distances to the mean

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, D] and mask [B, T] -> [B, T, D], zero where masked."""
        x = torch.where(mask[..., None], x, 0.0).to(self.mean.dtype)
        if self.training:
            self._learn(x.detach()[mask])
        std = (self.away / self.count.clamp(min=1)).sqrt().clamp(min=1e-5)
        return torch.where(mask[..., None], ((x - self.mean) / std).clamp(-self.limit, self.limit), 0.0)

    @torch.no_grad()
    def _learn(self, x: Tensor) -> None:
        """Adds steps [N, D] to the statistics: the parallel form of Welford's sums (Chan et al. 1983)."""
        if not len(x):
            return
        own, total = x.mean(dim=0), self.count + len(x)
        apart = own - self.mean
        before = torch.where(self.count > 0, self.away, 0.0)  # before the first step it holds ones
        self.away.copy_(before + (x - own).square().sum(dim=0) + apart.square() * (self.count * len(x) / total))
        self.mean.add_(apart * (len(x) / total))
        self.count.copy_(total)


def sinusoid(steps: Tensor, width: int) -> Tensor:
    """Sine and cosine of every step at geometric periods 2 pi ... 20000 pi: [T] -> [T, width]."""
    rate = torch.exp(torch.arange(0, width, 2, device=steps.device) * (-math.log(10000.0) / width))
    angle = steps[:, None].float() * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def initialise(module: nn.Module, width: int) -> None:
    """Gives every Linear of `module` weights N(0, std) and zero biases.

    std is 0.02 at width 768, as in BERT (Devlin et al. 2019), and follows 1 / sqrt(width), so that a narrow model
    starts with activations as large as a wide one's.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02 * math.sqrt(768 / width))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the steps that count: [B, T, d], [B, T] (bool or weights) -> [B, d]; zero where none does."""
    share = mask.to(x.dtype)
    return (share[..., None] * x).sum(dim=1) / share.sum(dim=1, keepdim=True).clamp(min=EPS)


def statistics(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and standard deviation over the real steps: x [B, T, D], zero where masked, mask [B, T] -> [B, 2 D]."""
    n = mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = x.sum(dim=1) / n
    away = torch.where(mask[..., None], x - mean[:, None], 0.0)
    return torch.cat([mean, (away.square().sum(dim=1) / n + EPS).sqrt()], dim=-1)
